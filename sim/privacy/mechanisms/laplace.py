"""Laplace noise on smashed rows: each is clipped to L1 norm C and leaves with Laplace(b) in every coordinate.

As for Gaussian noise, neighbours are databases in which one record is replaced. Two rows of L1 norm C lie 2 C apart at
most, whatever their signs. Its epsilon, exposures * (sum over kinds of reach / multiplier), needs no delta.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
from numpy.typing import NDArray

from sim.privacy.accounting import compose, gaussian_epsilon
from sim.privacy.events import DpEvent, dp
from sim.privacy.mechanisms.mechanism import OnRows


@final
class Laplace(OnRows):
    """Clips by the L1 norm, and adds Laplace noise."""

    name = "laplace"
    norm = 1
    pure = True
    sentence = (
        "one record: its row at the cut is clipped and noised, with an epsilon that needs no delta; for the server, on "
        "the terms of smashed-noise"
    )

    def reach(self, *, never_negative: bool) -> float:
        """See ``OnRows``: signs make no difference."""
        return 2.0

    def event(self, noise: float, exposures: int) -> DpEvent:
        """See ``OnRows``."""
        return compose({dp.LaplaceDpEvent(noise): exposures}) if noise else dp.NonPrivateDpEvent()

    def noise_for(self, target: float, delta: float, exposures: int, gradients: float, reach: Sequence[float]) -> float:
        """See ``OnRows``: epsilons add up, that of the gradients' Gaussian noise too."""
        spent = gaussian_epsilon((exposures * 4 / gradients**2) ** 0.5, delta) if gradients else 0.0
        left = (target - spent) / exposures
        return sum(reach) / left if left > 0 else 0.0

    def draw(self, random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """See ``OnRows``."""
        return random.laplace(size=shape)


MECHANISM = Laplace()
