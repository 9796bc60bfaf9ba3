"""How long a round takes: a clock turns each clinic's batches into seconds.

A round of one clinic is: the parts that are sent to it, its batches one after another, the parts it sends back. Nothing
is pipelined within a clinic: the head's forward pass of a batch needs the head that the cut gradient of the batch
before has trained. Clinics run side by side in SplitFed and federated learning, one after another in the relay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from sim.plan.durations import Durations
from sim.plan.load import Floats, RoundLoad
from sim.scenario.clinics import ClinicResources, EdgeResources, ServerResources


@dataclass(frozen=True, kw_only=True)
class Span:
    """A stretch of time in which something is done for a clinic."""

    lane: int  # -1 for the aggregation
    phase: str
    # start, end: seconds since the round began
    start: float
    end: float
    worker: int = field(default=0, kw_only=True)  # Of the server, from 1; 0 where none is at work


@dataclass(frozen=True, kw_only=True)
class RoundTime:
    """When a round is over, and what each clinic spent on what."""

    seconds: float  # From the first download to the end of the aggregation
    phases: dict[str, Floats]  # [lane] seconds of `download`, `clinic`, `upload` and `server`, waiting not included
    # [lane] seconds since the round began when the lane's last message has arrived at the server (where nothing is sent
    # back, when its last batch is done); the aggregation comes after all of them
    finish: Floats
    completed: Floats  # [batch] seconds since the round began when the batch has been trained on, at the clinic too
    spans: tuple[Span, ...] = ()  # In the order in which they began; empty unless asked for

    @property
    def waiting(self) -> Floats:
        """``[lane]`` seconds before the lane's finish in which nothing was done for it."""
        busy: Floats = np.sum(list(self.phases.values()), axis=0)
        return np.maximum(self.finish - busy, 0.0)


@dataclass(frozen=True)
class RoundClock:
    """What every clock knows."""

    resources: Sequence[ClinicResources]  # Of all clinics
    server: ServerResources
    edges: Sequence[EdgeResources] = ()

    @cached_property
    def _by_field(self) -> dict[str, Floats]:
        names = ("uplink_bits_per_s", "downlink_bits_per_s", "latency_s", "compute_flop_per_s")
        return {name: np.array([getattr(clinic, name) for clinic in self.resources], np.float64) for name in names}

    def durations(self, load: RoundLoad) -> Durations:
        """Return what each piece of a round takes by itself."""
        return Durations.of(load, self._by_field, self.server, self.edges)


class ClosedFormClock(RoundClock):
    """Times a round without a simulation of events, where nobody can wait for a worker or for a shared link.

    Body copies (SplitFed V1 and V3) have a worker each, so that a clinic's round is a sum and the round a maximum
    (Thapa et al. 2022, table 1, with a rate and a latency for each clinic and direction). A relay is a sum over the
    schedule. One body (SplitFed V2) serves the batches in the order of the schedule and waits for each.
    """

    def time_round(self, load: RoundLoad) -> RoundTime:
        """Return when each clinic has finished, and the round once the common work is done."""
        spent = self.durations(load)
        begin, end = spent.begin + spent.begin_link, spent.end + spent.end_link
        if load.edges is not None:
            begin = begin + spent.from_cloud + spent.from_cloud_link
            end = end + spent.to_cloud + spent.to_cloud_link
        if load.handed_on:
            completed, finish = _relay(load, _total(spent.both, load), begin, end)
        elif load.schedule is not None:
            completed, finish = _one_body(load, spent.both, begin, end)
        else:
            batch = _total(spent.both, load)
            completed = begin[load.lane_and_step[0]] + _so_far(batch, load)
            finish = begin + load.by_lane(batch) + end * load.ends
        return RoundTime(
            seconds=all_over(load, spent, finish) + spent.common,
            phases=spent.phases(load),
            finish=finish,
            completed=completed,
        )


def all_over(load: RoundLoad, spent: Durations, finish: Floats) -> float:
    """Return when the server has everything that it waits for, from when each lane has finished."""
    if load.edges is None:
        return float(finish.max(initial=0.0))
    at_edge = spent.edge_begin.copy()
    np.maximum.at(at_edge, load.edges.home, finish)
    return float((at_edge + spent.edge_end).max())


def _total(legs: Sequence[Floats], load: RoundLoad) -> Floats:
    return sum(legs, np.zeros(len(load.rows)))


def _so_far(batch: Floats, load: RoundLoad) -> Floats:
    """Return, for each batch, the sum over the lane's batches up to it."""
    so_far = batch.copy()
    for step in range(1, int(load.steps.max(initial=0))):
        at = (load.first + step)[load.steps > step]
        so_far[at] += so_far[at - 1]
    return so_far


def _relay(load: RoundLoad, batch: Floats, begin: Floats, end: Floats) -> tuple[Floats, Floats]:
    """Add up the turns in the order of the schedule."""
    lane, step = np.array(load.schedule, dtype=np.int64).reshape(-1, 2).T
    in_turn = (load.steps // np.maximum(load.turns, 1))[lane]
    opens, closes = step % in_turn == 0, step % in_turn == in_turn - 1
    closes &= load.returns[lane] | (step < load.steps[lane] - 1)
    at = load.first[lane] + step
    over = np.cumsum(batch[at] + begin[lane] * opens + end[lane] * closes)
    completed, finish = np.zeros(len(batch)), np.zeros(len(load.steps))
    completed[at] = over - end[lane] * closes
    np.maximum.at(finish, lane, over)
    return completed, finish


def _one_body(load: RoundLoad, legs: Sequence[Floats], begin: Floats, end: Floats) -> tuple[Floats, Floats]:
    """Follow the schedule: a batch is served when it has arrived and the body is free; then its clinic goes on.

    The body is taken from the first to the last of the server's legs, U-shaped also while the tail is at work.
    """
    at_server = [i for i, leg in enumerate(load.legs) if leg.place == "server"]
    first, last = at_server[0], at_server[-1]
    before, served, after = (
        _total(legs[part], load).tolist() for part in (slice(first), slice(first, last + 1), slice(last + 1, None))
    )
    clinic_free, begins = begin.tolist(), load.first.tolist()
    body_free = 0.0
    completed = np.zeros(len(load.rows))
    for lane, step in load.schedule or ():
        at = begins[lane] + step
        body_free = max(body_free, clinic_free[lane] + before[at]) + served[at]
        clinic_free[lane] = completed[at] = body_free + after[at]
    return completed, np.array(clinic_free) + end * load.ends
