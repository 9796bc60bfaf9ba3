"""How long a round of vertical learning takes: parties side by side, a region's body when all rows are there."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from heapq import heapify, heappop, heappush, heapreplace

import numpy as np

from sim.plan.clock import RoundClock, RoundTime, Span
from sim.plan.durations import Durations
from sim.plan.load import PHASES, Floats, Ints, RoundLoad


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
        return RoundTime(
            seconds=float(finish.max(initial=0.0)) + spent.common,
            phases=spent.phases(load),
            finish=finish,
            completed=completed,
            spans=tuple(spans),
        )


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
