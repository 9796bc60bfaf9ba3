"""What each party's batches cost in vertical split learning, where heads differ and one has the label."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sim.methods.alignment import stages_of
from sim.methods.job import Job
from sim.methods.messages import Kind
from sim.methods.parties import OF_THE_LABEL, Parties
from sim.methods.protocol import HEADER_BYTES, Direction
from sim.plan.costs import PartCost, part_costs
from sim.plan.load import Leg, Place
from sim.scenario.clinics import ClinicResources

Ints = NDArray[np.int64]


def sends(parties: Parties | None, kind: str, clinics: Ints) -> NDArray[np.bool_]:
    """Return ``[lane]`` whether rows of a kind cross; those of the label do for its holder alone."""
    if parties is None or kind not in OF_THE_LABEL:
        return np.ones(len(clinics), dtype=np.bool_)
    return np.equal(clinics, parties.holder)


class PartyCosts:
    """The costs of the parties' own parts.

    Parameters
    ----------
    job : Job
    parties : Parties
    costs : mapping of str to PartCost
        Of all heads together, body and tail.

    Attributes
    ----------
    heads : tuple of PartCost
        By party; empty where the network is not cut.
    """

    def __init__(self, job: Job, parties: Parties, costs: Mapping[str, PartCost]) -> None:
        self._job, self._parties, self._costs = job, parties, costs
        own = zip(parties.heads, parties.columns, strict=False)
        self.heads = tuple(part_costs((head,), (len(columns),), job.frozen)["head"] for head, columns in own)

    def scalars(self, copies: int, widest: Ints) -> Ints:
        """Return ``[party]`` the numbers that each keeps at once: copies of its parts, and its largest batch."""
        parts = [[head] for head in self.heads]
        if "tail" in self._costs:
            parts[self._parties.holder].append(self._costs["tail"])
        return np.array(
            [
                copies * sum(part.parameters for part in own)
                + int(rows) * (len(columns) + sum(part.activations for part in own))
                for own, columns, rows in zip(parts, self._parties.columns, widest, strict=True)
            ]
        )

    def legs(self, row_bytes: Callable[[str], int]) -> Iterator[Leg]:
        """Return the way of one batch of all parties; what the one body does is counted at the label's holder."""
        body, everyone = self._costs["body"], np.arange(len(self.heads))

        def rows(direction: Direction, *kinds: str) -> Leg:
            there = np.array([sends(self._parties, kind, everyone) for kind in kinds])
            sizes = np.array([row_bytes(kind) for kind in kinds]) @ there
            return Leg(direction, 0, tuple(np.where(there.any(0), sizes, -1).tolist()))

        def at_holder(place: Place, flops: int) -> Leg:
            return Leg(place, 0, tuple(np.where(everyone == self._parties.holder, flops, 0).tolist()))

        yield Leg("clinic", 0, tuple(head.forward_flops for head in self.heads))
        yield rows("up", *self._job.protocol.batch_up[0])
        if self._job.protocol.topology == "vanilla":
            yield at_holder("server", body.forward_flops + body.backward_flops)
        else:
            tail = self._costs["tail"]
            yield at_holder("server", body.forward_flops)
            yield rows("down", Kind.BODY_OUTPUT)
            yield at_holder("clinic", tail.forward_flops + tail.backward_flops)
            yield rows("up", Kind.TAIL_GRADIENT)
            yield at_holder("server", body.backward_flops)
        yield rows("down", Kind.CUT_GRADIENT)
        yield Leg("clinic", 0, tuple(head.backward_flops for head in self.heads))
        if self._job.joint:
            yield rows("up", Kind.NORMS)
            yield Leg("server", 0)
            yield rows("down", Kind.CLIP_FACTORS)


def alignment_seconds(job: Job, resources: Sequence[ClinicResources]) -> float:
    """Return how long parties take to find whom they share: each stage ends when the slowest has done it."""
    seconds = 0.0
    for place, amounts in stages_of(job):
        seconds += max(_stage_seconds(place, amount, own) for amount, own in zip(amounts, resources, strict=True))
    return seconds


def _stage_seconds(place: str, amount: int, own: ClinicResources) -> float:
    if place == "clinic":
        return amount / own.compute_flop_per_s
    rate = own.uplink_bits_per_s if place == "up" else own.downlink_bits_per_s
    return own.latency_s + 8.0 * (amount + HEADER_BYTES) / rate
