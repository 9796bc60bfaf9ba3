"""What has to be said beside a ranking by the score within clinics, so that nobody takes it for more than it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pandas as pd

from sim.foundation.text import scores_apart, value_text
from sim.inference.differences import Verdict, all_differences
from sim.inference.evidence import Evidence
from sim.report.edges import at_the_edge, contest_of
from sim.report.elsewhere import few
from sim.report.referee import remarks
from sim.report.spoken import Spoken, spoken
from sim.report.summary import PREVALENCE, title

if TYPE_CHECKING:
    from sim.report.compare import Comparison


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
        tried, ran = (table[key].astype(object).fillna("").map(value_text) for table in (trials, runs))
        trials = trials[tried.isin(ran)]
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
