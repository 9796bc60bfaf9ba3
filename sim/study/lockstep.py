"""Several runs in one process, whose tensor work is done together.

Each run is a greenlet that stops where it asks for work. When all have stopped, what is due first is done: pieces of
work with the same key as one program, the others one by one. Then those runs go on. No run sees another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from greenlet import greenlet

from sim.tensor.program import Work

T = TypeVar("T")


class Shared:
    """The program of runs in lockstep; see :class:`sim.tensor.program.Program`."""

    def __init__(self) -> None:
        self._waiting: dict[greenlet, Work] = {}
        self._spent: dict[greenlet, float] = {}
        self._resumed = 0.0

    def do(self, work: Work) -> None:
        """Wait until the work is done, beside that of others.

        Raises
        ------
        Exception
            What the work raises.
        """
        here = greenlet.getcurrent()
        if here.parent is None:
            raise RuntimeError("a shared program is for runs in lockstep")
        self._waiting[here] = work
        here.parent.switch()

    def clock(self) -> float:
        """See :class:`sim.tensor.program.Program`."""
        return self._spent[greenlet.getcurrent()] + time.perf_counter() - self._resumed

    def run(self, runs: Sequence[Callable[[], T]]) -> Iterator[T]:
        """Run all in lockstep, and yield what each returns when it ends.

        Raises
        ------
        Exception
            What a run raises; the others do not go on.
        """
        for each in [greenlet(run) for run in runs]:
            self._spent[each] = 0.0
            yield from self._go_on(each, None)
        while self._waiting:
            due = min(work.order for work in self._waiting.values())
            now = {each: work for each, work in self._waiting.items() if work.order == due}
            started = time.perf_counter()
            failed = _done_together(list(now.values()))
            share = (time.perf_counter() - started) / len(now)
            for each, work in now.items():
                del self._waiting[each]
                self._spent[each] += share
                yield from self._go_on(each, failed.get(work))

    def _go_on(self, run: greenlet, error: Exception | None) -> Iterator[T]:
        """Let a run go on until it waits for work; if it ends, yield what it returns."""
        self._resumed = time.perf_counter()
        result = run.switch() if error is None else run.throw(error)
        self._spent[run] += time.perf_counter() - self._resumed
        if run.dead:
            yield result


def _done_together(works: Sequence[Work]) -> dict[Work, Exception]:
    """Do pieces of work that are due, and return what could not be done."""
    groups: dict[object, list[Work]] = {}
    for work in works:
        groups.setdefault(work.key, []).append(work)
    failed: dict[Work, Exception] = {}
    for alike in groups.values():
        try:
            alike[0].together(alike)
        except Exception as error:
            if len(alike) == 1:
                failed[alike[0]] = error
            else:
                for work in alike:  # nothing of it is done: whose fault it was shows when each does its own
                    failed |= _done_together([work])
    return failed
