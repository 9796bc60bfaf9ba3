"""What edge servers cost: the legs of a batch that goes through them, and what crosses between them and the cloud."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sim.methods.crossing import crossing_form, label_form
from sim.methods.edges import Edges, as_clinics_see, as_cloud_sees, meets_at_cloud
from sim.methods.messages import Kind
from sim.methods.protocol import HEADER_BYTES, HEADERS, Direction, Kinds, Traffic
from sim.plan.costs import FLOAT_BYTES, PartCost
from sim.plan.load import EdgeLoad, Ints, Leg, RoundLoad
from sim.scenario.clinics import EdgeResources
from sim.scenario.edges import edge_resources
from sim.tensor.cut_rows import form_bytes

if TYPE_CHECKING:
    from sim.methods.job import Job


class EdgeCounts:
    """The counts of edge servers over a run.

    Parameters
    ----------
    job : Job
        With all its places.
    edges : Edges
    costs : mapping of str to PartCost

    Attributes
    ----------
    traffic : Traffic
        Between edge servers and cloud, ``[edge]``: each clinic's rows in messages of their own, and parameters once for
        all the clinics that a message is about.
    flops : ndarray
        ``[edge]``
    edges : Edges
    below : Job
        As the clinics see it.
    hops : bool
        Whether batches go on to the cloud; otherwise the edge servers have the body, and averages alone go on.
    """

    def __init__(self, job: Job, edges: Edges, costs: Mapping[str, PartCost]) -> None:
        self._job, self.edges, self._costs = job, edges, costs
        self.below, self._above = as_clinics_see(job), as_cloud_sees(job)
        self._scalars = sum(self._numbers(part) for part in self._above.protocol.clinic_parts)
        slots, adam = len(job.optimizer.slots), job.optimizer.name == "adam"
        self._state = FLOAT_BYTES * slots * self._scalars + 8 * adam * len(self._above.protocol.clinic_parts)
        self._up, self._down = job.protocol.batch_up, job.protocol.batch_down
        self.hops = job.method.edge_round is None
        self.traffic: Traffic = {}
        self.flops = np.zeros(len(edges.names), dtype=np.int64)
        self._widest = np.zeros(len(job.sizes), dtype=np.int64)

    def _numbers(self, part: str) -> int:
        return sum(map(math.prod, self._above.part(part).shapes().values()))

    def message(self, direction: Direction, kinds: Kinds) -> list[Leg]:
        """Return a message by way of an edge server, with its middle's pass between clinic and cloud."""
        middle = self._costs["middle"]
        below, above = (sum(self._row_bytes(side, kind) for kind in kinds) for side in (self.below, self._above))
        if direction == "up":
            work = [Leg("edge", middle.forward_flops)] if Kind.SMASHED in kinds else []
            return [Leg("up", below), *work, Leg("edge-up", above)]
        work = [Leg("edge", middle.backward_flops)] if Kind.CUT_GRADIENT in kinds else []
        return [Leg("edge-down", above), *work, Leg("down", below)]

    def through(self, load: RoundLoad, server_round: int, rounds: int) -> RoundLoad:
        """Return a round's load with what it asks of edge servers, and of the cloud in their place."""
        job, movement = self._job, self._job.protocol.movement
        home, edges, back = self.edges.home[load.clinics], len(self.edges.names), load.returns

        def by_edge(lanes: NDArray[Any]) -> Ints:
            return np.bincount(home, lanes, edges).astype(np.int64)

        together = movement == "averaged" and not job.method.sequential
        moved = FLOAT_BYTES * self._scalars if self._above.protocol.crosses else 0
        moved += self._state if movement == "handed-on" else 0
        if not self.hops:
            begins, ends = (
                np.full(edges, int(meets_at_cloud(job, at, rounds))) for at in (server_round - 1, server_round)
            )
        elif together:
            begins, ends = np.minimum(by_edge(back), 1) + by_edge(~back), np.minimum(by_edge(back), 1)
        else:
            begins, ends = by_edge(load.turns), by_edge(load.ends)
        received = int(ends.sum()) * self._scalars if movement == "averaged" else 0
        bodies = self.hops and job.method.body == "copies"
        received += int(back.sum()) * self._numbers("body") if bodies else 0
        own = EdgeLoad(
            home=home,
            together=together,
            begin_bytes=moved,
            end_bytes=moved,
            begins=begins,
            ends=ends,
            common_flops=np.float64(2 * self._scalars * together) * by_edge(back),
        )
        return replace(load, edges=own, common_server_flops=2.0 * received)

    def count(self, load: RoundLoad, own: EdgeLoad) -> None:
        """Count a round."""
        home, edges = own.home, len(self.edges.names)
        self.flops += np.bincount(home, load.flops("edge"), edges).astype(np.int64) + own.common_flops.astype(np.int64)
        np.maximum.at(self._widest, load.clinics[load.lane_and_step[0]], load.rows)
        messages: tuple[tuple[Direction, tuple[Kinds, ...]], ...] = ("up", self._up), ("down", self._down)
        for way, of_batch in messages if self.hops else ():
            for kind in (kind for kinds in of_batch for kind in kinds):
                self._cross(way, kind, home, load.records * self._row_bytes(self._above, kind))
            self._cross(way, HEADERS, home, load.steps * len(of_batch) * HEADER_BYTES)
        every = np.arange(edges)
        moved: tuple[tuple[Direction, int, Ints], ...]
        moved = ("down", own.begin_bytes, own.begins), ("up", own.end_bytes, own.ends)
        for way, payload, times in moved:
            if not payload or not times.any():
                continue
            state = self._state if self._job.protocol.movement == "handed-on" else 0
            self._cross(way, "model", every, times * (payload - state))
            if state:
                self._cross(way, "optimizer", every, times * state)
            self._cross(way, HEADERS, every, times * HEADER_BYTES)

    def _cross(self, way: Direction, kind: str, at: Ints, size: Ints) -> None:
        counted = self.traffic.setdefault((way, kind), np.zeros(len(self.edges.names), dtype=np.int64))
        np.add.at(counted, at, size)

    def peak_bytes(self) -> Ints:
        """Return ``[edge]`` what each keeps at once: a copy of its parts, in training, and a batch for each clinic."""
        parts = [self._costs[name] for name in self._job.protocol.edge_parts]
        copies = 2 + len(self._job.optimizer.slots)
        own = copies * sum(part.parameters for part in parts)
        received = math.prod(self._costs["head"].output_shape)
        of_batch = self._widest * (received + sum(part.activations for part in parts))
        return np.bincount(self.edges.home, FLOAT_BYTES * (own + of_batch), len(self.edges.names)).astype(np.int64)

    def _row_bytes(self, side: Job, kind: Kind) -> int:
        """Return what a record's row of a kind takes between clinics and edge server, or between that and the cloud."""
        if kind == Kind.LABELS:
            return form_bytes(label_form(self._job))
        at_cut = "head" if side is self.below else "middle"
        part = at_cut if kind in (Kind.SMASHED, Kind.CUT_GRADIENT) else "body"
        return form_bytes(crossing_form(side, kind, self._costs[part].output_shape))


