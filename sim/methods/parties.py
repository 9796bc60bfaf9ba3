"""Under a vertical layout: which party holds what of the network, of the records and of the labels."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sim.data.facts import Facts
from sim.data.parties import Places
from sim.foundation.problems import ScenarioError, suggest
from sim.methods.messages import Kind
from sim.models.build import build_network
from sim.models.joined import joined_network, network_behind
from sim.models.layers import JOINS, Columns, Known
from sim.models.network import Block, Network, Part
from sim.scenario.parties import group_at, unknown_regions
from sim.scenario.spec import RunSpec
from sim.scenario.study import ClinicGroup

if TYPE_CHECKING:
    from sim.data.federation import Records
    from sim.methods.job import Job
    from sim.methods.method import Method
    from sim.methods.protocol import Kinds, Protocol

Ints = NDArray[np.int64]
JOIN, PARTY = "join", "party"
"""Options of methods: how rows are joined, and which party trains alone."""
OF_THE_LABEL = frozenset({Kind.LABELS, Kind.BODY_OUTPUT, Kind.TAIL_GRADIENT})
"""What crosses to or from the label's holder alone."""


@dataclass(frozen=True, kw_only=True)
class Parties(Places):
    """The parties of a run, in each region that has them; who stands for a clinic is a party's place in a region.

    Attributes
    ----------
    present : tuple of int
        The places that take part.
    network : Network
        On whole records.
    parts : tuple of Part
        The whole model, or all heads together, body and, U-shaped, tail.
    heads : tuple of Part
        By party; empty where the network is not cut.
    how : str
        How the server joins the parties' rows.
    """

    present: tuple[int, ...]
    network: Network
    parts: tuple[Part, ...]
    heads: tuple[Part, ...] = ()
    how: str = ""

    @property
    def of_regions(self) -> tuple[int, ...]:
        """By place, who holds the label of its region."""
        return tuple(self.holders[region] for region in self.region_of)

    def head_of(self, place: int) -> Part:
        """Return the head that a place has."""
        return self.heads[self.party_of[place]]

    def at_holders(self, places: Ints) -> NDArray[np.bool_]:
        """Return which of some places hold the label."""
        return np.isin(places, self.holders)

    def owners(self, name: str) -> list[int]:
        """Return, by region, which place keeps a value of the network to itself.

        In a region without such a party it is anybody, whose value nobody trains or uses.
        """
        regions = range(len(self.holders))
        if not self.heads:
            return [next(k for k in self.present if self.region_of[k] == region) for region in regions]
        party = next((number for number, head in enumerate(self.heads) if name in head.shapes()), None)
        there = dict(zip(zip(self.region_of, self.party_of, strict=True), range(len(self.party_of)), strict=True))
        return [
            self.holders[region] if party is None else there.get((region, party), self.holders[region])
            for region in regions
        ]

    def protocol_of(self, place: int, protocol: Protocol) -> Protocol:
        """Return what a place exchanges: without labels and tail unless it holds the label."""
        if place in self.holders:
            return protocol

        def left(messages: tuple[Kinds, ...]) -> tuple[Kinds, ...]:
            kinds = (tuple(kind for kind in each if kind not in OF_THE_LABEL) for each in messages)
            return tuple(each for each in kinds if each)

        return replace(
            protocol,
            clinic_parts=tuple(part for part in protocol.clinic_parts if part != "tail"),
            batch_up=left(protocol.batch_up),
            batch_down=left(protocol.batch_down),
            once_up=tuple(kind for kind in protocol.once_up if kind not in OF_THE_LABEL),
        )


