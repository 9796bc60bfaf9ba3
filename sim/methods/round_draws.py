"""What is drawn for the round that is on, once for all who ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from sim.methods.attendance import Attendance
from sim.methods.sampling import Batches, Sampling, participants


@dataclass(frozen=True, eq=False)
class RoundDraws:
    """One round.

    Attributes
    ----------
    attendance : Attendance
    lanes : mapping of int to int
        The lane of each clinic that is there, lost ones too; in lane order.
    batches : dict
        By clinics in lane order.
    """

    attendance: Attendance
    lanes: Mapping[int, int]
    batches: dict[tuple[int, ...], Batches] = field(default_factory=dict)


@lru_cache(maxsize=16)
def everyone_returns(
    sampling: Sampling,
    seed: int,
    server_round: int,
    sizes: tuple[int, ...],
    share: float,
    present: tuple[int, ...] | None = None,
) -> Attendance:
    """Draw the clinics of a round in which nobody is away or lost, unless it is stated who is there."""
    drawn = participants(seed, server_round, len(sizes), share) if present is None else np.array(present)
    return Attendance.complete(drawn, sampling.steps(np.array(sizes)[drawn]))
