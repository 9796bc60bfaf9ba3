"""Gaussian noise on smashed rows: each is clipped to norm C and leaves with N(0, (sigma C)^2) in every coordinate.

The server sees which rows arrive, so that neighbours are databases in which one record is replaced, and there is no
amplification by sampling. Two rows of norm C lie 2 C apart at most, and sqrt(2) C if neither has a negative value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
from numpy.typing import NDArray

from sim.privacy.accounting import compose
from sim.privacy.calibration import calibrate
from sim.privacy.events import DpEvent, dp
from sim.privacy.mechanisms.mechanism import OnRows


@final
class SmashedNoise(OnRows):
    """Clips by the L2 norm, and adds Gaussian noise."""

    name = "smashed-noise"
    norm = 2
    sentence = (
        "one record: its row at the cut is clipped and noised; for the server, if the clinic's parts are not trained "
        "on raw records, or are trained with dp-sgd as well"
    )

    def reach(self, *, never_negative: bool) -> float:
        """See ``OnRows``."""
        return 2**0.5 if never_negative else 2.0

    def event(self, noise: float, exposures: int) -> DpEvent:
        """See ``OnRows``."""
        return compose({dp.GaussianDpEvent(noise): exposures}) if noise else dp.NonPrivateDpEvent()

    def noise_for(self, target: float, delta: float, exposures: int, gradients: float, reach: Sequence[float]) -> float:
        """See ``OnRows``: mu^2 = exposures * (sum over kinds (reach / multiplier)^2 + (2 / sigma)^2)."""
        spent = exposures * 4 / gradients**2 if gradients else 0.0
        left = (calibrate(target, delta, 1.0, 1) ** -2 - spent) / exposures
        return (sum(r**2 for r in reach) / left) ** 0.5 if left > 0 else 0.0

    def draw(self, random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """See ``OnRows``."""
        return random.standard_normal(shape)


MECHANISM = SmashedNoise()
