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

from sim.clinics import ClinicResources, ServerResources
from sim.plan.clock import ClosedFormClock, Durations, Floats, RoundClock, RoundLoad, RoundTime

Way = list[tuple[str, Floats]]
"""Stretches one after another: the queue before each (none where ""), and its seconds, ``[..., lane]``."""


class QueueClock(RoundClock):
    """Times a round in which clinics may wait; not a relay, where nobody does."""

    def time_round(self, load: RoundLoad) -> RoundTime:
        """Return when each clinic has finished, and the round once the common work is done."""
        spent = self.durations(load)
        begin, batch, end = _stretches(load, spent)
        queues = [[queue for queue, _ in way] for way in (begin, batch, end)]
        most, lanes = load.rows.shape
        first, last = len(begin) + len(batch) * load.steps, len(begin) + len(batch) * load.steps + len(end)
        last = np.where(np.isin(np.arange(lanes), list(load.lost)), first, last)
        # One row a lane: begin, its own batches, end; what stands behind that is never reached.
        seconds = np.zeros((lanes, max(1, len(begin) + len(batch) * most + len(end))))
        seconds[:, : len(begin)] = np.reshape([s for _, s in begin], (len(begin), lanes)).T
        batches = np.reshape([s for _, s in batch], (len(batch), most, lanes)).transpose(2, 1, 0)
        seconds[:, len(begin) : len(begin) + len(batch) * most] = batches.reshape(lanes, -1)
        for i, (_, own) in enumerate(end):
            seconds[np.arange(lanes), first + i] = own
        programs = {steps: queues[0] + queues[1] * steps + queues[2] for steps in set(load.steps.tolist())}
        ways = [programs[steps] for steps in load.steps.tolist()]
        over = np.array(_serve(seconds.tolist(), ways, last.tolist(), load.schedule, self.server.workers))
        finish = np.where(last > 0, over[np.arange(lanes), last - 1], 0.0)
        completed = over[:, len(begin) + len(batch) - 1 : len(begin) + len(batch) * most : len(batch)].T
        completed = np.where(np.arange(most)[:, None] < load.steps, completed, np.nan)
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
    return begin, batch, end


def _serve(
    seconds: list[list[float]],
    ways: Sequence[Sequence[str]],
    last: Sequence[int],
    schedule: Sequence[tuple[int, int]] | None,
    workers: int,
) -> list[list[float]]:
    """Take the arrivals in order of time until every clinic has finished.

    Parameters
    ----------
    seconds : list of list of float
        ``[lane][stretch]``; overwritten.
    ways : sequence of sequence of str
        ``[lane][stretch]`` the queue before each.
    last : sequence of int
        ``[lane]`` how many stretches the lane goes through.
    schedule : sequence of (int, int) or None
        As of the load.
    workers : int

    Returns
    -------
    list of list of float
        ``[lane][stretch]`` when each is over.
    """
    free = {"worker": [0.0] * workers, "up": [0.0], "down": [0.0]}
    turns = (lane for lane, _ in schedule or ())
    called, taken = next(turns, None), False
    waiting: set[int] = set()
    at = [0] * len(ways)

    def until_a_queue(lane: int, now: float) -> float | None:
        """Go on until the lane arrives where it may wait: return when, or nothing if it has finished."""
        stretch, own, way = at[lane], seconds[lane], ways[lane]
        while stretch < last[lane]:
            if way[stretch]:
                at[lane] = stretch
                return now
            own[stretch] = now = now + own[stretch]
            stretch += 1
        return None

    def through(lane: int, now: float) -> float | None:
        """Leave a queue, its stretch over, and go on."""
        seconds[lane][at[lane]] = now
        at[lane] += 1
        return until_a_queue(lane, now)

    arrivals = [(now, lane) for lane in range(len(ways)) if (now := until_a_queue(lane, 0.0)) is not None]
    heapify(arrivals)
    arrival = heappop(arrivals) if arrivals else None
    while arrival is not None:
        now, lane = arrival
        queue, following = ways[lane][at[lane]], None
        if queue in free:
            over = max(now, free[queue][0]) + seconds[lane][at[lane]]
            heapreplace(free[queue], over)
            following = through(lane, over)
        elif queue == "take":
            waiting.add(lane)
        else:
            called, taken = next(turns, None), False
            following = through(lane, now)
        if called in waiting and not taken:
            taken = True
            waiting.remove(called)
            if (served := through(called, now)) is not None:
                heappush(arrivals, (served, called))
        if following is not None:
            arrival = heappushpop(arrivals, (following, lane))
        else:
            arrival = heappop(arrivals) if arrivals else None
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
