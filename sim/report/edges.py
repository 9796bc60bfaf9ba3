"""Tuned settings that did best at the edge of what was tried, so that what lies beyond may do better."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pandas as pd

from sim.foundation.text import value_text
from sim.methods.labels import method_label
from sim.results.columns import is_tuned
from sim.scenario.spec import TUNED

__all__ = ["at_the_edge"]

_FEWEST_VALUES: Final = 3
"""Of fewer there is no inside."""


def at_the_edge(trials: pd.DataFrame) -> Iterator[str]:
    """Name the methods that chose the lowest or the highest value of a key on most seeds.

    Parameters
    ----------
    trials : DataFrame
        Rows of ``trials.parquet``.
    """
    keys = [name for name in map(str, trials) if is_tuned(name) and pd.api.types.is_numeric_dtype(trials[name])]
    for (strategy, cut), own in trials.groupby(["strategy", "cut"], sort=False, dropna=False):
        method, chosen = method_label(str(strategy), cut), own[own["chosen"].astype(bool)]
        for key in keys:
            values = own[key].dropna()
            if values.nunique() < _FEWEST_VALUES:
                continue
            for name, edge in (("lowest", values.min()), ("highest", values.max())):
                times, told = int((chosen[key] == edge).sum()), f"{key.removeprefix(TUNED)} that was tried"
                if times * 2 > len(chosen):
                    yield (
                        f"{method} did best at the {name} {told} ({value_text(edge)}) {times} times out of "
                        f"{len(chosen)}: what lies beyond may suit it better."
                    )
