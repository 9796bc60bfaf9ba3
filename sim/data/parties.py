"""Which features each party of a vertical layout holds, in which regions, and of whom."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.foundation.problems import ScenarioError, suggest
from sim.foundation.rng import stream
from sim.foundation.text import listed
from sim.scenario.parties import Party


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where the parties of a vertical layout are: in each region that has a party, that party has a place of its own.

    Attributes
    ----------
    names : tuple of str
        ``[place]``; without regions those of the parties.
    regions : tuple of str
        Their names; empty where all patients are of one region.
    region_of, party_of : tuple of int
        ``[place]``
    columns : tuple of tuple of int
        ``[place]`` the features that it holds.
    holders : tuple of int
        By region, the place that has the label.
    """

    names: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    region_of: tuple[int, ...] = ()
    party_of: tuple[int, ...] = ()
    columns: tuple[tuple[int, ...], ...] = ()
    holders: tuple[int, ...] = ()

    @classmethod
    def of(cls, parties: Sequence[Party], regions: Sequence[str], features: Sequence[str]) -> "Places":
        """Lay parties out; raises ``ScenarioError`` with one line for each column or region that there is not."""
        columns = held_columns(parties, features)
        if not parties:
            return cls()
        there: list[list[int]] = np.argwhere(present(parties, regions)).tolist()
        return cls(
            names=tuple(f"{regions[r]}: {parties[p].name}" if regions else parties[p].name for r, p in there),
            regions=tuple(regions),
            region_of=tuple(region for region, _ in there),
            party_of=tuple(number for _, number in there),
            columns=tuple(columns[number] for _, number in there),
            holders=tuple(place for place, (_, number) in enumerate(there) if parties[number].label),
        )

    @property
    def absent_anywhere(self) -> bool:
        """Whether a region does without a party that another has."""
        return len(self.names) < len(self.holders) * len(set(self.party_of))

    def absent(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Yield each region and the features of a party that it does not have."""
        columns = dict(zip(self.party_of, self.columns, strict=True))
        there = set(zip(self.region_of, self.party_of, strict=True))
        for region in range(len(self.regions)):
            yield from ((region, own) for party, own in columns.items() if (region, party) not in there)


def present(parties: Sequence[Party], regions: Sequence[str]) -> NDArray[np.bool_]:
    """Return ``[region, party]`` who is where; raises ``ScenarioError`` for each region that there is not."""
    problems = [
        f'scenario: parties.{number}.regions: "{name}" is no region; {suggest(name, tuple(regions))}'
        for number, party in enumerate(parties)
        for name in party.regions or ()
        if name not in regions
    ]
    if problems:
        raise ScenarioError(problems)
    return np.array(
        [[party.regions is None or name in party.regions for party in parties] for name in regions or ("",)],
        dtype=np.bool_,
    ).reshape(-1, len(parties))


def held_columns(parties: Sequence[Party], features: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Return the places of each party's columns among the features.

    A category's column stands for its levels, ``column_level``, and a filled-in one also for what says where.

    Raises
    ------
    ScenarioError
        With one line for each column that is no feature, or one for the features that no party holds: methods for
        clinics and one place with all columns would train on them all the same.
    """
    places = {name: place for place, name in enumerate(features)}
    stated = {column for party in parties for column in party.columns}
    problems, held = [], []
    for number, party in enumerate(parties):
        own: list[int] = []
        for column in party.columns:
            levels = [name for name in features if name.startswith(f"{column}_") and name not in stated]
            found = [places[name] for name in (column, *levels) if name in places]
            if not found:
                problems.append(
                    f'scenario: parties.{number}.columns: "{column}" is no feature; {suggest(column, tuple(features))}'
                )
            own += found
        held.append(tuple(sorted(set(own))))
    held_anywhere = {place for own in held for place in own}
    if parties and not problems and (left := [f'"{name}"' for name in features if places[name] not in held_anywhere]):
        some = listed(left if len(left) <= 3 else [*left[:2], f"{len(left) - 2} others"])
        it = "it" if len(left) == 1 else "them"
        problems.append(
            f"scenario: parties: no party holds {some}; name {it} in a party's columns, or take {it} out of "
            "data.features"
        )
    if problems:
        raise ScenarioError(problems)
    return tuple(held)


def known_patients(parties: Sequence[Party], patients: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Draw whom each party knows: ``[party, record]``, its share of the patients, rounded.

    Parameters
    ----------
    patients : ndarray
        ``[record]`` number of the patient.
    """
    everyone, of_record = np.unique(patients, return_inverse=True)
    known = np.ones((len(parties), len(everyone)), dtype=np.bool_)
    for number, party in enumerate(parties):
        unknown = len(everyone) - round(party.share * len(everyone))
        known[number, stream(seed, "overlap", clinic=number).permutation(len(everyone))[:unknown]] = False
    return known[:, of_record]
