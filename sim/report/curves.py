"""ROC and calibration curves from the predictions of held-out records, of two classes, over all seeds of a method."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sim.inference.grades import midranks

Floats = NDArray[np.float64]
_POINTS: Final = 101
_BINS: Final = 10
_FEWEST: Final = 50
"""Records below which a calibration curve would be noise."""


def roc(ok: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """Compute ROC curves within clinics: ``series, level, false_positive_rate, sensitivity``.

    A false-positive rate is that among the records of the same clinic and run (the covariate-adjusted ROC curve of
    Janes & Pepe, Biometrika 2009); a case weighs as much as it has pairs, so that the area is the within-clinic AUC.
    Empty where the classes are not two.
    """
    grid = np.linspace(0.0, 1.0, _POINTS)
    parts = []
    for key, own in _groups(ok, predictions):
        placed, weight = placements(own)
        if not len(placed):
            continue
        order = np.argsort(placed, kind="stable")
        reached = np.concatenate([[0.0], np.cumsum(weight[order])]) / weight.sum()
        share = reached[np.searchsorted(placed[order], grid, side="right")]
        parts.append(pd.DataFrame({**key, "false_positive_rate": grid, "sensitivity": share}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def placements(predictions: pd.DataFrame) -> tuple[Floats, Floats]:
    """Return for each case the share of its clinic's controls in its run that score higher, ties by half, and weights.

    The weight is the number of its clinic's controls; cases without any are left out.
    """
    block = predictions.groupby(["run_id", "clinic"], observed=True, sort=False).ngroup()
    score, case = predictions["probability_1"].to_numpy(float), predictions["label"].to_numpy() == 1
    within, own = (np.asarray(each, np.int64) for each in (block, block * 2 + case))
    controls = np.bincount(within, ~case, minlength=1)[within].astype(float)
    above = controls - np.subtract(midranks(score, within), midranks(score, own))
    kept = case & (controls > 0)
    return above[kept] / controls[kept], controls[kept]


def calibration(ok: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """Compute calibration curves: ``series, level, predicted, observed, records``, a row a tenth of the records."""
    parts = []
    for key, own in _groups(ok, predictions):
        if len(own) < _FEWEST:
            continue
        score, case = own["probability_1"].to_numpy(float), own["label"].to_numpy() == 1
        tenths = np.array_split(np.argsort(score, kind="stable"), _BINS)
        means = [(score[tenth].mean(), case[tenth].mean(), len(tenth)) for tenth in tenths]
        parts.append(pd.DataFrame(means, columns=["predicted", "observed", "records"]).assign(**key))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _groups(ok: pd.DataFrame, predictions: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    if "probability_1" not in predictions or "probability_2" in predictions:
        return
    place = ok[["run_id", "series", "level"]].assign(level=ok["level"].astype(str))
    joined = predictions.assign(run_id=predictions["run_id"].astype(str)).merge(place, on="run_id")
    for (series, level), own in joined.groupby(["series", "level"], sort=False):
        yield {"series": series, "level": level}, own
