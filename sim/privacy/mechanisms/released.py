"""What is noised leaves on a public grid, so that no floating-point number betrays what lies under the noise.

A sum of a value and Gaussian noise in floating point has gaps that depend on the value: which numbers can be reached
tells neighbours apart (Mironov, "On significance of the least significant bits for differential privacy", CCS 2012).
Here value and noise are added in 64 bits and rounded to the nearest multiple of a step that public numbers decide. With
ideal noise that rounding is post-processing, and the mechanism's guarantee holds as it is. The noise that is drawn
has 52 random bits: what they and the rounding in 64 bits add to epsilon and delta at most is in ``docs/privacy.md``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ROW_BITS, SUM_BITS = 10, 16
LARGEST_CODE = 2**15 - 1
"""Noised rows leave as numbers of 16 bits."""


def row_step(scale: float, clip: float) -> float:
    """Return the step of the grid for noised rows: a power of two, of which 16 bits hold row and noise.

    The noise's standard deviation, or scale, is 512 to 1,024 steps, but no less than lets the clip be 16,384 steps.
    """
    return 2.0 ** (math.ceil(math.log2(max(scale, clip / 16))) - ROW_BITS)


def sum_step(scale: Floats) -> Floats:
    """Return the steps of the grids for noised sums: powers of two, 2^15 to 2^16 steps a standard deviation above 0."""
    return np.ldexp(1.0, np.ceil(np.log2(scale)).astype(np.int64) - SUM_BITS)


def as_codes(noised: Floats, step: float) -> NDArray[np.int16]:
    """Return the nearest multiples of the step, as numbers of steps; what lies beyond 16 bits becomes the last one."""
    return np.clip(np.rint(noised / step), -LARGEST_CODE, LARGEST_CODE).astype(np.int16)


def on_grid(noised: Floats, scale: Floats | float) -> Floats:
    """Round noised sums to their grids, in place; ``scale`` is one for all of them, or broadcasts against them."""
    step = sum_step(np.asarray(scale))
    noised *= 1 / step
    np.rint(noised, out=noised)
    noised *= step
    return noised
