"""Which features each party of a vertical layout holds."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sim.foundation.problems import ScenarioError, suggest
from sim.foundation.rng import stream
from sim.scenario.parties import Party


def held_columns(parties: Sequence[Party], features: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Return the places of each party's columns among the features.

    A category's column stands for its levels, ``column_level``, and a filled-in one also for what says where.

    Raises
    ------
    ScenarioError
        With one line for each column that is no feature.
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
