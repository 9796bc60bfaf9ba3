"""Rounds in which clinics wait for each other, computed: the times that ``sim.plan.events`` plays, in far less time.

Only an arrival where somebody may wait is an event: at a worker of the server, at its one body, at its shared link.
Between two arrivals a clinic's time is a sum. First come, first served: arrivals are taken in order of time, at one
instant in lane order, and each begins when the first worker is free, so that a heap of arrivals and a heap of the times
at which workers are free are all there is to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush, heappushpop, heapreplace

import numpy as np

from sim.plan.clock import ClosedFormClock, Durations, Floats, RoundClock, RoundLoad, RoundTime
from sim.scenario.clinics import ClinicResources, ServerResources

Way = list[tuple[str, Floats]]
"""Stretches one after another: the queue before each (none where ""), and the seconds of all who go through it."""

Arrival = tuple[float, int, int]
"""When, which lane, and before which stretch."""


class QueueClock(RoundClock):
    """Times a round in which clinics may wait; not a relay, where nobody does."""

    def time_round(self, load: RoundLoad) -> RoundTime:
        """Return when each clinic has finished, and the round once the common work is done."""
        spent = self.durations(load)
        begin, batch, end = _stretches(load, spent)
        # One lane after another: its beginning, its batches, its end.
        lengths = len(begin) + len(batch) * load.steps + len(end) * load.returns
        last = np.cumsum(lengths)
        first = last - lengths
        lane, step = load.lane_and_step
        of_batch = first[lane] + len(begin) + len(batch) * step
        of_end = (last - len(end))[load.returns]
        seconds = np.zeros(lengths.sum())
        queues = np.full(len(seconds), "", dtype=object)
        for way, where in ((begin, first), (batch, of_batch), (end, of_end)):
            for i, (queue, own) in enumerate(way):
                seconds[where + i] = own
                queues[where + i] = queue
        over = np.array(
            _serve(seconds.tolist(), queues.tolist(), first.tolist(), last.tolist(), load.schedule, self.server.workers)
        )
        finish = np.zeros(len(lengths))
        finish[lengths > 0] = over[last[lengths > 0] - 1]
        completed = over[of_batch + len(batch) - 1]
        return RoundTime(float(finish.max(initial=0.0)) + spent.common, spent.phases(load), finish, completed)


def _stretches(load: RoundLoad, spent: Durations) -> tuple[Way, Way, Way]:
    """Lay out what a clinic goes through: its first message, a batch, its last message."""

    def message(direction: str, line: Floats, link: Floats) -> Way:
        """Store and forward: from the server its link comes first, to the server the clinic's line."""
        if not link.any():
            return [("", line)]
        return [(direction, link), ("", line)] if direction == "down" else [("", line), (direction, link)]

    at_server = [i for i, leg in enumerate(load.legs) if leg.place == "server"]
    batch: Way = []
    for i, (leg, seconds, link) in enumerate(zip(load.legs, spent.legs, spent.links, strict=True)):
        if leg.place == "up" or leg.place == "down":
            batch += message(leg.place, seconds, link)
        elif leg.place == "clinic":
            batch.append(("", seconds))
        elif load.schedule is None:
            batch.append(("worker", seconds))
        else:
            # The one body is taken by the first of the server's legs and given back after the last.
            nothing = np.zeros_like(seconds)
            batch += [("take", nothing)] * (i == at_server[0])
            batch.append(("", seconds))
            batch += [("give", nothing)] * (i == at_server[-1])
    begin = message("down", spent.begin, spent.begin_link) if load.begin_bytes else []
    end = message("up", spent.end, spent.end_link) if load.end_bytes else []
    return begin, batch, [(queue, seconds[load.returns]) for queue, seconds in end]


def _serve(
    seconds: list[float],
    queues: Sequence[str],
    first: Sequence[int],
    last: Sequence[int],
    schedule: Sequence[tuple[int, int]] | None,
    workers: int,
) -> list[float]:
    """Take the arrivals in order of time until every clinic has finished.

    Parameters
    ----------
    seconds : list of float
        ``[stretch]``, those of one lane after another; overwritten.
    queues : sequence of str
        ``[stretch]`` the queue before each.
    first, last : sequence of int
        ``[lane]`` its first stretch, and the one behind its last.
    schedule : sequence of (int, int) or None
        As of the load.
    workers : int

    Returns
    -------
    list of float
        ``[stretch]`` when each is over.
    """
    free = {"worker": [0.0] * workers, "up": [0.0], "down": [0.0]}
    turns = (lane for lane, _ in schedule or ())
    called, taken = next(turns, None), False
    waiting: dict[int, int] = {}

    def go_on(now: float, lane: int, begin: int) -> Arrival | None:
        """Go on from a stretch until the lane arrives where it may wait, or has finished."""
        for stretch in range(begin, last[lane]):
            if queues[stretch]:
                return now, lane, stretch
            seconds[stretch] = now = now + seconds[stretch]
        return None

    arrivals = [arrival for lane, begin in enumerate(first) if (arrival := go_on(0.0, lane, begin)) is not None]
    heapify(arrivals)
    following: Arrival | None = None
    while following or arrivals:
        now, lane, stretch = heappushpop(arrivals, following) if following else heappop(arrivals)
        queue, following = queues[stretch], None
        if queue in free:
            soonest = free[queue][0]
            seconds[stretch] = over = (now if now > soonest else soonest) + seconds[stretch]
            heapreplace(free[queue], over)
            following = go_on(over, lane, stretch + 1)
        elif queue == "take":
            waiting[lane] = stretch
        else:
            called, taken = next(turns, None), False
            seconds[stretch] = now
            following = go_on(now, lane, stretch + 1)
        if called in waiting and not taken:
            taken = True
            stretch = waiting.pop(called)
            seconds[stretch] = now
            if (served := go_on(now, called, stretch + 1)) is not None:
                heappush(arrivals, served)
    return seconds


class PlanClock:
    """The closed form where no queue can form, the queues elsewhere; a load that comes again is not timed again.

    Parameters
    ----------
    resources : sequence of ClinicResources
        Of all clinics.
    server : ServerResources
    """

    def __init__(self, resources: Sequence[ClinicResources], server: ServerResources) -> None:
        self.resources = resources
        self.server = server
        self.closed = ClosedFormClock(resources, server)
        self.queues = QueueClock(resources, server)
        self._known: dict[tuple[object, ...], RoundTime] = {}

    def durations(self, load: RoundLoad) -> Durations:
        """Return what each piece of a round takes by itself."""
        return self.closed.durations(load)

    def time_round(self, load: RoundLoad) -> RoundTime:
        """Return how long a round takes."""
        key = load.key()
        if key not in self._known:
            clock = self.queues if load.may_queue(self.server) else self.closed
            self._known[key] = clock.time_round(load)
        return self._known[key]
