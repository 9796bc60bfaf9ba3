"""The oracle of the clocks: a round played out on SimPy, so that clinics wait for each other where they must.

- **Workers.** Body copies (SplitFed V1 and V3) are served by the server's workers, each at its full rate, first come
  first served; U-shaped, a worker is free again while the tail is at work. One body (SplitFed V2) is served by one
  worker, in the order of the schedule, and is taken until its batch is over.
- **Shared link.** Where the server's link has a rate, it carries one message at a time in each direction, first come
  first served: after the clinic's line on the way up, before it on the way down.
- **At the same instant** clinics are served in lane order.
- **Aggregation** begins when every clinic has finished, and takes one worker.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

import numpy as np
import simpy
from simpy.events import NORMAL, EventPriority

from sim.plan.clock import RoundClock, RoundTime
from sim.plan.durations import Durations
from sim.plan.load import PHASES, RoundLoad
from sim.scenario.clinics import EdgeResources, ServerResources

Process = Generator[simpy.Event, Any, None]


@dataclass(frozen=True)
class Span:
    """Who was at work on what, for which lane and step; actors below zero are the server's workers."""

    actor: int
    phase: str
    start: float
    end: float
    lane: int
    step: int


class EventClock(RoundClock):
    """Times a round by its events."""

    def time_round(self, load: RoundLoad, *, trace: bool = False) -> RoundTime:
        """Play a round.

        Parameters
        ----------
        load : RoundLoad
        trace : bool
            Whether to keep the spans.
        """
        return _Round(load, self.durations(load), self.server, self.edges, trace).play()


class _LaneOrder(simpy.Environment):
    """Lets the stretches of work that end at the same instant, whose values are their lanes, end in lane order."""

    def schedule(self, event: simpy.Event, priority: EventPriority = NORMAL, delay: float = 0) -> None:
        if isinstance(event, simpy.Timeout):
            lane: Any = event.value
            priority = EventPriority(NORMAL + 1 + lane)
        super().schedule(event, priority, delay)


