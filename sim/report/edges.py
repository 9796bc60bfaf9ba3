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

__all__ = ["at_the_edge"]

_FEWEST_VALUES: Final = 3
"""Of fewer there is no inside."""


def at_the_edge(trials: pd.DataFrame) -> Iterator[str]:
    """Name the methods that mostly chose the lowest or the highest value of a key.

    Parameters
    ----------
    trials : DataFrame
        Rows of ``trials.parquet``.
    """
    keys = [name for name in map(str, trials) if is_tuned(name) and pd.api.types.is_numeric_dtype(trials[name])]
    found: dict[str, list[str]] = {}
    for (strategy, cut), own in trials.groupby(["strategy", "cut"], sort=False, dropna=False):
        chosen = own[own["chosen"].astype(bool)]
        for key in keys:
            values = own[key].dropna()
            if values.nunique() < _FEWEST_VALUES:
                continue
            for name, edge in (("lowest", values.min()), ("highest", values.max())):
                if (chosen[key] == edge).sum() * 2 > len(chosen):
                    told = f"{name} {key.removeprefix(TUNED)} that was tried ({value_text(edge)})"
                    found.setdefault(told, []).append(method_label(str(strategy), cut))
    for told, methods in found.items():
        yield f"{few(methods)} did best at the {told} in most cases: what lies beyond may do better."
