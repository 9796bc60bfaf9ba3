"""Privacy loss of DP-SGD's steps on a grid: what most plans spend most of their time on.

As dp-accounting's "connect the dots" [1]_ and its composition, for Poisson-sampled Gaussian noise under adding or
removing a record alone: hockey-stick divergences of a whole grid at once and one real transform for all steps. Never
below the true value.

References
----------
.. [1] Doroshenko et al., "Connect the dots: tighter discrete approximations of privacy loss distributions", PETS 2022.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.foundation.lazy import Lazy
from sim.scenario.privacy import MIN_DELTA

fft: Any = Lazy("scipy.fft")
special: Any = Lazy("scipy.special")

Floats = NDArray[np.float64]

_TAIL = 10.0
"""Standard deviations beyond which a loss counts as infinite, or as the least: a mass of 1e-23."""

_CUT = 1e-15
"""Mass of a composition that may lie outside the transform; it counts as infinite loss."""

LARGEST = 500.0
"""The largest epsilon that is found here."""

_ROUNDING = 2.0**-53
"""Mass that the transform may misplace, a step."""

_BY_WIDTH, _BY_DEVIATION = np.geomspace(1.0, 128.0, 22), np.geomspace(0.5, 1.5, 7)
"""Orders tried for a bound on a tail, over the width of the grid and over the best of a normal distribution."""

_NEGLIGIBLE = 80.0
"""A frequency whose amplitude falls below exp(-80) is left out."""


@lru_cache(maxsize=8)
def delta_of_steps(rate: float, sigma: float, steps: int, interval: float) -> Callable[[float], float]:
    """Compose steps of DP-SGD, with a sampling rate below 1, on a grid of losses.

    What is returned gives an upper bound on delta at an epsilon from 0 to ``LARGEST``.
    """
    removed = _composed(rate, sigma, steps, interval, removal=True)

    def delta(epsilon: float) -> float:
        found = removed(epsilon)
        # Adding a record hardly ever gives the larger delta: a coarser grid, which overstates it, mostly shows that.
        added = _composed(rate, sigma, steps, 4 * interval, removal=False)(epsilon)
        if added > max(found, MIN_DELTA):
            added = _composed(rate, sigma, steps, interval, removal=False)(epsilon)
        return max(found, added)

    return delta


@lru_cache(maxsize=16)
def _composed(rate: float, sigma: float, steps: int, interval: float, *, removal: bool) -> Callable[[float], float]:
    losses, masses, infinite = _repeated(*_one_step(rate, sigma, interval, removal=removal), steps, interval)
    with_record, without = _above(masses) + infinite, _above(masses * np.exp(-losses))

    def delta(epsilon: float) -> float:
        at = np.searchsorted(losses, epsilon)
        return float(with_record[at] - math.exp(epsilon) * without[at])

    return delta


def _above(masses: Floats) -> Floats:
    """Return the sums of all from each place on, ending with that of none."""
    return np.append(np.cumsum(masses[::-1])[::-1], 0.0)


def _one_step(rate: float, sigma: float, interval: float, *, removal: bool) -> tuple[int, Floats, float]:
    """Return the lowest point of the grid, the mass of each from there on, and that of infinite loss."""
    move = 1 / sigma
    ends = np.logaddexp(math.log1p(-rate), math.log(rate) + move * np.array([-_TAIL, move + _TAIL]) - move**2 / 2)
    lowest, highest = ends if removal else -ends[::-1]
    first, last = math.floor(lowest / interval), math.ceil(highest / interval)
    losses = np.arange(first, last + 1) * interval
    log_ratio = losses if removal else -losses  # of the distribution with the record to that without
    reached = log_ratio > math.log1p(-rate)
    ratio = log_ratio[reached]
    shifted = ratio - math.log(rate) + np.log(-np.expm1(math.log1p(-rate) - ratio))  # log ratio without sampling
    at = shifted / move + move / 2
    deltas = np.zeros_like(losses)
    if removal:
        deltas[~reached] = -np.expm1(losses[~reached])
        deltas[reached] = rate * (special.ndtr(move - at) - np.exp(shifted + special.log_ndtr(-at)))
    else:
        deltas[reached] = rate * (np.exp(shifted - ratio) * special.ndtr(at) - np.exp(-ratio) * special.ndtr(at - move))
    falls = np.diff(np.minimum.accumulate(np.clip(deltas, 0.0, 1.0)))
    width = math.expm1(interval)
    masses = np.empty_like(deltas)
    masses[0] = 1 - deltas[0] + falls[0] / width
    masses[1:-1] = (falls[1:] - falls[:-1] * math.exp(interval)) / width
    masses[-1] = falls[-1] / math.expm1(-interval)
    return first, np.maximum(masses, 0.0), float(deltas[-1])


def _repeated(first: int, masses: Floats, infinite: float, steps: int, interval: float) -> tuple[Floats, Floats, float]:
    """Return positive losses, the mass of each, and that of infinite loss, after so many steps."""
    low, high = _edge(masses, steps, -1), _edge(masses, steps, 1)
    size = fft.next_fast_len(max(high - low + 1, len(masses)), real=True)
    spectrum = fft.rfft(masses, size)
    kept = np.abs(spectrum) > math.exp(-_NEGLIGIBLE / steps)
    spectrum[kept] = np.exp(steps * np.log(spectrum[kept]))
    spectrum[~kept] = 0.0
    points = np.arange(max(low, 1 - steps * first), high + 1)
    losses = np.asarray((points + steps * first) * interval, dtype=np.float64)
    lost = misplaced(steps) - math.expm1(steps * math.log1p(-infinite))
    return losses, fft.irfft(spectrum, size)[points % size], lost


def misplaced(steps: int) -> float:
    """Return the mass that a transform of so many steps may put elsewhere: what it says of a smaller delta is noise."""
    return _CUT + steps * _ROUNDING


def _edge(masses: Floats, steps: int, side: int) -> int:
    """Return beyond which point the sum of so many draws has a mass of at most ``_CUT / 2``, by Chernoff's bound.

    The order that gives the tightest bound is looked for on a coarser grid.
    """
    points = np.arange(float(len(masses)))
    mean = float((points * masses).sum())
    allowed = math.log(2 / _CUT)

    def bounds(orders: Floats, at: Floats, weights: Floats) -> Floats:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            found: Floats = (steps * np.log((np.exp(np.outer(orders, at)) * weights).sum(axis=1)) + allowed) / orders
        return np.where(np.isfinite(found), found, side * math.inf)

    width = -(-len(masses) // 512)
    coarse = np.add.reduceat(masses, np.arange(0, len(masses), width))
    deviation = max(math.sqrt(float(((points - mean) ** 2 * masses).sum())), 1e-3)
    best = math.sqrt(2 * allowed / steps) / deviation  # of a normal distribution
    orders = side * np.concatenate([_BY_WIDTH / len(masses), _BY_DEVIATION * best])
    nearest = orders[np.argmin(side * bounds(orders, points[::width] + (width - 1) / 2 - mean, coarse))]
    bound = float(bounds(np.array([nearest]), points - mean, masses)[0]) + steps * mean
    furthest = (len(masses) - 1) * steps
    return math.ceil(min(bound, furthest)) if side > 0 else math.floor(max(bound, 0))
