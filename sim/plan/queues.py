"""Rounds in which clinics wait for each other, computed: the times that ``sim.plan.events`` plays, in far less time.

Only an arrival where somebody may wait is an event: at a worker of the server, at its one body, at its shared link.
Between two arrivals a clinic's time is a sum. First come, first served: arrivals are taken in order of time, at one
instant in lane order, and each begins when the first worker is free, so that a heap of arrivals and a heap of the times
at which workers are free are all there is to know.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import suppress
from heapq import heappop, heappush, heapreplace

import numpy as np

from sim.clinics import ClinicResources, ServerResources
from sim.plan.clock import ClosedFormClock, Durations, Floats, RoundClock, RoundLoad, RoundTime

Arrival = tuple[float, str, float]
"""When, at which queue, and the seconds it will take there."""
Stretch = tuple[str, list[list[float]]]
"""A queue (none where ""), and the seconds ``[lane][step]``."""
Ways = tuple[list[Stretch], list[Stretch], list[Stretch]]
"""The way of a turn's first message, of a batch, and of the last message."""


class QueueClock(RoundClock):
    """Times a round in which clinics may wait; not a relay, where nobody does."""

    def time_round(self, load: RoundLoad) -> RoundTime:
        """Return when each clinic has finished, and the round once the common work is done."""
        spent = self.durations(load)
        completed = np.full(load.rows.shape, np.nan)
        finish = np.zeros(len(load.clinics))
        stretches = _stretches(load, spent)
        of_lost: Ways = (*stretches[:2], [])
        ways = [
            _way(lane, int(steps), of_lost if lane in load.lost else stretches, completed, finish)
            for lane, steps in enumerate(load.steps)
        ]
        _serve(ways, load.schedule, self.server.workers)
        return RoundTime(float(finish.max(initial=0.0)) + spent.common, spent.phases(load), finish, completed)


def _stretches(load: RoundLoad, spent: Durations) -> Ways:
    """Lay out what a clinic goes through."""

    def message(direction: str, line: Floats, link: Floats) -> list[Stretch]:
        """Store and forward: from the server its link comes first, to the server the clinic's line."""
        own: Stretch = ("", _by_lane(line))
        if not link.any():
            return [own]
        shared: Stretch = (direction, _by_lane(link))
        return [shared, own] if direction == "down" else [own, shared]

    at_server = [i for i, leg in enumerate(load.legs) if leg.place == "server"]
    batch: list[Stretch] = []
    for i, (leg, seconds, link) in enumerate(zip(load.legs, spent.legs, spent.links, strict=True)):
        if leg.place == "up" or leg.place == "down":
            batch += message(leg.place, seconds, link)
        elif leg.place == "clinic":
            batch.append(("", _by_lane(seconds)))
        elif load.schedule is None:
            batch.append(("worker", _by_lane(seconds)))
        else:
            # The one body is taken by the first of the server's legs and given back after the last.
            nothing = _by_lane(np.zeros_like(seconds))
            batch += [("take", nothing)] * (i == at_server[0])
            batch.append(("", _by_lane(seconds)))
            batch += [("give", nothing)] * (i == at_server[-1])
    begin = message("down", spent.begin[None], spent.begin_link[None]) if load.begin_bytes else []
    end = message("up", spent.end[None], spent.end_link[None]) if load.end_bytes else []
    return begin, batch, end


def _by_lane(seconds: Floats) -> list[list[float]]:
    by_lane: list[list[float]] = seconds.T.tolist()
    return by_lane


def _way(lane: int, steps: int, stretches: Ways, completed: Floats, finish: Floats) -> Generator[Arrival, float, None]:
    """Go through a clinic's round: tell each arrival, and be told when to go on."""
    begin, batch, end = ([(queue, seconds[lane]) for queue, seconds in part] for part in stretches)
    now = yield 0.0, "start", 0.0
    for queue, seconds in begin:
        now = (yield now, queue, seconds[0]) if queue else now + seconds[0]
    for step in range(steps):
        for queue, seconds in batch:
            now = (yield now, queue, seconds[step]) if queue else now + seconds[step]
        completed[step, lane] = now
    for queue, seconds in end:
        now = (yield now, queue, seconds[0]) if queue else now + seconds[0]
    finish[lane] = now


def _serve(
    ways: Sequence[Generator[Arrival, float, None]], schedule: Sequence[tuple[int, int]] | None, workers: int
) -> None:
    """Take the arrivals in order of time until every clinic has finished."""
    free = {"worker": [0.0] * workers, "up": [0.0], "down": [0.0]}
    turns = (lane for lane, _ in schedule or ())
    called, taken = next(turns, None), False
    waiting: set[int] = set()
    arrivals: list[tuple[float, int, str, float]] = []

    def hear(lane: int, arrival: Arrival) -> None:
        heappush(arrivals, (arrival[0], lane, *arrival[1:]))

    def go_on(lane: int, now: float) -> None:
        with suppress(StopIteration):
            hear(lane, ways[lane].send(now))

    for lane, way in enumerate(ways):
        hear(lane, next(way))
    while arrivals:
        now, lane, queue, seconds = heappop(arrivals)
        if queue in free:
            over = max(now, free[queue][0]) + seconds
            heapreplace(free[queue], over)
            go_on(lane, over)
        elif queue == "take":
            waiting.add(lane)
        else:
            if queue == "give":
                called, taken = next(turns, None), False
            go_on(lane, now)
        if called in waiting and not taken:
            taken = True
            waiting.remove(called)
            go_on(called, now)


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
