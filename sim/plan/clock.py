"""How long a round takes: a clock turns each clinic's counts into seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sim.clinics import ClinicResources

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class RoundLoad:
    """What a round asks of every clinic and of the server.

    Attributes
    ----------
    messages_up, messages_down, bytes_up, bytes_down : ndarray
        ``[clinic]``; zero for a clinic that does not take part.
    clinic_flops, server_flops : ndarray
        ``[clinic]``; the server's work on behalf of each clinic.
    common_server_flops : float
        The server's work that waits for all clinics: aggregation, or training on pooled records.
    """

    messages_up: Ints
    messages_down: Ints
    bytes_up: Ints
    bytes_down: Ints
    clinic_flops: Ints
    server_flops: Ints
    common_server_flops: float


@dataclass(frozen=True)
class RoundTime:
    """When a round is over, and what each clinic spent on what.

    Attributes
    ----------
    seconds : float
        From the first download to the end of the aggregation.
    phases : dict of str to ndarray
        ``[clinic]`` seconds of ``download``, ``clinic``, ``upload`` and ``server``.
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
    """Clinics in parallel, each served at once: a worker of the server's full rate for every clinic, no queue.

    Thapa et al. (2022), table 1, with a rate and a latency for each clinic and direction. Where more clinics than
    ``server_workers`` are served batch by batch a queue may form, and the time is a lower bound.

    Attributes
    ----------
    resources : sequence of ClinicResources
    server_flop_per_s : float
        Rate of one worker.
    """

    resources: Sequence[ClinicResources]
    server_flop_per_s: float

    def time_round(self, load: RoundLoad) -> RoundTime:
        """Return the slowest clinic's time plus the common work."""
        latency = np.array([r.latency_s for r in self.resources])
        uplink = np.array([r.uplink_bits_per_s for r in self.resources])
        downlink = np.array([r.downlink_bits_per_s for r in self.resources])
        compute = np.array([r.compute_flop_per_s for r in self.resources])
        phases = {
            "download": load.messages_down * latency + 8 * load.bytes_down / downlink,
            "clinic": load.clinic_flops / compute,
            "upload": load.messages_up * latency + 8 * load.bytes_up / uplink,
            "server": load.server_flops / self.server_flop_per_s,
        }
        slowest = float(np.sum(list(phases.values()), axis=0).max())
        return RoundTime(slowest + load.common_server_flops / self.server_flop_per_s, phases)
