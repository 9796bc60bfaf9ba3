"""Summaries over clinics, where clinics are what is drawn: random effects, and where a new clinic's score may lie.

Every clinic has its own true value, normal around a mean. The variance between clinics is estimated by restricted
maximum likelihood, the mean's interval is Hartung & Knapp's (Statistics in Medicine 2001), and the prediction interval
for another clinic is that of Higgins, Thompson & Spiegelhalter (JRSS A 2009).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Final, Literal

import numpy as np
import pandas as pd
import scipy

from sim.inference.clinics import ByClinic
from sim.inference.differences import LEVEL, shared_level
from sim.inference.scores import Floats

FEWEST_CLINICS: Final = 5
"""Of fewer clinics nothing is said about others."""


@dataclass(frozen=True, kw_only=True)
class RandomEffects:
    """A mean over clinics, and how clinics vary."""

    clinics: int
    mean: float
    half_width: float  # Of the mean
    error: float  # Standard error of the mean, with the weights taken as known
    between: float  # Variance between clinics
    predicted: float  # Half-width of the interval of another clinic's true value


def random_effects(
    values: Floats, variances: Floats, level: float = LEVEL, method: Literal["REML", "DL"] = "REML"
) -> RandomEffects:
    """Summarise clinics' values.

    Parameters
    ----------
    values, variances : ndarray
        ``[clinic]``, three clinics at least.
    level : float
        Share of studies in which an interval may be wrong.
    method : str
        Restricted maximum likelihood, or DerSimonian & Laird (1986).
    """
    count = len(values)
    between = _reml(values, variances) if method == "REML" else _moments(values, variances)
    weights = _weights(variances, between)
    mean = float(weights @ values / weights.sum())
    error = math.sqrt(1 / weights.sum())
    spread = math.sqrt(float(weights @ (values - mean) ** 2) / (count - 1)) * error
    return RandomEffects(
        clinics=count,
        mean=mean,
        half_width=float(scipy.special.stdtrit(count - 1, 1 - level / 2)) * spread,
        error=error,
        between=between,
        predicted=float(scipy.special.stdtrit(count - 2, 1 - level / 2)) * math.hypot(math.sqrt(between), spread),
    )


def _weights(variances: Floats, between: float) -> Floats:
    total = variances + between
    return 1 / np.maximum(total, max(float(total.max()), 1e-12) * 1e-9)


def _moments(values: Floats, variances: Floats) -> float:
    w = _weights(variances, 0.0)
    mean = w @ values / w.sum()
    excess = w @ (values - mean) ** 2 - (len(values) - 1)
    return max(0.0, float(excess / (w.sum() - (w**2).sum() / w.sum())))


def _reml(values: Floats, variances: Floats) -> float:
    """Fisher's scoring of the restricted likelihood, from the moments' estimate."""
    between = _moments(values, variances)
    for _ in range(200):
        w = _weights(variances, between)
        mean = w @ values / w.sum()
        gradient = (w**2) @ (values - mean) ** 2 - w.sum() + (w**2).sum() / w.sum()
        information = (w**2).sum() - 2 * (w**3).sum() / w.sum() + ((w**2).sum() / w.sum()) ** 2
        step = float(gradient / information)
        proposed = max(0.0, between + step)
        if abs(proposed - between) <= 1e-10 * (1e-12 + proposed):
            return proposed
        between = proposed
    return between


def over_clinics(scores_by_clinic: ByClinic) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Summarise each method, and the differences of all pairs, over clinics.

    Returns
    -------
    estimates : DataFrame
        ``method, n, mean, half_width, predicted``: `n` clinics; half-width of the mean's interval, and of the interval
        of another clinic. NaN where fewer than :data:`FEWEST_CLINICS` can be scored.
    differences : DataFrame
        ``first, second, n, mean, half_width``; the intervals hold together.
    """
    eye = np.eye(len(scores_by_clinic.methods))
    places = list(combinations(range(len(eye)), 2))
    contrasts = np.array([eye[a] - eye[b] for a, b in places]).reshape(-1, len(eye))
    level = shared_level(eye, contrasts) if len(contrasts) else LEVEL
    names = scores_by_clinic.methods
    columns = ["n", "mean", "half_width", "predicted"]
    single = [_summary(scores_by_clinic, row, LEVEL) for row in eye]
    paired = [_summary(scores_by_clinic, row, level) for row in contrasts]
    estimates = pd.DataFrame(single, columns=columns)
    estimates.insert(0, "method", list(names))
    differences = pd.DataFrame(paired, columns=columns).drop(columns="predicted")
    differences.insert(0, "first", [names[a] for a, _ in places])
    differences.insert(1, "second", [names[b] for _, b in places])
    return estimates, differences


def _summary(of: ByClinic, contrast: Floats, level: float) -> tuple[int, float, float, float]:
    values, variances = of.contrast(contrast)
    if len(values) < FEWEST_CLINICS:
        return len(values), float(values.mean()) if len(values) else math.nan, math.nan, math.nan
    found = random_effects(values, variances, level)
    return len(values), found.mean, found.half_width, found.predicted
