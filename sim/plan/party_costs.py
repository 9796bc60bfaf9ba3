"""What each party's batches cost in vertical split learning, where heads differ and one has the label."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sim.methods.alignment import stages_of
from sim.methods.job import Job
from sim.methods.parties import OF_THE_LABEL, Parties, crossing_at
from sim.methods.protocol import HEADER_BYTES, Direction, Kinds
from sim.plan.costs import PartCost, part_costs
from sim.plan.load import Ints, Leg, Place
from sim.scenario.clinics import ClinicResources


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
    row_bytes : callable
        What one record's row of a kind takes.

    Attributes
    ----------
    heads : tuple of PartCost
        By place; empty where the network is not cut.
    """

    def __init__(
        self, job: Job, parties: Parties, costs: Mapping[str, PartCost], row_bytes: Callable[[str], int]
    ) -> None:
        self._job, self._parties, self._costs, self._row_bytes = job, parties, costs, row_bytes
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
        sizes = {name: math.prod(shape) for own in shapes for name, shape in own.items()}
        return np.array([sum(sizes[name] for name in crossing_at(self._job, k)) for k in range(len(self.heads))])

    def averaged(self, places: Ints) -> Ints:
        """Return ``[lane]`` the numbers that the server averages of each of some places, and of the body behind it."""
        if self._job.method.body != "joint-copies":
            return np.zeros_like(places)
        body = sum(map(math.prod, self._job.part("body").shapes().values()))
        return self.crossing()[places] + body * self._parties.at_holders(places)

    def work(self, place: Place, part: str, *passes: str) -> Leg:
        """Return passes through a part; what a region's body and tail do is counted at its label's holder."""
        if part == "head":
            return Leg(place, 0, tuple(head.flops(*passes) for head in self.heads))
        at_holders = self._parties.at_holders(np.arange(len(self.heads)))
        return Leg(place, 0, tuple(np.where(at_holders, self._costs[part].flops(*passes), 0).tolist()))

    def message(self, direction: Direction, kinds: Kinds) -> Iterator[Leg]:
        """Yield a message of the parties that send or get rows of some of these kinds."""
        there = np.array([sends(self._parties, kind, np.arange(len(self.heads))) for kind in kinds])
        sizes = np.array([self._row_bytes(kind) for kind in kinds]) @ there
        yield Leg(direction, 0, tuple(np.where(there.any(0), sizes, -1).tolist()))


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
