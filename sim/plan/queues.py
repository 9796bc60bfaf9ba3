"""Rounds in which clinics wait for each other, and who does what when in any round.

- **Workers.** Body copies (SplitFed V1 and V3) are served by the server's workers, each at its full rate, first come
  first served; U-shaped, a worker is free again while the tail is at work. One body (SplitFed V2) is served by one
  worker, in the order of the schedule, and is taken until its batch is over.
- **Edge servers** have workers of their own, and each a link to the cloud that carries one message at a time in each
  direction, first come first served.
- **Shared link.** Where the server's link has a rate, it carries one message at a time in each direction, first come
  first served: after the clinic's line on the way up, before it on the way down.
- **At the same instant** clinics are served in lane order.
- **Aggregation** begins when every clinic has finished, and takes one worker.

Only an arrival where somebody may wait is an event: at a worker of the server, at its one body, at its shared link.
Between two arrivals a clinic's time is a sum. First come, first served: arrivals are taken in order of time, at one
instant in lane order, and each begins when the first worker is free, so that a heap of arrivals and a heap of the times
at which workers are free are all there is to know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from heapq import heapify, heappop, heappush, heappushpop, heapreplace
from typing import Literal, NamedTuple

import numpy as np

from sim.plan.clock import ClosedFormClock, JoinedClock, RoundClock, RoundTime, Span, timed
from sim.plan.durations import Durations
from sim.plan.load import PHASES, Floats, Ints, RoundLoad
from sim.scenario.clinics import ClinicResources, EdgeResources, ServerResources


class Stretch(NamedTuple):
    """A part of a clinic's way through a round."""

    # Where the clinic may wait before it: `worker`, `up` or `down`; `take` and `give` where it is about the one body;
    # none where it is empty
    queue: str
    phase: str  # What is done in it; empty where it takes no time
    seconds: Floats  # Of all who go through it


Way = list[Stretch]

Arrival = tuple[float, int, int]
"""When, which lane, and before which stretch."""


class QueueClock(RoundClock):
    """Times a round in which clinics may wait; not a relay, where nobody does."""

    def time_round(self, load: RoundLoad, *, trace: bool = False) -> RoundTime:
        """Return when each clinic has finished, and the round once the common work is done; with spans if ``trace``."""
        spent = self.durations(load)
        begin, batch, end = _stretches(load, spent)
        # One lane after another: its beginning, its batches, its end.
        lengths = len(begin) + len(batch) * load.steps + len(end) * load.returns
        last = np.cumsum(lengths)
        first = last - lengths
        lane, step = load.lane_and_step
        of_batch = first[lane] + len(begin) + len(batch) * step
        of_end = (last - len(end))[load.returns]
        end = [stretch._replace(seconds=stretch.seconds[load.returns]) for stretch in end]
        seconds = np.zeros(lengths.sum())
        queues, phases = (np.full(len(seconds), "", dtype=object) for _ in range(2))
        lanes = np.arange(len(lengths))
        for way, where, whose in ((begin, first, lanes), (batch, of_batch, lane), (end, of_end, lanes[load.returns])):
            for i, stretch in enumerate(way):
                seconds[where + i] = stretch.seconds
                queues[where + i] = _own(stretch.queue, load, whose)
                if trace:
                    phases[where + i] = stretch.phase
        over, begun = _serve(
            seconds.tolist(), queues.tolist(), first.tolist(), last.tolist(), load.schedule, self._free()
        )
        ends = np.array(over)
        finish = np.zeros(len(lengths))
        finish[lengths > 0] = ends[last[lengths > 0] - 1]
        completed = ends[of_batch + len(batch) - 1]
        time = timed(load, spent, finish, completed)
        if not trace:
            return time
        spans = []
        for k, (start, stop) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
            now = 0.0
            for place in range(start, stop):
                if phases[place]:
                    spans.append(Span(lane=k, phase=phases[place], start=begun.get(place, now), end=over[place]))
                now = over[place]
        return replace(time, spans=_with_workers(spans))

    def _free(self) -> dict[str, list[float]]:
        """Return when each of all that clinics may wait for is free: from the beginning on."""
        free = {"worker": [0.0] * self.server.workers, "up": [0.0], "down": [0.0]}
        for edge, its in enumerate(self.edges):
            free |= {f"edge {edge}": [0.0] * its.workers, f"edge-up {edge}": [0.0], f"edge-down {edge}": [0.0]}
        return free


def _own(queue: str, load: RoundLoad, lanes: Ints) -> object:
    """Return what each of some lanes waits for, by name: of edge servers and their links, its own."""
    if load.edges is None or not queue.startswith("edge"):
        return queue
    return [f"{queue} {home}" for home in load.edges.home[lanes].tolist()]


def relay_spans(load: RoundLoad, spent: Durations) -> tuple[Span, ...]:
    """Return who does what when in a relay: one turn after another."""
    begin, batch, end = _stretches(load, spent)
    spans, now = [], 0.0
    for lane, step in load.schedule or ():
        in_turn = load.turn_steps(lane)
        closes = step % in_turn == in_turn - 1 and (load.returns[lane] or step < load.steps[lane] - 1)
        at = int(load.first[lane]) + step
        for way, own in ((begin * (step % in_turn == 0), lane), (batch, at), (end * bool(closes), lane)):
            for stretch in way:
                start, now = now, now + float(stretch.seconds[own])
                spans.append(Span(lane=lane, phase=stretch.phase, start=start, end=now))
    return _with_workers(spans)


def _with_workers(spans: list[Span]) -> tuple[Span, ...]:
    """Say which of the server's workers each span keeps busy: the first that is free."""
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    told = []
    for span in sorted(spans, key=lambda span: span.start):
        if span.phase == "server":
            while busy and busy[0][0] <= span.start:
                heappush(free, heappop(busy)[1])
            worker = heappop(free) if free else len(busy) + 1
            heappush(busy, (span.end, worker))
            span = replace(span, worker=worker)
        told.append(span)
    return tuple(told)


