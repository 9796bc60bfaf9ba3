"""Normal draws ahead of their use: by a second thread, while the first computes what they are added to.

A draw depends on its name alone, so that those of the next step can be made at any time. NumPy and PyTorch let other
threads work meanwhile; where a processor is idle, the noise of a step then costs no time of its own.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from sim.foundation.normals import Floats, fill_normals
from sim.foundation.rng import Key

LEAST, MOST = 2**18, 2**24
"""Draws of a step from which a second thread saves time, and up to which those of another step fit into memory. Rounds
of an MLP took .83 of the time with 400,000 and 800,000 draws a step, as long with 200,000, and 1.1 times as long with
60,000."""
AHEAD = 2**22
"""Draws up to which a further step is begun before one is asked for."""


class Draws(NamedTuple):
    """The name of a step's draws: parameters of :func:`sim.foundation.normals.fill_normals`, and how many a row."""

    keys: tuple[Key, ...]
    purpose: str
    clinics: tuple[int, ...]
    server_round: int
    step: int
    numbers: int


def normals(draws: Draws) -> Floats:
    """Return standard normal draws, ``[row, number]``: the next of those announced if it is they, or drawn now.

    Raises
    ------
    Exception
        What drawing raises, in whichever thread.
    """
    helper = _helper()
    if helper is not None and (drawn := helper.taken(draws)) is not None:
        return drawn
    rows = _room(draws)
    fill_normals(rows, *draws[:-1])
    return rows


@contextmanager
def announced(steps: Iterable[Draws]) -> Iterator[None]:
    """Tell which draws come next, in their order; what is not asked for meanwhile is dropped."""
    helper = _helper()
    if helper is None:
        yield
        return
    helper.begin(draws for draws in steps if LEAST <= len(draws.keys) * draws.numbers <= MOST)
    try:
        yield
    finally:
        helper.drop()


@contextmanager
def drawing_ahead() -> Iterator[None]:
    """Have what this thread announces drawn by a second one, which ends with the context, however that ends."""
    if _helper() is not None:
        yield
        return
    helper = _own.helper = _Helper()
    try:
        yield
    finally:
        helper.end()
        _own.helper = None


class _Helper:
    """A second thread, which always has something to draw: of one that sleeps, to wake it takes as long as to draw."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.ended = False
        self._pool = ThreadPoolExecutor(1, "normals")
        self._steps: Iterator[Draws] = iter(())
        self._drawing = deque[tuple[Draws, Floats, Future[None]]]()

    def begin(self, steps: Iterable[Draws]) -> None:
        self._steps = iter(steps)
        self._go_on()

    def taken(self, draws: Draws) -> Floats | None:
        """Return draws once they are made; None where those that are being made are others."""
        if not self._drawing or self._drawing[0][0] != draws:
            return None
        _, rows, made = self._drawing.popleft()
        self._go_on()
        made.result()
        return rows

    def drop(self) -> None:
        for _, _, made in self._drawing:
            made.cancel()
        self._drawing.clear()
        self._steps = iter(())

    def end(self) -> None:
        self.ended = True
        self._pool.shutdown(cancel_futures=True)

    def _go_on(self) -> None:
        while sum(rows.size for _, rows, _ in self._drawing) < AHEAD and (draws := next(self._steps, None)):
            rows = _room(draws)
            self._drawing.append((draws, rows, self._pool.submit(fill_normals, rows, *draws[:-1])))


_own = threading.local()


def _helper() -> _Helper | None:
    """Return this thread's helper; a process that was forked has none, and one that ended is none."""
    helper: _Helper | None = getattr(_own, "helper", None)
    return helper if helper is not None and helper.process == os.getpid() and not helper.ended else None


def _room(draws: Draws) -> Floats:
    return np.empty((len(draws.keys), draws.numbers))