def parties_of(
    spec: RunSpec, facts: Facts, method: Method, protocol: Protocol, behind: Block | None = None
) -> Parties | None:
    """Return the parties of a run, with a block without parameters at the end of each head where one is given.

    None under a horizontal layout.

    Raises
    ------
    ScenarioError
        If the model or an option of the method does not fit.
    """
    if not facts.vertical:
        return None
    settings, features, classes = spec.model, facts.input_shape[0], len(facts.classes)
    places, outcome = facts.places, spec.data.outcome_of_a_record
    of_party = dict(zip(places.party_of, places.columns, strict=True))
    present = tuple(range(len(places.names)))
    parts: tuple[Part, ...] = ()
    heads: tuple[Part, ...] = ()
    how = ""
    try:
        if method.cuts:
            how = _option(spec, method, JOIN, JOINS)
            network, parts, heads = joined_network(
                settings,
                [of_party[party] for party in sorted(of_party)],
                features,
                classes,
                outcome,
                protocol.topology,
                how,
                behind,
                everywhere=not places.absent_anywhere,
            )
        elif method.alone:
            names = tuple(party.name for party in spec.parties)
            named = _option(spec, method, PARTY, ("", *names)) if PARTY in method.options else ""
            alone = names.index(named) if named else places.party_of[places.holders[0]]
            present = tuple(k for k in present if places.party_of[k] == alone)
            if len(present) < len(places.holders):
                raise ScenarioError(f"strategies.options.{PARTY}: not every region has {named}; name another")
            own = of_party[alone]
            inner = build_network(settings, (len(own),), classes, outcome)
            network = network_behind(Columns(own), inner, features)
        else:
            network = build_network(settings, (features,), classes, outcome)
            if places.absent_anywhere:
                network = network_behind(Known(), network, features)
    except ValueError as error:
        raise ScenarioError(f"model: {error}") from None
    parts = parts or (network.whole,)
    return Parties(**vars(places), present=present, network=network, parts=parts, heads=heads, how=how)


def groups_at(spec: RunSpec, facts: Facts) -> tuple[ClinicGroup, ...]:
    """Return the links and computers of a run's clinics; of parties, place by place."""
    if not facts.vertical:
        return spec.clinics
    places, found = facts.places, []
    unknown_regions(spec.regions, places.regions)
    for name, region, party in zip(places.names, places.region_of, places.party_of, strict=True):
        where = places.regions[region] if places.regions else ""
        group = group_at(spec.clinics[party], spec.regions, where, spec.parties[party].name)
        found.append(group.model_copy(update={"sites": (name,)}))
    return tuple(found)


def trained_apart(parts: Sequence[Part], frozen: Collection[str], parties: Parties | None) -> int:
    """Return how many parts train, each at its place: every party's head counts."""
    heads = len(parties.heads) if parties and "head" not in frozen else 0
    return len(parts) - len(frozen) + max(0, heads - 1)


def drawn_by(parties: Parties | None, clinics: Sequence[int] | Ints) -> Ints:
    """Return whose streams draw clinics' batches: parties of a region train on the same patients, and share its own."""
    of_all = np.asarray(clinics, dtype=np.int64)
    return of_all if parties is None else np.array(parties.region_of, dtype=np.int64)[of_all]


def part_at(job: Job, name: str, clinic: int) -> Part:
    """Return a part as a clinic has it: of several parties' heads, its own."""
    if job.parties is not None and job.parties.heads and name == "head":
        return job.parties.head_of(clinic)
    return job.part(name)


def crossing_at(job: Job, clinic: int) -> tuple[str, ...]:
    """Return the names of the values that cross to and from a clinic: of its own parts, those that others share."""
    parts = (part_at(job, name, clinic) for name in protocol_at(job, clinic).clinic_parts)
    return tuple(name for part in parts for name in part.shapes() if name not in job.apart)


def protocol_at(job: Job, clinic: int) -> Protocol:
    """Return what a clinic exchanges."""
    return job.protocol if job.parties is None else job.parties.protocol_of(clinic, job.protocol)


def patients(job: Job) -> int:
    """Return the number of training records at all clinics together; a region's parties hold columns of the same."""
    return sum(job.sizes if job.parties is None else (job.sizes[k] for k in job.parties.holders))


def releases_of_a_row(parties: Parties | None, kind: str) -> int:
    """Return how many rows of a kind leave for one record in a batch: each party's of a patient but those of labels."""
    return 1 if parties is None or kind in OF_THE_LABEL else len(parties.heads)


def seen_by(parties: Parties, place: int, train: Records) -> tuple[NDArray[np.float32], Ints]:
    """Return what a place has of its region's patients: its columns and, if it holds or is given them, the labels."""
    rows = slice(*train.offsets[parties.region_of[place] :][:2].tolist())
    x, y = train.x[rows], train.y[rows]
    own, columns = np.zeros_like(x), list(parties.columns[place])
    own[:, columns] = x[:, columns]
    given = not parties.heads and place in parties.present and len(parties.present) == len(parties.holders)
    return own, y if place in parties.holders or given else np.zeros_like(y)


def _option(spec: RunSpec, method: Method, key: str, known: tuple[str, ...]) -> str:
    value = str(spec.strategy.options.get(key, method.options[key]))
    if value not in known:
        listed = tuple(name for name in known if name)
        raise ScenarioError(f'strategies.options.{key}: there is no "{value}"; {suggest(value, listed)}')
    return value