def _stretches(load: RoundLoad, spent: Durations) -> tuple[Way, Way, Way]:
    """Lay out what a clinic goes through: its first message, a batch, its last message."""

    def message(direction: Literal["up", "down"], line: Floats, link: Floats) -> Way:
        """Store and forward: from the server its link comes first, to the server the clinic's line."""
        phase = PHASES[direction]
        if not link.any():
            return [Stretch("", phase, line)]
        way = [Stretch("", phase, line), Stretch(direction, phase, link)]
        return way[::-1] if direction == "down" else way

    def above(place: Literal["edge-up", "edge-down"], latency: Floats, link: Floats) -> Way:
        """To and from the cloud: the edge server's link is busy for the bytes, and they arrive the latency later."""
        phase = PHASES[place]
        return [Stretch(place, phase, link), Stretch("", phase, latency)]

    at_server = [i for i, leg in enumerate(load.legs) if leg.place == "server"]
    batch: Way = []
    for i, (leg, seconds, link) in enumerate(zip(load.legs, spent.legs, spent.links, strict=True)):
        if leg.place == "up" or leg.place == "down":
            batch += message(leg.place, seconds, link)
        elif leg.place == "edge-up" or leg.place == "edge-down":
            batch += above(leg.place, seconds, link)
        elif leg.place == "edge":
            batch.append(Stretch("edge", PHASES["edge"], seconds))
        elif leg.place == "clinic" or load.handed_on:
            batch.append(Stretch("", leg.place, seconds))
        elif load.schedule is None:
            batch.append(Stretch("worker", leg.place, seconds))
        else:
            # The one body is taken by the first of the server's legs and given back after the last.
            nothing = np.zeros_like(seconds)
            batch += [Stretch("take", "", nothing)] * (i == at_server[0])
            batch.append(Stretch("", leg.place, seconds))
            batch += [Stretch("give", "", nothing)] * (i == at_server[-1])
    begin = message("down", spent.begin, spent.begin_link) if load.begin_bytes else []
    end = message("up", spent.end, spent.end_link) if load.end_bytes else []
    if load.edges is None:
        return begin, batch, end
    if load.edges.together:
        return [Stretch("", PHASES["edge-down"], spent.from_cloud), *begin], batch, end
    if load.edges.begin_bytes:
        begin = [*above("edge-down", spent.from_cloud, spent.from_cloud_link), *begin]
    if load.edges.end_bytes:
        end = [*end, *above("edge-up", spent.to_cloud, spent.to_cloud_link)]
    return begin, batch, end


def _serve(
    seconds: list[float],
    queues: Sequence[str],
    first: Sequence[int],
    last: Sequence[int],
    schedule: Sequence[tuple[int, int]] | None,
    free: Mapping[str, list[float]],
) -> tuple[list[float], dict[int, float]]:
    """Take the arrivals in order of time until every clinic has finished."""
    turns = (lane for lane, _ in schedule or ())
    called, taken = next(turns, None), False
    waiting: dict[int, int] = {}
    begun: dict[int, float] = {}

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
            begun[stretch] = start = now if now > soonest else soonest
            seconds[stretch] = over = start + seconds[stretch]
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
    return seconds, begun


def _after_set_up(time: RoundTime, set_up: float) -> RoundTime:
    """Let the turns of a round begin when keys and shares of secure aggregation are exchanged."""
    if not set_up:
        return time
    spans = tuple(replace(span, start=span.start + set_up, end=span.end + set_up) for span in time.spans)
    return replace(
        time,
        seconds=time.seconds + set_up,
        finish=time.finish + set_up,
        completed=time.completed + set_up,
        spans=spans,
    )


class PlanClock:
    """The closed form where no queue can form, the queues elsewhere; a load that comes again is not timed again.

    Parameters
    ----------
    resources : sequence of ClinicResources
        Of all clinics.
    """

    def __init__(
        self, resources: Sequence[ClinicResources], server: ServerResources, edges: Sequence[EdgeResources] = ()
    ) -> None:
        self.resources = resources
        self.server = server
        self.edges = edges
        self.closed = ClosedFormClock(resources, server, edges)
        self.queues = QueueClock(resources, server, edges)
        self.joined = JoinedClock(resources, server)
        self._known: dict[tuple[object, ...], RoundTime] = {}

    def durations(self, load: RoundLoad) -> Durations:
        """Return what each piece of a round takes by itself."""
        return self.closed.durations(load)

    def _before(self, load: RoundLoad) -> float:
        return self.durations(load).set_up + load.before_s

    def time_round(self, load: RoundLoad) -> RoundTime:
        """Return how long a round takes."""
        key = load.key()
        if key not in self._known:
            clock = self.joined if load.joined else self.queues if load.may_queue(self.server) else self.closed
            self._known[key] = _after_set_up(clock.time_round(load), self._before(load))
        return self._known[key]

    def play(self, load: RoundLoad) -> RoundTime:
        """Return the same with its spans."""
        if load.joined:
            time = self.joined.time_round(load)
            time = _after_set_up(replace(time, spans=_with_workers([*time.spans])), self._before(load))
        elif load.handed_on:
            time = replace(self.time_round(load), spans=relay_spans(load, self.durations(load)))
        else:
            time = _after_set_up(self.queues.time_round(load, trace=True), self._before(load))
        over = float(time.finish.max(initial=0.0))
        together = (
            [Span(lane=-1, phase="server", start=over, end=time.seconds, worker=1)] if time.seconds > over else []
        )
        return replace(time, spans=(*time.spans, *together))
