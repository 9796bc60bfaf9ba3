"""Scores of predicted amounts: of records of one clinic, of each, or of all."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

AMOUNT_METRICS: Final = ("within_clinic_r2", "r2", "mae", "loss", "decile_error")
AMOUNT_CALIBRATION: Final = ("calibration_intercept", "calibration_slope")
_GROUPS: Final = 10

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def deviations(amount: Floats, block: Ints) -> Floats:
    """Return ``[record]`` each amount less the mean of its block."""
    with np.errstate(invalid="ignore"):
        means = np.bincount(block, amount) / np.bincount(block)
    return np.asarray(amount - means[block])


def amount_scores(
    predicted: Floats, amount: Floats, losses: Floats, offsets: Ints, *, last: bool
) -> tuple[dict[str, Floats], dict[str, float]]:
    """Return scores by clinic, with its number of pairs of records, and over all records.

    Parameters
    ----------
    predicted, amount : ndarray
        ``[record]`` in the amounts' unit.
    losses : ndarray
        ``[record]``
    offsets : ndarray
        ``[clinic + 1]`` where each clinic's records begin, and the end of the last.
    last : bool
        Whether to fit the calibration, too.

    Returns
    -------
    dict of str to ndarray
        ``[clinic]``. R2, the share of the squared deviations from the mean that is explained, below 0 where the mean of
        these very records would do better; the mean absolute error; the mean loss; the mean difference, without sign,
        of mean prediction and mean amount by tenths of the predicted amount; and how far amounts lie above predictions
        on the whole, and the slope of their line on predictions (0 and 1 are ideal). NaN where all amounts are the
        same, or there is none.
    dict of str to float
        The same over all records, and the within-clinic R2: of deviations from each clinic's own mean, so that knowing
        these means brings nothing.
    """
    rest = amount - predicted
    clinic = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))

    def scored(own: slice) -> dict[str, float]:
        p, a = predicted[own], amount[own]
        if not len(a):
            return dict.fromkeys((*AMOUNT_METRICS[1:], *(AMOUNT_CALIBRATION if last else ())), np.nan)
        found = {
            "r2": _share(rest[own], a - a.mean()),
            "mae": float(np.abs(rest[own]).mean()),
            "loss": float(losses[own].mean()),
            "decile_error": _by_tenths(p, a),
        }
        if last:
            found |= dict(zip(AMOUNT_CALIBRATION, _line(p, a), strict=True))
        return found

    every = [scored(slice(a, b)) for a, b in pairwise(offsets.tolist())]
    by_clinic = {name: np.array([own[name] for own in every]) for name in (every[0] if every else ())}
    sizes = np.diff(offsets).astype(np.float64)
    by_clinic["pairs"] = sizes * (sizes - 1) / 2
    return by_clinic, {"within_clinic_r2": _share(rest, deviations(amount, clinic)), **scored(slice(None))}


def _share(rest: Floats, spread: Floats) -> float:
    total = float(spread @ spread)
    return 1 - float(rest @ rest) / total if total > 0 else np.nan


def _by_tenths(predicted: Floats, amount: Floats) -> float:
    tenths = [own for own in np.array_split(np.argsort(predicted, kind="stable"), _GROUPS) if len(own)]
    gaps = [len(own) * abs(predicted[own].mean() - amount[own].mean()) for own in tenths]
    return float(sum(gaps) / len(amount))


def _line(predicted: Floats, amount: Floats) -> tuple[float, float]:
    centred = predicted - predicted.mean()
    spread = float(centred @ centred)
    slope = float(centred @ amount) / spread if spread > 0 else np.nan
    return float(amount.mean() - predicted.mean()), slope
