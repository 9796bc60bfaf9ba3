"""What has to be said beside a ranking by the score within clinics, so that nobody takes it for more than it is."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
import scipy

from sim.foundation.text import score_text, scores_apart, value_text
from sim.inference.differences import LEVEL, Verdict, all_differences
from sim.inference.evidence import Evidence
from sim.report.elsewhere import few
from sim.report.spoken import Spoken, spoken
from sim.report.summary import PREVALENCE, title
from sim.report.tuning import at_the_edge, contest_of

if TYPE_CHECKING:
    from sim.report.compare import Comparison

_FEWEST_ROUNDS: Final = 10
_LAST: Final = 0.2
"""Share of the rounds in which nothing more should be gained."""
_STILL: Final = 0.05
"""Share of the whole fall of the loss that is more than nothing, if it is also more than `_LEAST`."""
_LEAST: Final = 0.002


def cautions(
    within: Comparison,
    pooled: Comparison,
    brier: Evidence,
    runs: pd.DataFrame,
    trials: pd.DataFrame,
    predictions: pd.DataFrame,
    rounds: pd.DataFrame,
) -> Iterator[str]:
    """Yield what a referee would add to a comparison.

    Parameters
    ----------
    within, pooled : Comparison
        Of the score within clinics and over all records.
    brier : Evidence
        Of the Brier score or what stands for it, of the line of reference too (:data:`PREVALENCE`) where there is one.
    runs : DataFrame
        The runs that are compared, with the names of their groups in `series`.
    trials : DataFrame
        Rows of ``trials.parquet``.
    predictions, rounds : DataFrame
        Those of all runs, with a column ``run_id``.
    """
    yield from _otherwise(within, pooled, spoken(runs))
    yield from of_methods(within.means, brier, runs, trials, predictions, rounds, spoken(runs))


def of_methods(
    means: pd.DataFrame,
    brier: Evidence,
    runs: pd.DataFrame,
    trials: pd.DataFrame,
    predictions: pd.DataFrame,
    rounds: pd.DataFrame,
    words: Spoken,
) -> Iterator[str]:
    """Yield what a referee would add of each method by itself, with `means` of the headline."""
    yield from _by_chance(means, brier, words)
    yield from at_the_edge(trials_of(trials, runs))
    yield from remarks(runs, predictions, rounds)


def trials_of(trials: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Return the trials of the methods and swept values that some runs have."""
    keys = [key for key in contest_of(trials) if key in runs and key not in ("seed", "held_out")]
    for key in keys:
        tried, ran = (table[key].astype(object).fillna("") for table in (trials, runs))
        told = {value_text(value) for value in ran.unique()}
        trials = trials[tried.isin([value for value in tried.unique() if value_text(value) in told])]
    return trials


def _otherwise(within: Comparison, pooled: Comparison, words: Spoken) -> Iterator[str]:
    """Say that the score over all records has another leader, unless the two are equal or are written so."""
    other = within.differences.set_index("group")
    mean = pooled.means.set_index("group")["mean"]
    if pooled.best == within.best or not mean[pooled.best] > mean[within.best]:
        return
    leading, behind = scores_apart(mean[pooled.best], mean[within.best])
    if leading != behind and other.loc[pooled.best, "verdict"] != Verdict.EQUAL:
        yield (
            f"The {title(words.pooled)} ranks otherwise: {pooled.best} leads with {leading} "
            f"before {within.best} with {behind}; it also rewards {words.across}."
        )


def _by_chance(means: pd.DataFrame, brier: Evidence, words: Spoken) -> Iterator[str]:
    """Name the methods that are not shown to beat what is known of each clinic."""
    idle = means.loc[means["mean"] - means["half_width"].fillna(0.0) <= words.chance, "group"].tolist()
    if idle:
        verb = "are" if len(idle) > 1 else "is"
        yield f"{few(idle)} {verb} not shown to {words.by_chance}."
    pairs = all_differences(brier)
    worse = [
        group
        for group, other, mean, width in pairs[["first", "second", "mean", "half_width"]].itertuples(index=False)
        if other == PREVALENCE and (mean >= 0 or mean + width >= 0)  # of one seed there is no width
    ]
    if worse:
        known = f"each {words.place}'s {words.known}"
        yield f"No better {words.proper_word} than that of {known} is shown for {few(worse)}."


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
    own = own.sort_values("round")
    codes = pd.factorize(own["run_id"])[0]
    by_run = np.argsort(codes, kind="stable")
    columns = [own[name].to_numpy()[by_run] for name in ("series", "round", "loss")]
    begins = np.flatnonzero(np.diff(codes[by_run], prepend=-1))
    ends: dict[str, list[tuple[float, float, float]]] = {}
    for begin, end in pairwise([*begins, len(by_run)]):
        names, done, run = (column[begin:end] for column in columns)
        done = done / max(1, done.max())
        late, before = (run[(done > low) & (done <= low + _LAST)] for low in (1 - _LAST, 1 - 2 * _LAST))
        if len(run) > _FEWEST_ROUNDS and len(before):
            fall, gap = run[0] - run.min(), before.min() - late.max()
            ends.setdefault(str(names[0]), []).append((before.mean() - late.mean(), fall, gap))
    found = {}
    for name in filter(ends.__contains__, series.unique()):
        gained, fall, gap = np.array(ends[name]).T
        runs, mean = len(gained), float(gained.mean())
        sure = gap.min() > 0
        if runs > 2:
            sure = mean > scipy.special.stdtrit(runs - 1, 1 - LEVEL / len(ends)) * gained.std(ddof=1) / np.sqrt(runs)
        if sure and mean > max(_STILL * fall.mean(), _LEAST):
            found[name] = mean
    return found
