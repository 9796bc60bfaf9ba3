"""How far predicted log-odds are from the labels, by group of records: intercept and slope of logistic models."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

LEAST_PROBABILITY: Final = float(np.finfo(np.float32).tiny)
_STEPS: Final = 100
"""Newton steps at most; ten are usual."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


def sums(values: Floats, group: Ints, groups: int) -> Floats:
    """Return ``[group]`` the sum of the values that belong to each."""
    return np.bincount(group, weights=values, minlength=groups).astype(np.float64)


def calibration_intercept(log_odds: Floats, y: Ints, group: Ints, sizes: Ints) -> Floats:
    """Return ``[group]`` the shift of the log-odds after which as many cases are expected as there are.

    Newton's steps within a bracket that the extreme log-odds give, halved where a step leaves it.
    """
    groups = len(sizes)
    cases = sums(y.astype(np.float64), group, groups)
    both = (cases > 0) & (cases < sizes)
    share = np.where(both, cases / np.maximum(sizes, 1), 0.5)
    lowest, highest = np.full(groups, np.inf), np.full(groups, -np.inf)
    np.minimum.at(lowest, group, log_odds)
    np.maximum.at(highest, group, log_odds)
    centre = np.log(share / (1 - share))
    low, high = np.where(both, centre - highest, 0.0), np.where(both, centre - lowest, 0.0)
    shift = (low + high) / 2
    for _ in range(_STEPS):
        p = _sigmoid(log_odds + shift[group])
        excess = sums(p, group, groups) - cases
        low, high = np.where(excess <= 0, shift, low), np.where(excess >= 0, shift, high)
        curvature = sums(p * (1 - p), group, groups)
        step = excess / np.maximum(curvature, LEAST_PROBABILITY)
        inside = (shift - step >= low) & (shift - step <= high)
        new = np.where(inside, shift - step, (low + high) / 2)
        done = np.abs(new - shift)[both].max(initial=0.0) < 1e-12
        shift = new
        if done:
            break
    return np.where(both, shift, np.nan)


def calibration_slope(log_odds: Floats, y: Ints, group: Ints, sizes: Ints) -> Floats:
    """Return ``[group]`` the slope of a logistic model of the label on the log-odds, by Newton's steps that climb."""
    groups = len(sizes)
    fits = _overlap(log_odds, y, group, groups)

    def total(values: Floats) -> Floats:
        return sums(values, group, groups)

    size = np.maximum(sizes, 1)
    z = log_odds - (total(log_odds) / size)[group]
    scale = np.where(fits, np.sqrt(total(z**2) / size), 1.0)
    z = z / scale[group]
    share = np.where(fits, total(y.astype(np.float64)) / size, 0.5)
    intercept, slope = np.log(share / (1 - share)), np.zeros(groups)

    def likelihood(a: Floats, b: Floats) -> Floats:
        odds = a[group] + b[group] * z
        return total(y * odds - np.logaddexp(0.0, odds))

    best = likelihood(intercept, slope)
    for _ in range(_STEPS):
        p = _sigmoid(intercept[group] + slope[group] * z)
        weight, rest = p * (1 - p), y - p
        g0, g1 = total(rest), total(rest * z)
        h00, h01, h11 = total(weight), total(weight * z), total(weight * z**2)
        determinant = np.maximum(h00 * h11 - h01**2, LEAST_PROBABILITY)
        steps = (h11 * g0 - h01 * g1) / determinant, (h00 * g1 - h01 * g0) / determinant
        length = np.where(fits, 1.0, 0.0)
        for _ in range(30):
            tried = likelihood(intercept + length * steps[0], slope + length * steps[1])
            worse = tried < best - 1e-12 * np.abs(best)
            if not worse.any():
                break
            length = np.where(worse, length / 2, length)
        intercept, slope = intercept + length * steps[0], slope + length * steps[1]
        best = likelihood(intercept, slope)
        if (length * (np.abs(steps[0]) + np.abs(steps[1]))).max(initial=0.0) < 1e-10:
            break
    return np.where(fits, slope / scale, np.nan)


def _overlap(log_odds: Floats, y: Ints, group: Ints, groups: int) -> Mask:
    """Say of which groups no threshold separates the classes, so that the slope is finite."""
    lowest, highest = np.full((2, groups), np.inf), np.full((2, groups), -np.inf)
    np.minimum.at(lowest, (y, group), log_odds)
    np.maximum.at(highest, (y, group), log_odds)
    overlap: Mask = (highest[0] > lowest[1]) & (highest[1] > lowest[0])
    return overlap


def _sigmoid(odds: Floats) -> Floats:
    return np.exp(-np.logaddexp(0.0, -odds))
