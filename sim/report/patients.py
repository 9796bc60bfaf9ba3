"""Scores by group of patients, and the gap between the groups that a method serves best and worst."""

from __future__ import annotations

import pandas as pd

from sim.foundation.text import score_text
from sim.report.points import with_bounds
from sim.report.spoken import spoken
from sim.report.summary import summarise


def group_points(ok: pd.DataFrame, groups: pd.DataFrame) -> pd.DataFrame:
    """Compute what is drawn: ``series, level, column, patients, records, n, mean, lower, upper``.

    `patients` names a group; intervals are over seeds. Groups that cannot be scored are left out.

    Parameters
    ----------
    groups : DataFrame
        ``groups.parquet`` of all runs, with a column `run_id`.
    """
    named = groups.rename(columns={"group": "column", "level": "patients"})
    joined = named.merge(ok[["run_id", "series", "level", "status"]], on="run_id")
    by, words = ["series", "level", "column", "patients"], spoken(groups)
    table = with_bounds(summarise(joined, by, words.within), words.least).dropna(subset="mean")
    records = joined.groupby(by, observed=True)["records"].mean().rename("records").reset_index()
    table = table.merge(records, on=by)
    return table.assign(patients=table["column"] + ": " + table["patients"])


def gap_frame(points: pd.DataFrame) -> pd.DataFrame:
    """Lay out the gaps as text: a row a method and level, a column a column of groups.

    The highest less the lowest mean score of a group, and which group has the lowest.
    """
    rows = []
    for (series, level), own in points.groupby(["series", "level"], sort=False, observed=True):
        cells = {}
        for column, each in own.groupby("column", sort=False):
            least = each.sort_values("mean", kind="stable").iloc[0]
            gap = score_text(float(each["mean"].max() - least["mean"]))
            cells[str(column)] = (
                f"{gap} (lowest: {str(least['patients']).partition(': ')[2]}, {score_text(least['mean'])})"
            )
        rows.append({"Method": str(series), "Privacy": str(level), **cells})
    return pd.DataFrame(rows).fillna("–")
