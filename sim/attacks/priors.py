"""What an attacker takes for granted of a record: its range, and that neighbours are alike."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sim.attacks.likeness import Floats


def plausible(known: Floats) -> tuple[Floats, Floats]:
    """Return least and largest values: of all pixels or samples; of a column its range widened by half at both ends."""
    if known.ndim > 2:
        return np.full(known.shape[1:], known.min()), np.full(known.shape[1:], known.max())
    low, high = known.min(0), known.max(0)
    return low - (high - low) / 2, high + (high - low) / 2


def total_variation(x: Tensor) -> Tensor:
    """Return the mean absolute difference of neighbours along the axes of ``[lane, record, channel, *axis]``."""
    steps = [x.diff(dim=axis).abs().mean() for axis in range(3, x.dim()) if x.shape[axis] > 1]
    return torch.stack(steps).sum() if steps else torch.zeros(())
