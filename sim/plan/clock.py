"""How long a round takes: a clock turns each clinic's batches into seconds.

A round of one clinic is: the parts that are sent to it, its batches one after another, the parts it sends back. Nothing
is pipelined within a clinic: the head's forward pass of a batch needs the head that the cut gradient of the batch
before has trained. Clinics run side by side in SplitFed and federated learning, one after another in the relay.

A round that does not wait for everybody is timed as if nobody were in a hurry and then cut. A batch that would not be
over by then is not begun, so that clinics stop between two batches, and nothing of a batch that was never finished has
crossed.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from heapq import heapify, heappop, heappush, heapreplace

import numpy as np

from sim.methods.attendance import Attendance
from sim.plan.durations import Durations
from sim.plan.load import PHASES, Floats, Ints, RoundLoad
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
        return timed(load, spent, finish, completed)


def timed(load: RoundLoad, spent: Durations, finish: Floats, completed: Floats) -> RoundTime:
    """Return the time of a round from when each lane has finished, and each batch has been trained on."""
    over = float(finish.max(initial=0.0))
    if load.edges is not None:
        at_edge = spent.edge_begin.copy()
        np.maximum.at(at_edge, load.edges.home, finish)
        over = float((at_edge + spent.edge_end).max())
    return RoundTime(seconds=over + spent.common, phases=spent.phases(load), finish=finish, completed=completed)


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


class JoinedClock(RoundClock):
    """Times rounds whose lanes wait for each other at the body of their region.

    Bodies of different regions are served by the server's workers, first come first served.
    """

    def time_round(self, load: RoundLoad) -> RoundTime:
        """Return when each lane has finished, and the round once the common work is done; with spans."""
        spent = self.durations(load)
        now, completed, spans = spent.begin.copy(), np.zeros(len(load.rows)), list[Span]()
        spans += _messages("down", np.zeros_like(now), now)
        region_of = np.array(load.joined, dtype=np.int64)[load.clinics]
        each = [np.flatnonzero(region_of == region) for region in np.unique(region_of)]
        ways = [_batches(load, spent, lanes, now, completed, spans) for lanes in each]
        free = [0.0] * self.server.workers
        arrivals = [(*next(way), number) for number, way in enumerate(ways)]
        heapify(arrivals)
        while arrivals:
            arrived, seconds, number = heappop(arrivals)
            start = max(arrived, free[0])
            heapreplace(free, start + seconds)
            with suppress(StopIteration):
                heappush(arrivals, (*ways[number].send(start), number))
        finish = now + spent.end * load.ends
        spans += _messages("up", now, finish)
        return replace(timed(load, spent, finish, completed), spans=tuple(spans))


def _messages(way: str, start: Floats, end: Floats) -> list[Span]:
    lanes = enumerate(zip(start.tolist(), end.tolist(), strict=True))
    return [Span(lane=lane, phase=PHASES[way], start=begun, end=over) for lane, (begun, over) in lanes if over > begun]


def _batches(
    load: RoundLoad, spent: Durations, lanes: Ints, now: Floats, completed: Floats, spans: list[Span]
) -> Generator[tuple[float, float], float, None]:
    """Go through a region's batches; yield when its body is asked to work and for how long, and be sent when it begins.

    ``now`` is ``[lane]`` how far each has come; it, ``completed`` and ``spans`` are filled in.
    """
    for step in range(int(load.steps[lanes].max(initial=0))):
        at = load.first[lanes] + step
        for leg, seconds in zip(load.legs, spent.both, strict=True):
            own, start = seconds[at], now[lanes]
            if leg.place == "server":
                longest = float(own.max())
                start = np.full_like(start, (yield float(start.max()), longest))
                now[lanes] = start + longest
            else:
                now[lanes] = start + own
            spans += [
                Span(lane=lane, phase=PHASES[leg.place], start=begun, end=begun + taken)
                for lane, begun, taken in zip(lanes.tolist(), start.tolist(), own.tolist(), strict=True)
                if taken
            ]
        completed[at] = now[lanes]


def time_limit(load: RoundLoad, time: RoundTime, deadline: float | None, enough: int | None) -> float:
    """Return when the server stops waiting, in seconds since the round began.

    ``time`` is that of the load without a limit; ``enough`` says how many clinics are waited for, None for all.
    """
    limit = np.inf if deadline is None else deadline
    back = np.sort(time.finish[load.returns])
    if enough is not None and len(back) >= enough:
        limit = min(limit, float(back[enough - 1]))
    return limit


def attendance_until(
    load: RoundLoad, time: RoundTime, spent: Durations, limit: float, enough: int | None
) -> Attendance:
    """Return how far each clinic comes by the limit, and whose parts are back by then.

    ``time`` is that of the load without a limit. Of clinics that finish at the same moment, where ``enough`` are waited
    for, those with the lowest numbers are kept.
    """
    done = load.by_lane(time.completed <= limit).astype(np.int64)
    kept = load.returns | (done < load.steps)
    if load.handed_on:
        in_turn = load.steps // np.maximum(load.turns, 1)
        over = np.full(len(done), np.nan)
        over[done > 0] = time.completed[(load.first + done - 1)[done > 0]]
        back = kept & (done % np.maximum(in_turn, 1) == 0) & (over + spent.end + spent.end_link <= limit)
    else:
        back = kept & (time.finish <= limit)
        if enough is not None:
            ranked = np.lexsort((load.clinics, time.finish, ~back))
            back[ranked[enough:]] = False
    order = np.argsort(load.clinics)
    return Attendance(load.clinics[order], done[order], back[order])


def time_until(time: RoundTime, limit: float, cut: RoundLoad, spent: Durations) -> RoundTime:
    """Return the time of a round that ends at the limit at the latest, with the aggregation of what is there.

    ``time`` is without the limit; ``cut`` and ``spent`` are what is left of the load.
    """
    finish = np.minimum(time.finish, limit)
    phases = spent.phases(cut)
    phases["download"] = np.minimum(phases["download"], finish)  # parts still on their way to a clinic at the limit
    completed = time.completed[time.completed <= limit]
    return replace(
        time, seconds=float(finish.max(initial=0.0)) + spent.common, phases=phases, finish=finish, completed=completed
    )
