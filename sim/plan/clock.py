"""How long a round takes: a clock turns each clinic's batches into seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from sim.clinics import ClinicResources
from sim.protocols import HEADER_BYTES

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Place = Literal["clinic", "server", "up", "down"]
PHASES = {"clinic": "clinic", "server": "server", "up": "upload", "down": "download"}


@dataclass(frozen=True)
class Leg:
    """One stretch of a batch's way: work at a place, or a message.

    Attributes
    ----------
    place : {"clinic", "server", "up", "down"}
    per_row : int
        FLOPs of the work, or bytes of the payload, for one record.
    """

    place: Place
    per_row: int


@dataclass(frozen=True)
class RoundLoad:
    """What a round asks of the clinics and of the server.

    Attributes
    ----------
    clinics : tuple of int
        Those who take part, in lane order.
    rows : ndarray
        ``[step, lane]`` records in each batch.
    steps : ndarray
        ``[lane]`` number of batches.
    legs : tuple of Leg
        The way of every batch, in order.
    begin_bytes, end_bytes : int
        Payload at the beginning (down) and the end (up) of each turn; no message where it is 0.
    turns : ndarray
        ``[lane]`` number of turns.
    schedule : tuple of (int, int) or None
        ``(lane, step)`` in the order in which one serial body serves them; None where every clinic has a body copy.
    handed_on : bool
        Whether a turn begins only when the one before it has ended (the relay).
    common_server_flops : float
        The server's work that waits for all clinics: aggregation, or training on pooled records.
    """

    clinics: tuple[int, ...]
    rows: Ints
    steps: Ints
    legs: tuple[Leg, ...]
    begin_bytes: int
    end_bytes: int
    turns: Ints
    schedule: tuple[tuple[int, int], ...] | None
    handed_on: bool
    common_server_flops: float

    def may_queue(self, workers: int) -> bool:
        """Whether more clinics than workers have a body copy that is served at the same time."""
        at_server = any(leg.place == "server" for leg in self.legs)
        return self.schedule is None and at_server and len(self.clinics) > workers


@dataclass(frozen=True)
class RoundTime:
    """When a round is over, and what each clinic spent on what.

    Attributes
    ----------
    seconds : float
        From the first download to the end of the aggregation.
    phases : dict of str to ndarray
        ``[lane]`` seconds of ``download``, ``clinic``, ``upload`` and ``server``.
    """

    seconds: float
    phases: dict[str, Floats]


class Clock(Protocol):
    """Anything that times a round."""

    def time_round(self, load: RoundLoad) -> RoundTime:
        """Return how long a round takes."""
        ...


@dataclass(frozen=True)
class ClosedFormClock:
    """Times a round without a simulation of events.

    Body copies (SplitFed V1 and V3) are served at once, a worker of the server's full rate for every clinic: where more
    clinics are served than there are workers a queue may form, and the time is a lower bound (Thapa et al. 2022, table
    1, with a rate and a latency for each clinic and direction). One body (split learning, SplitFed V2) serves the
    batches in the order of the schedule and waits for each, so that its times are exact.

    Attributes
    ----------
    resources : sequence of ClinicResources
        Of all clinics.
    server_flop_per_s : float
        Rate of one worker.
    """

    resources: Sequence[ClinicResources]
    server_flop_per_s: float

    def time_round(self, load: RoundLoad) -> RoundTime:
        """Return when the last clinic has finished and the common work is done."""
        active = np.arange(len(load.rows))[:, None] < load.steps
        legs = [self._leg_seconds(leg, load) * active for leg in load.legs]
        begin = self._message_seconds("down", load, load.begin_bytes) if load.begin_bytes else np.zeros(len(load.steps))
        end = self._message_seconds("up", load, load.end_bytes) if load.end_bytes else np.zeros(len(load.steps))
        phases = {phase: np.zeros(len(load.steps)) for phase in ("download", "clinic", "upload", "server")}
        phases["download"] += begin * load.turns
        phases["upload"] += end * load.turns
        for leg, seconds in zip(load.legs, legs, strict=True):
            phases[PHASES[leg.place]] += seconds.sum(0)
        busy = np.sum(list(phases.values()), axis=0)
        if load.schedule is None:
            finished = float(busy.max(initial=0.0))
        elif load.handed_on:
            finished = float(busy.sum())
        else:
            finished = _one_body(load, legs, begin, end)
        return RoundTime(finished + load.common_server_flops / self.server_flop_per_s, phases)

    def _leg_seconds(self, leg: Leg, load: RoundLoad) -> Floats:
        if leg.place == "server":
            return np.asarray(load.rows * (leg.per_row / self.server_flop_per_s), dtype=np.float64)
        if leg.place == "clinic":
            return load.rows * leg.per_row / self._of(load, "compute_flop_per_s")
        return self._message_seconds(leg.place, load, load.rows * leg.per_row)

    def _message_seconds(self, direction: Literal["up", "down"], load: RoundLoad, payload: Ints | int) -> Floats:
        rate = self._of(load, "uplink_bits_per_s" if direction == "up" else "downlink_bits_per_s")
        return np.asarray(self._of(load, "latency_s") + 8 * (payload + HEADER_BYTES) / rate, dtype=np.float64)

    def _of(self, load: RoundLoad, name: str) -> Floats:
        return np.array([getattr(self.resources[k], name) for k in load.clinics], dtype=np.float64)


def _one_body(load: RoundLoad, legs: Sequence[Floats], begin: Floats, end: Floats) -> float:
    """Follow the schedule: a batch is served when it has arrived and the body is free; then its clinic goes on.

    The body is taken from the first to the last of the server's legs, U-shaped also while the tail is at work.
    """
    at_server = [i for i, leg in enumerate(load.legs) if leg.place == "server"]
    first, last = at_server[0], at_server[-1]
    before, served, after = (
        np.sum([np.zeros(load.rows.shape), *legs[part]], axis=0).tolist()
        for part in (slice(first), slice(first, last + 1), slice(last + 1, None))
    )
    clinic_free = begin.tolist()
    body_free = 0.0
    for lane, step in load.schedule or ():
        body_free = max(body_free, clinic_free[lane] + before[step][lane]) + served[step][lane]
        clinic_free[lane] = body_free + after[step][lane]
    return float(np.max(np.array(clinic_free) + end))
