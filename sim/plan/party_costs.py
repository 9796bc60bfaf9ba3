"""What each party's batches cost in vertical split learning, where heads differ and one has the label."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sim.methods.alignment import stages_of
from sim.methods.job import Job
from sim.methods.messages import Kind
from sim.methods.parties import OF_THE_LABEL, Parties, crossing_at
from sim.methods.protocol import HEADER_BYTES, Direction
from sim.plan.costs import PartCost, part_costs
from sim.plan.load import Leg, Place
from sim.scenario.clinics import ClinicResources

Ints = NDArray[np.int64]


def sends(parties: Parties | None, kind: str, clinics: Ints) -> NDArray[np.bool_]:
    """Return ``[lane]`` whether rows of a kind cross; those of the label do for its holder alone."""
    if parties is None or kind not in OF_THE_LABEL:
        return np.ones(len(clinics), dtype=np.bool_)
    return parties.at_holders(clinics)


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
        By place; empty where the network is not cut.
    """

    def __init__(self, job: Job, parties: Parties, costs: Mapping[str, PartCost]) -> None:
        self._job, self._parties, self._costs = job, parties, costs
        own = [(parties.head_of(k), len(columns)) for k, columns in enumerate(parties.columns)] if parties.heads else []
        self.heads = tuple(part_costs((head,), (width,), job.frozen)["head"] for head, width in own)

    def scalars(self, copies: int, widest: Ints) -> Ints:
        """Return ``[place]`` the numbers that each keeps at once: copies of its parts, and its largest batch."""
        parts = [[head] for head in self.heads]
        if "tail" in self._costs:
            for holder in self._parties.holders:
                parts[holder].append(self._costs["tail"])
        return np.array(
            [
                copies * sum(part.parameters for part in own)
                + int(rows) * (len(columns) + sum(part.activations for part in own))
                for own, columns, rows in zip(parts, self._parties.columns, widest, strict=True)
            ]
        )

    def crossing(self) -> Ints:
        """Return ``[place]`` the numbers of its parts that cross at the beginning and the end of a round."""
        shapes = [self._job.part(part).shapes() for part in self._job.protocol.clinic_parts]
        sizes = {name: shape.numel() for own in shapes for name, shape in own.items()}
        return np.array([sum(sizes[name] for name in crossing_at(self._job, k)) for k in range(len(self.heads))])

    def averaged(self, places: Ints) -> Ints:
        """Return ``[lane]`` the numbers that the server averages of each of some places, and of the body behind it."""
        if self._job.method.body != "joint-copies":
            return np.zeros_like(places)
        body = sum(shape.numel() for shape in self._job.part("body").shapes().values())
        return self.crossing()[places] + body * self._parties.at_holders(places)

    def legs(self, row_bytes: Callable[[str], int]) -> Iterator[Leg]:
        """Return the way of one batch of all parties; what a region's body does is counted at its label's holder."""
        body, everyone = self._costs["body"], np.arange(len(self.heads))
        at_holders = self._parties.at_holders(everyone)

        def rows(direction: Direction, *kinds: str) -> Leg:
            there = np.array([sends(self._parties, kind, everyone) for kind in kinds])
            sizes = np.array([row_bytes(kind) for kind in kinds]) @ there
            return Leg(direction, 0, tuple(np.where(there.any(0), sizes, -1).tolist()))

        def at_holder(place: Place, flops: int) -> Leg:
            return Leg(place, 0, tuple(np.where(at_holders, flops, 0).tolist()))

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
    """Return how long parties take to find whom they share: each stage ends when the region's slowest has done it."""
    regions = [
        sum(max(_stage_seconds(place, amount, resources[k]) for k, amount in amounts.items()) for place, amounts in own)
        for own in stages_of(job)
    ]
    return max(regions, default=0.0)


def _stage_seconds(place: str, amount: int, own: ClinicResources) -> float:
    if place == "clinic":
        return amount / own.compute_flop_per_s
    rate = own.uplink_bits_per_s if place == "up" else own.downlink_bits_per_s
    return own.latency_s + 8.0 * (amount + HEADER_BYTES) / rate
