"""What a referee would ask of single methods: whether they tell patients apart, and whether they were done."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from sim.foundation.text import score_text
from sim.inference.differences import LEVEL
from sim.report.elsewhere import few
from sim.report.spoken import spoken
from sim.report.summary import PREVALENCE

_FEWEST_ROUNDS: Final = 10
_LAST: Final = 0.2
"""Share of the rounds in which nothing more should be gained."""
_STILL: Final = 0.05
"""Share of the whole fall of the loss that is more than nothing, if it is also more than `_LEAST`."""
_LEAST: Final = 0.002


def remarks(runs: pd.DataFrame, predictions: pd.DataFrame, rounds: pd.DataFrame) -> Iterator[str]:
    """Name the methods that predict one class only, and those that were still improving at the end.

    The loss on held-out records warns only, and chooses nothing; where there are validation records, theirs warns.

    Parameters
    ----------
    runs : DataFrame
        Runs at one level, with their `series`.
    predictions, rounds : DataFrame
        Those of all runs, with a column ``run_id``.
    """
    series = runs.loc[runs["method"] != PREVALENCE].set_index("run_id")["series"]
    if one_class := _of_one_class(series, predictions):
        verb = "predict" if len(one_class) > 1 else "predicts"
        yield f"{few(one_class)} {verb} the same {spoken(runs).value} for every held-out record in most runs."
    if improving := _improving(series, rounds):
        verb = "were" if len(improving) > 1 else "was"
        fell = score_text(max(improving.values()))
        yield (
            f"{few(list(improving))} {verb} still improving when training ended (in the last fifth of the rounds the "
            f"mean loss was {'up to ' if len(improving) > 1 else ''}{fell} lower than in the fifth before): more "
            "rounds may do better."
        )


def _of_one_class(series: pd.Series[str], predictions: pd.DataFrame) -> list[str]:
    """Return the series whose model, in more than half of the runs, predicts one class for all."""
    columns = [name for name in predictions if str(name).startswith("probability_")]
    if predictions.empty or not columns:
        return []
    own = predictions[predictions["run_id"].isin(series.index)]
    predicted = own[columns].fillna(-1.0).to_numpy().argmax(axis=1)
    by_run = pd.Series(predicted, index=own["run_id"].to_numpy()).groupby(level=0)
    same = by_run.min() == by_run.max()
    shares = same.groupby(series).mean()
    return [name for name in series.unique() if shares.get(name, 0.0) > 0.5]


def _improving(series: pd.Series[str], rounds: pd.DataFrame) -> dict[str, float]:
    """Return by series how much lower its loss was at the end than before, where that is no chance of rounds or seeds.

    Each run's mean loss in the last fifth of its rounds is held against that in the fifth before. Of three runs or more
    the mean fall is tested (one-sided t, Bonferroni over the series); of fewer no late loss may reach an earlier one.
    """
    if "loss" not in rounds:
        return {}
    loss = rounds["validation_loss"].fillna(rounds["loss"]) if "validation_loss" in rounds else rounds["loss"]
    own = rounds.assign(loss=loss, series=rounds["run_id"].map(series)).dropna(subset=["loss", "series"])
    ends: dict[str, list[tuple[float, float, float]]] = {}
    for _, run in own.sort_values("round").groupby("run_id", sort=False):
        done = run["round"] / run["round"].max()
        late, before = (run.loc[(done > low) & (done <= low + _LAST), "loss"] for low in (1 - _LAST, 1 - 2 * _LAST))
        if len(run) > _FEWEST_ROUNDS and len(before):
            fall, gap = run["loss"].iloc[0] - run["loss"].min(), before.min() - late.max()
            ends.setdefault(str(run["series"].iloc[0]), []).append((before.mean() - late.mean(), fall, gap))
    found = {}
    for name in filter(ends.__contains__, series.unique()):
        gained, fall, gap = np.array(ends[name]).T
        runs, mean = len(gained), float(gained.mean())
        sure = gap.min() > 0
        if runs > 2:
            sure = mean > stdtrit(runs - 1, 1 - LEVEL / len(ends)) * gained.std(ddof=1) / np.sqrt(runs)
        if sure and mean > max(_STILL * fall.mean(), _LEAST):
            found[name] = mean
    return found
