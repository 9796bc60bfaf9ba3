"""Under a vertical layout: which party holds what of the network, of the records and of the labels."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from sim.data.facts import Facts
from sim.foundation.problems import ScenarioError, suggest
from sim.methods.messages import Kind
from sim.models.build import build_network
from sim.models.joined import JOINS, joined_network, network_on_columns
from sim.models.network import Block, Network, Part
from sim.scenario.spec import RunSpec

if TYPE_CHECKING:
    from sim.methods.job import Job
    from sim.methods.method import Method
    from sim.methods.protocol import Kinds, Protocol

Ints = NDArray[np.int64]
JOIN, PARTY = "join", "party"
"""Options of methods: how rows are joined, and which party trains alone."""
OF_THE_LABEL = frozenset({Kind.LABELS, Kind.BODY_OUTPUT, Kind.TAIL_GRADIENT})
"""What crosses to or from the label's holder alone."""


@dataclass(frozen=True, kw_only=True)
class Parties:
    """The parties of a run.

    Attributes
    ----------
    columns : tuple of tuple of int
        By party, the places of its features.
    holder : int
        Who holds the label.
    present : tuple of int
        Who takes part.
    network : Network
        On whole records.
    parts : tuple of Part
        The whole model, or all heads together, body and, U-shaped, tail.
    heads : tuple of Part
        By party; empty where the network is not cut.
    how : str
        How the server joins the parties' rows.
    """

    columns: tuple[tuple[int, ...], ...]
    holder: int
    present: tuple[int, ...]
    network: Network
    parts: tuple[Part, ...]
    heads: tuple[Part, ...] = ()
    how: str = ""

    def owner(self, name: str) -> int:
        """Return which party keeps a value of the network to itself."""
        if not self.heads:
            return self.present[0]
        found = (party for party, head in enumerate(self.heads) if name in head.shapes())
        return next(found, self.holder)

    def protocol_of(self, party: int, protocol: Protocol) -> Protocol:
        """Return what a party exchanges: without labels and tail unless it holds the label."""
        if party == self.holder:
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
    everyone, outcome = tuple(range(len(facts.columns))), spec.data.outcome_of_a_record
    try:
        with torch.random.fork_rng(devices=[]):
            if method.cuts:
                how = _option(spec, method, JOIN, JOINS)
                joined = joined_network(
                    settings, facts.columns, features, classes, outcome, protocol.topology, how, behind
                )
                return Parties(
                    columns=facts.columns,
                    holder=facts.label_holder,
                    present=everyone,
                    network=joined.network,
                    parts=joined.parts,
                    heads=joined.heads,
                    how=how,
                )
            present = everyone
            if method.alone:
                named = _option(spec, method, PARTY, ("", *facts.names)) if PARTY in method.options else ""
                present = (facts.names.index(named) if named else facts.label_holder,)
                network = network_on_columns(settings, facts.columns[present[0]], features, classes, outcome)
            else:
                network = build_network(settings, (features,), classes, outcome)
    except ValueError as error:
        raise ScenarioError([f"model: {error}"]) from None
    return Parties(
        columns=facts.columns,
        holder=facts.label_holder,
        present=present,
        network=network,
        parts=(network.whole,),
    )


def trained_apart(parts: Sequence[Part], frozen: Collection[str], parties: Parties | None) -> int:
    """Return how many parts train, each at its place: every party's head counts."""
    heads = len(parties.heads) if parties and "head" not in frozen else 0
    return len(parts) - len(frozen) + max(0, heads - 1)


def drawn_by(parties: Parties | None, clinics: Sequence[int] | Ints) -> Ints:
    """Return whose streams draw clinics' batches: parties train on the same patients, and share one."""
    of_all = np.asarray(clinics, dtype=np.int64)
    return of_all if parties is None else np.zeros_like(of_all)


def part_at(job: Job, name: str, clinic: int) -> Part:
    """Return a part as a clinic has it: of several parties' heads, its own."""
    if job.parties is not None and job.parties.heads and name == "head":
        return job.parties.heads[clinic]
    return job.part(name)


def protocol_at(job: Job, clinic: int) -> Protocol:
    """Return what a clinic exchanges."""
    return job.protocol if job.parties is None else job.parties.protocol_of(clinic, job.protocol)


def patients(job: Job) -> int:
    """Return the number of training records at all clinics together; parties hold columns of the same ones."""
    return sum(job.sizes) if job.parties is None else job.sizes[0]


def releases_of_a_row(parties: Parties | None, kind: str) -> int:
    """Return how many rows of a kind leave for one record in a batch: each party's of a patient but those of labels."""
    return 1 if parties is None or kind in OF_THE_LABEL else len(parties.heads)


def seen_by(parties: Parties, party: int, x: NDArray[np.float32], y: Ints) -> tuple[NDArray[np.float32], Ints]:
    """Return what a party has of all patients' records: its columns and, if it holds or is given them, the labels."""
    own, columns = np.zeros_like(x), list(parties.columns[party])
    own[:, columns] = x[:, columns]
    return own, y if party == parties.holder or parties.present == (party,) else np.zeros_like(y)


def _option(spec: RunSpec, method: Method, key: str, known: tuple[str, ...]) -> str:
    value = str(spec.strategy.options.get(key, method.options[key]))
    if value not in known:
        listed = tuple(name for name in known if name)
        raise ScenarioError([f'strategies.options.{key}: there is no "{value}"; {suggest(value, listed)}'])
    return value
