"""What joining brings: each clinic's score under a method less its score when it trains alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pandas as pd

from sim.inference.clinics import by_clinic
from sim.report.equal import Names, together_by_level
from sim.report.held_out import HeldOut
from sim.report.points import with_bounds
from sim.report.summary import is_centralised, summarise, swept_keys, trains_alone

__all__ = ["MANY", "grouped", "joining", "joining_points"]

MANY: Final = 24
"""More clinics than this are drawn in groups of like size."""
_GROUPS: Final = 5
_BEST: Final = 3


def joining(ok: pd.DataFrame, clinics: pd.DataFrame, held_out: HeldOut | None = None) -> pd.DataFrame:
    """Compute what each method brings to each clinic, in its AUC on its own held-out records.

    ``series, level, clinic, records, n, mean, lower, upper``, the clinic with most training records first. Differences
    are of runs with the same seed and swept values; intervals are over the clinic's patients and seeds where
    predictions are known, else over seeds. Empty where no clinic trains alone, or nobody joins.
    """
    scored = clinics[["run_id", "name", "records", "auc"]].rename(columns={"name": "clinic"})
    found = _by_seed(ok, scored) if held_out is None else _by_patient(ok, held_out)
    table = with_bounds(found, -1.0).dropna(subset="mean")
    sizes = scored.groupby("clinic")["records"].mean().sort_values(ascending=False, kind="stable")
    table["clinic"] = pd.Categorical(table["clinic"], categories=list(sizes.index), ordered=True)
    table["records"] = table["clinic"].astype(str).map(sizes)
    return table.sort_values("clinic", kind="stable")


def _by_seed(ok: pd.DataFrame, scored: pd.DataFrame) -> pd.DataFrame:
    keys = ["seed", "level", *swept_keys(ok)]
    runs = scored.merge(ok[["run_id", "strategy", "series", "status", *keys]], on="run_id")
    alone, apart = runs["strategy"].map(trains_alone), ~runs["strategy"].map(is_centralised)
    pairs = runs[~alone & apart].merge(runs.loc[alone, [*keys, "clinic", "auc"]], on=[*keys, "clinic"])
    pairs["difference"] = pairs["auc_x"] - pairs["auc_y"]
    return summarise(pairs, ["series", "level", "clinic"], "difference")


def _by_patient(ok: pd.DataFrame, held_out: HeldOut) -> pd.DataFrame:
    tables = [pd.DataFrame(columns=["series", "level", "clinic", "n", "mean", "half_width"])]
    joint = ok[~ok["strategy"].map(is_centralised).astype(bool)]
    for _, own in joint.groupby(["level", *swept_keys(ok)], observed=True, dropna=False, sort=False):
        alone = own["strategy"].map(trains_alone).astype(bool)
        if alone.any() and not alone.all():
            models = own[["run_id", "series", "seed"]].rename(columns={"series": "method"})
            reference = str(own.loc[alone, "series"].iloc[0])
            scores = by_clinic(held_out.predictions, models, "auc", same_patients=held_out.same_patients)
            gains = scores.estimates(reference)
            tables.append(gains.rename(columns={"method": "series"}).assign(level=own["level"].iloc[0]))
    found = pd.concat(tables[1:] or tables, ignore_index=True)
    return found.assign(level=pd.Categorical(found["level"], categories=ok["level"].cat.categories, ordered=True))


def grouped(table: pd.DataFrame) -> pd.DataFrame:
    """Average what is brought over clinics of like size: a row for each fifth, largest first, as of :func:`joining`.

    The intervals are over the clinics of a group, which are its unit.
    """
    sizes = table.drop_duplicates("clinic").set_index("clinic")["records"]
    groups = pd.qcut(-sizes, _GROUPS, duplicates="drop")
    names = {}
    for group, own in sizes.groupby(groups, observed=True):
        names[group] = f"{own.min():,.0f} to {own.max():,.0f} records ({len(own)} clinics)"
    placed = table.assign(clinic=table["clinic"].map(groups).map(names).astype(str), status="ok", value=table["mean"])
    found = with_bounds(summarise(placed, ["series", "level", "clinic"], "value"), -1.0)
    return found.assign(records=found["clinic"].map(placed.groupby("clinic")["records"].mean()))


def joining_points(
    ok: pd.DataFrame,
    clinics: pd.DataFrame,
    names: Mapping[str, Names],
    score: str,
    held_out: HeldOut | None = None,
) -> pd.DataFrame:
    """Return what is drawn: :func:`joining`, and of many clinics their groups too, with `group` and `best`.

    Parameters
    ----------
    names : mapping of str to dict
        By level, the names of series; equal ones are drawn once.
    score : str
        Column by which the best methods of a level are chosen.
    """
    table = joining(ok, clinics, held_out)
    if table.empty:
        return table
    table = together_by_level(table, names)
    best = set()
    for level, shared in names.items():
        own = ok[ok["level"] == level]
        means = own.groupby(own["series"].map(shared))[score].mean()
        drawn = means[means.index.isin(table.loc[table["level"] == level, "series"])]
        best |= {(level, name) for name in drawn.nlargest(_BEST).index}
    if table["clinic"].nunique() > MANY:
        table = pd.concat([grouped(table).assign(group=True), table.assign(group=False)], ignore_index=True)
    else:
        table = table.assign(group=False)
    return table.assign(best=[pair in best for pair in zip(table["level"], table["series"], strict=True)])
