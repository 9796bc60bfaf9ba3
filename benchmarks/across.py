"""Several studies together: how methods differ over data sets, which are the unit here.

A data set counts once, whatever its size: the mean over data sets of each method's score less that of one of them, with
Student's interval over data sets, widened for the number of methods (Bonferroni); and the methods' average ranks with
Nemenyi's critical difference (Demšar, JMLR 2006).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.special import stdtrit
from scipy.stats import studentized_range

from sim.inference.differences import verdict

LEVEL = 0.05


def scores(studies: Mapping[str, pd.DataFrame], metric: str) -> pd.DataFrame:
    """Return the mean over seeds by data set, level and method: ``data, level, method, score``.

    Parameters
    ----------
    studies : mapping of str to DataFrame
        By data set the successful runs, with `series` and `level`.
    """
    parts = [
        runs.groupby(["level", "series"], observed=True)[metric].mean().reset_index().assign(data=data)
        for data, runs in studies.items()
    ]
    return pd.concat(parts, ignore_index=True).rename(columns={"series": "method", metric: "score"})


def differences(table: pd.DataFrame, reference: str, margin: float) -> pd.DataFrame:
    """Return each method's score less that of a reference, over the data sets that have both, by level.

    ``level, method, n, mean, half_width, least, most, verdict``; `least` and `most` name the data sets at the ends.
    """
    rows = []
    for level, own in table.groupby("level", observed=True, sort=False):
        wide = own.pivot_table(index="data", columns="method", values="score", sort=False)
        others = [method for method in wide if method != reference]
        for method in others:
            gaps = (wide[method] - wide[reference]).dropna()
            width = half_width(gaps, len(others))
            rows.append(
                {
                    "level": level,
                    "method": method,
                    "n": len(gaps),
                    "mean": gaps.mean(),
                    "half_width": width,
                    "least": f"{gaps.idxmin()} ({gaps.min():+.3f})",
                    "most": f"{gaps.idxmax()} ({gaps.max():+.3f})",
                    "verdict": verdict(float(gaps.mean()), width, margin),
                }
            )
    return pd.DataFrame(rows)


def half_width(values: pd.Series[float], together: int) -> float:
    """Return the half-width of Student's interval of a mean, for so many that hold together."""
    if len(values) < 2:
        return math.nan
    return float(stdtrit(len(values) - 1, 1 - LEVEL / 2 / together) * values.std() / math.sqrt(len(values)))


def average_ranks(table: pd.DataFrame) -> tuple[pd.Series[float], float]:
    """Return the methods' average ranks over data sets, 1 the best, and Nemenyi's critical difference.

    Data sets without all methods are left out. Equal scores share their ranks.
    """
    wide = table.pivot_table(index="data", columns="method", values="score", sort=False).dropna()
    ranks = wide.rank(axis=1, ascending=False).mean()
    return ranks.sort_values(), critical_difference(len(ranks), len(wide))


def critical_difference(methods: int, data_sets: int) -> float:
    """Return by how much average ranks must differ to be told apart by Nemenyi's test at 5 %."""
    quantile = float(studentized_range.ppf(1 - LEVEL, methods, np.inf)) / math.sqrt(2)
    return quantile * math.sqrt(methods * (methods + 1) / (6 * data_sets))
