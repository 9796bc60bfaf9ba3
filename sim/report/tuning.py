"""What tuning found: the validation score against each tuned key, and settings that did best at the edge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
import pandas as pd

from sim.foundation.text import value_text
from sim.methods.labels import method_label
from sim.report.elsewhere import few
from sim.report.points import Names, together_by_level, with_levels
from sim.report.summary import PREVALENCE, successful_runs
from sim.results.columns import is_tuned
from sim.scenario.spec import TUNED

_FEWEST_VALUES: Final = 3
"""Of fewer there is no inside of what was tried."""


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


def contest_of(trials: pd.DataFrame) -> list[str]:
    """Name the columns that say which trials one run chose among."""
    places = ("strategy", "cut", "seed", "held_out")
    return [name for name in map(str, trials) if name in places or ("." in name and not is_tuned(name))]


def at_the_edge(trials: pd.DataFrame) -> Iterator[str]:
    """Name the methods that mostly did best with the lowest or the highest value of a key.

    A run that scores as well with another value of the key says nothing of it.

    Parameters
    ----------
    trials : DataFrame
        Rows of ``trials.parquet``.
    """
    keys = [name for name in map(str, trials) if is_tuned(name) and pd.api.types.is_numeric_dtype(trials[name])]
    if not keys or trials.empty:
        return
    contest = trials.groupby(contest_of(trials), sort=False, dropna=False).ngroup()
    chosen = trials["chosen"].astype(bool)
    best = trials[["score", "loss"]].where(chosen).groupby(contest).transform("max")
    alike = trials[["score", "loss"]].fillna(-1.0).eq(best.fillna(-1.0)).all(axis=1)
    found: dict[str, list[str]] = {}
    place = trials.groupby(["strategy", "cut"], sort=False, dropna=False).ngroup().to_numpy()
    firsts = np.unique(place, return_index=True)[1]
    labels = [
        method_label(str(strategy), cut)
        for strategy, cut in trials[["strategy", "cut"]].iloc[firsts].itertuples(index=False)
    ]
    for key in keys:
        decided = trials[key].where(alike).groupby(contest).transform("nunique") == 1
        tried = trials[key].to_numpy()
        known, won = ~np.isnan(tried), (chosen & decided).to_numpy()
        for code, label in enumerate(labels):
            own = place == code
            values, runs = tried[own & known], (own & chosen).sum()
            if len(np.unique(values)) < _FEWEST_VALUES:
                continue
            for name, edge in (("lowest", values.min()), ("highest", values.max())):
                if (tried[own & won] == edge).sum() * 2 > runs:
                    told = f"{name} {key.removeprefix(TUNED)} that was tried ({value_text(edge)})"
                    found.setdefault(told, []).append(label)
    for told, methods in found.items():
        yield f"{few(methods)} did best at the {told} in most cases: what lies beyond may do better."
