"""What tuning found: the validation score against each tuned key."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from sim.foundation.text import value_text
from sim.report.equal import Names, together_by_level
from sim.report.points import with_levels
from sim.report.summary import PREVALENCE, successful_runs
from sim.results.columns import is_tuned
from sim.scenario.spec import TUNED


def tuned_keys(trials: pd.DataFrame) -> list[str]:
    """List the tuned keys of which several values were tried, without what their columns begin with."""
    columns = [str(column) for column in trials if is_tuned(str(column))]
    return [column.removeprefix(TUNED) for column in columns if len(trials[column].map(str).unique()) > 1]


def tuning_points(trials: pd.DataFrame, names: Mapping[str, Names]) -> pd.DataFrame:
    """Compute what is drawn: ``series, level, key, value, text, validation_score, chosen, best``.

    `validation_score` is that of the best setting with this value, as a mean over seeds; `chosen` the share of the
    seeds whose chosen setting has it; `best` says whether no other value of the key scores higher. Keys without numbers
    have no `value`.

    Parameters
    ----------
    trials : DataFrame
        ``trials.parquet``.
    names : mapping of str to dict
        By level, the names of series; equal ones are drawn once.
    """
    ok = with_levels(successful_runs(trials[trials["method"] != PREVALENCE]))
    place = ["series", "level"]
    parts = []
    for key in tuned_keys(trials):
        own = ok.assign(text=ok[TUNED + key].map(value_text))
        by_seed = own.groupby([*place, "text", "seed"], sort=False, observed=True).agg(
            validation_score=("score", "max"), chosen=("chosen", "any")
        )
        table = by_seed.groupby([*place, "text"], sort=False, observed=True).mean().reset_index()
        highest = table.groupby(place, observed=True)["validation_score"].transform("max")
        value = pd.to_numeric(table["text"], errors="coerce")
        parts.append(table.assign(key=key, value=value, best=table["validation_score"] == highest))
    if not parts:
        return pd.DataFrame()
    table = pd.concat(parts, ignore_index=True).dropna(subset="validation_score")
    known = {level: own for level, own in names.items() if (table["level"] == level).any()}
    return together_by_level(table.sort_values(["key", "value"], kind="stable"), known)
