"""Tuned settings that did best at the edge of what was tried, so that what lies beyond may do better."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pandas as pd

from sim.foundation.text import value_text
from sim.methods.labels import method_label
from sim.report.elsewhere import few
from sim.results.columns import is_tuned
from sim.scenario.spec import TUNED

_FEWEST_VALUES: Final = 3
"""Of fewer there is no inside."""


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
    for key in keys:
        decided = trials[key].where(alike).groupby(contest).transform("nunique") == 1
        for (strategy, cut), own in trials.groupby(["strategy", "cut"], sort=False, dropna=False):
            values, runs = own[key].dropna(), chosen[own.index].sum()
            if values.nunique() < _FEWEST_VALUES:
                continue
            won = own.loc[chosen[own.index] & decided[own.index], key]
            for name, edge in (("lowest", values.min()), ("highest", values.max())):
                if (won == edge).sum() * 2 > runs:
                    told = f"{name} {key.removeprefix(TUNED)} that was tried ({value_text(edge)})"
                    found.setdefault(told, []).append(method_label(str(strategy), cut))
    for told, methods in found.items():
        yield f"{few(methods)} did best at the {told} in most cases: what lies beyond may do better."