class _Round:
    """One round at play."""

    def __init__(
        self,
        load: RoundLoad,
        spent: Durations,
        server: ServerResources,
        edges: Sequence[EdgeResources],
        trace: bool,
    ) -> None:
        self.load = load
        self.spent = spent
        self.spans: list[Span] | None = [] if trace else None
        self.env = _LaneOrder()
        self.workers = simpy.Resource(self.env, server.workers)
        self.free = list(range(server.workers))
        self.link = {"up": simpy.Resource(self.env), "down": simpy.Resource(self.env)}
        self.edge_workers = [simpy.Resource(self.env, edge.workers) for edge in edges]
        self.edge_link = [{"edge-up": simpy.Resource(self.env), "edge-down": simpy.Resource(self.env)} for _ in edges]
        self.finish = [0.0] * len(load.clinics)
        self.completed = np.zeros(len(load.rows))
        self.seconds = [leg.tolist() for leg in spent.legs]
        self.link_seconds = [leg.tolist() for leg in spent.links]
        at_server = [i for i, leg in enumerate(load.legs) if leg.place == "server"]
        self.serial = load.schedule is not None and not load.handed_on
        self.first, self.last = (at_server[0], at_server[-1]) if at_server else (-1, -1)
        self.turn_of = {batch: self.env.event() for batch in load.schedule or ()} if self.serial else {}
        self.upcoming = iter(load.schedule or ())

    def play(self) -> RoundTime:
        load = self.load
        if load.handed_on:
            self.env.process(self.relay())
        else:
            for lane in range(len(load.clinics)):
                self.env.process(self.clinic(lane))
        if self.serial:
            self.call_next()
        self.env.run()
        over = max(self.finish, default=0.0)
        if load.edges is not None:
            homes = load.edges.home.tolist()
            at_edge = [
                max([begun, *(self.finish[lane] for lane, home in enumerate(homes) if home == edge)])
                for edge, begun in enumerate(self.spent.edge_begin.tolist())
            ]
            over = max(a + b for a, b in zip(at_edge, self.spent.edge_end.tolist(), strict=True))
        if self.spans is not None and self.spent.common:
            self.spans.append(Span(-1, "server", over, over + self.spent.common, -1, -1))
        finish = np.array(self.finish)
        spans = tuple(self.spans or ())
        return RoundTime(
            seconds=over + self.spent.common,
            phases=self.spent.phases(load),
            finish=finish,
            completed=self.completed,
            spans=spans,
        )

    def relay(self) -> Process:
        for lane, step in self.load.schedule or ():
            in_turn = step % self.load.turn_steps(lane)
            if in_turn == 0:
                yield from self.begin(lane)
            yield from self.batch(lane, step)
            if in_turn == self.load.turn_steps(lane) - 1:
                yield from self.end(lane, last=step == self.load.steps[lane] - 1)

    def clinic(self, lane: int) -> Process:
        yield from self.begin(lane)
        for step in range(int(self.load.steps[lane])):
            yield from self.batch(lane, step)
        yield from self.end(lane, last=True)

    def begin(self, lane: int) -> Process:
        if self.load.edges is not None and self.load.edges.together:
            yield from self.work(lane, "edge-down", self.spent.from_cloud[lane], lane, -1)
        elif self.load.edges is not None and self.load.edges.begin_bytes:
            yield from self.above("edge-down", lane, self.spent.from_cloud[lane], self.spent.from_cloud_link[lane])
        if self.load.begin_bytes:
            yield from self.message("down", lane, -1, self.spent.begin[lane], self.spent.begin_link[lane])

    def end(self, lane: int, *, last: bool) -> Process:
        if self.load.end_bytes and not (last and lane in self.load.lost):
            yield from self.message("up", lane, -1, self.spent.end[lane], self.spent.end_link[lane])
            if self.load.edges is not None and not self.load.edges.together:
                yield from self.above("edge-up", lane, self.spent.to_cloud[lane], self.spent.to_cloud_link[lane])
        self.finish[lane] = self.env.now

    def batch(self, lane: int, step: int) -> Process:
        at = int(self.load.first[lane]) + step
        for i, leg in enumerate(self.load.legs):
            seconds = self.seconds[i][at]
            if leg.place == "clinic":
                yield from self.work(lane, leg.place, seconds, lane, step)
            elif leg.place == "edge":
                with self.edge_workers[self.load.edges.home[lane]].request() as served:
                    yield served
                    yield from self.work(lane, leg.place, seconds, lane, step)
            elif leg.place.startswith("edge-"):
                yield from self.above(leg.place, lane, seconds, self.link_seconds[i][at])
            elif leg.place != "server":
                yield from self.message(leg.place, lane, step, seconds, self.link_seconds[i][at])
            elif self.serial:
                if i == self.first:
                    yield self.turn_of[lane, step]
                yield from self.work(-1, "server", seconds, lane, step)
                if i == self.last:
                    self.call_next()
            else:
                with self.workers.request() as served:
                    yield served
                    worker = heappop(self.free)
                    yield from self.work(-1 - worker, "server", seconds, lane, step)
                    heappush(self.free, worker)
        self.completed[at] = self.env.now

    def above(self, place: str, lane: int, latency: float, link: float) -> Process:
        with self.edge_link[self.load.edges.home[lane]][place].request() as carried:
            yield carried
            yield from self.work(lane, place, link, lane, -1)
        yield from self.work(lane, place, latency, lane, -1)

    def message(self, direction: str, lane: int, step: int, line: float, link: float) -> Process:
        if direction == "up":
            yield from self.work(lane, "up", line, lane, step)
        if link:
            with self.link[direction].request() as carried:
                yield carried
                yield from self.work(lane, direction, link, lane, step)
        if direction == "down":
            yield from self.work(lane, "down", line, lane, step)

    def work(self, actor: int, place: str, seconds: float, lane: int, step: int) -> Process:
        start = self.env.now
        yield self.env.timeout(seconds, lane)
        if self.spans is not None:
            self.spans.append(Span(actor, PHASES[place], start, self.env.now, lane, step))

    def call_next(self) -> None:
        """Give the one body to the next batch of the schedule."""
        batch = next(self.upcoming, None)
        if batch is not None:
            self.turn_of[batch].succeed()