@dataclass(frozen=True, kw_only=True)
class EdgePlan:
    """What a run will ask of one edge server."""

    name: str
    clinics: tuple[str, ...]
    # bytes_up, bytes_down: to and from the cloud
    bytes_up: int
    bytes_down: int
    flops: int
    peak_bytes: int  # What it keeps at once
    # memory_bytes, joules: as for a clinic
    memory_bytes: float | None
    joules: float | None


def edges_at(job: Job) -> tuple[EdgeResources, ...]:
    """Return links and computers of a run's edge servers."""
    return () if job.edges is None else edge_resources(job.spec.edges, job.edges.names, job.seed)


def edge_plans(job: Job, counts: EdgeCounts, resources: Sequence[EdgeResources]) -> tuple[EdgePlan, ...]:
    """Return what was counted by edge server."""
    own, peaks = counts.edges, counts.peak_bytes()
    up, down = (sum((s for (w, _), s in counts.traffic.items() if w == way), 0 * peaks) for way in ("up", "down"))
    return tuple(
        EdgePlan(
            name=name,
            clinics=tuple(job.facts.names[k] for k in own.clinics[edge]),
            bytes_up=int(up[edge]),
            bytes_down=int(down[edge]),
            flops=int(counts.flops[edge]),
            peak_bytes=int(peaks[edge]),
            memory_bytes=its.own.memory_bytes,
            joules=its.own.joules(
                float(counts.flops[edge]) / its.own.compute_flop_per_s,
                8.0 * float(up[edge]) / its.own.uplink_bits_per_s
                + 8.0 * float(down[edge]) / its.own.downlink_bits_per_s,
            ),
        )
        for edge, (name, its) in enumerate(zip(own.names, resources, strict=True))
    )


def edge_columns(edges: Sequence[EdgePlan]) -> dict[str, int]:
    """Return the columns of ``runs.parquet`` about edge servers, all together; none where there are none."""
    if not edges:
        return {}
    return {
        "edge_bytes_up": sum(edge.bytes_up for edge in edges),
        "edge_bytes_down": sum(edge.bytes_down for edge in edges),
        "edge_flops": sum(edge.flops for edge in edges),
        "peak_edge_bytes": max(edge.peak_bytes for edge in edges),
    }
