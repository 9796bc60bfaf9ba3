"""What joining brings: each clinic's score under a method less its score alone, or with the others' model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import pandas as pd

from sim.foundation.text import count_text, span_text
from sim.inference.clinics import by_clinic
from sim.report.held_out import HeldOut
from sim.report.points import Names, together_by_level, with_bounds
from sim.report.spoken import between_parties, spoken
from sim.report.summary import PREVALENCE, is_centralised, summarise, swept_keys, trains_alone
from sim.results.columns import NOISE_KEYS

MANY: Final = 24
"""More clinics than this are drawn in groups of like size."""
ALONE, OTHERS = "training alone", "the others' model"
_GROUPS: Final = 5
_BEST: Final = 3


def not_joined(away: pd.DataFrame) -> pd.DataFrame:
    """Name the series of runs that hold clinics out for what they are to these: models of the others."""
    return away.assign(series="Not joined: " + away["series"].astype(str))


def joining(ok: pd.DataFrame, away: pd.DataFrame, clinics: pd.DataFrame, held_out: HeldOut) -> pd.DataFrame:
    """Compute what each method brings to each clinic, in its score on its own held-out records.

    ``series, level, clinic, against, other, records, n, mean, lower, upper``, the clinic with most training records
    first, with 95 % intervals over its patients and seeds. Methods are compared on the same records, with the same
    seed and settings. Clinics that cannot be scored are left out. Empty where nobody trains alone and no clinic is held
    out, or nobody joins, and between parties, which share the patients.

    Parameters
    ----------
    ok, away : DataFrame
        Runs that hold records out, and runs that hold whole clinics out.
    held_out : HeldOut
        The predictions of all runs.
    """
    if between_parties(ok):
        return pd.DataFrame()
    parts, within = [], spoken(ok).within
    for level, own in ok.groupby("level", observed=True, sort=False):
        others = not_joined(away[away["level"] == level])
        known = held_out
        if len(others):
            known = replace(held_out, predictions=_same_records(held_out.predictions, own, others))
        pairs = list(_pairs(own, others))
        if pairs and len(known.predictions):
            names = list(dict.fromkeys(name for first, second, _ in pairs for name in (first, second)))
            runs = pd.concat([own, others])
            models = runs.loc[runs["series"].isin(names), ["run_id", "series", "seed"]]
            parts.append(_gains(known, models.rename(columns={"series": "method"}), pairs, within).assign(level=level))
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    if table.empty:
        return table
    sizes = clinics[clinics["run_id"].isin(ok["run_id"])].groupby("name")["records"].mean()
    sizes = sizes.sort_values(ascending=False, kind="stable")
    table = table[table["clinic"].isin(sizes.index)]
    table["records"] = table["clinic"].map(sizes)
    table["clinic"] = pd.Categorical(table["clinic"], categories=list(sizes.index), ordered=True)
    return table.sort_values("clinic", kind="stable")


def _same_records(predictions: pd.DataFrame, own: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """Keep the predictions of some runs; of the others' models those of records that are held out with their seed."""
    if predictions.empty:
        return predictions
    mine = predictions[predictions["run_id"].isin(own["run_id"])]
    theirs = predictions[predictions["run_id"].isin(others["run_id"])]
    if theirs.empty:
        return mine
    seeds = pd.concat([own, others]).set_index("run_id")["seed"]
    held = mine.assign(seed=mine["run_id"].astype(str).map(seeds))[["seed", "record"]].drop_duplicates()
    theirs = theirs.assign(seed=theirs["run_id"].astype(str).map(seeds)).merge(held, on=["seed", "record"])
    return pd.concat([mine, theirs.drop(columns="seed")], ignore_index=True)


def _pairs(own: pd.DataFrame, others: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    """Yield each method with what it is compared with: training alone at the same settings, and the others' models."""
    keys = [key for key in swept_keys(own) if key not in NOISE_KEYS]
    first = own.drop_duplicates("series")
    settings = {row["series"]: tuple(str(row[key]) for key in keys) for row in first.to_dict("records")}
    method = dict(zip(first["series"], first["method"], strict=True))
    alone = {settings[name]: name for name in settings if trains_alone(method[name])}
    joined = [
        name
        for name in settings
        if not (trains_alone(method[name]) or is_centralised(method[name]) or method[name] == PREVALENCE)
    ]
    theirs = list(others["series"].unique())
    for name in joined:
        if settings[name] in alone:
            yield name, alone[settings[name]], ALONE
    if len(alone) == 1:
        yield from ((name, next(iter(alone.values())), ALONE) for name in theirs)
    yield from ((name, other, OTHERS) for name in joined for other in theirs)


def _gains(known: HeldOut, models: pd.DataFrame, pairs: Sequence[tuple[str, str, str]], within: str) -> pd.DataFrame:
    scored = by_clinic(known.scored_runs, models, within, same_patients=known.same_patients)
    parts = []
    for other, against in dict.fromkeys((second, against) for _, second, against in pairs):
        over = [first for first, *rest in pairs if rest == [other, against]]
        table = scored.estimates(other)
        table = with_bounds(table[table["method"].isin(over)], -1.0).rename(columns={"method": "series"})
        parts.append(table.assign(against=against, other=other))
    return pd.concat(parts, ignore_index=True)


def grouped(table: pd.DataFrame) -> pd.DataFrame:
    """Average what is brought over clinics of like size: a row for each fifth, largest first, as of :func:`joining`.

    The intervals are over the clinics of a group, which are its unit.
    """
    sizes = table.drop_duplicates("clinic").set_index("clinic")["records"]
    groups = pd.qcut(-sizes, _GROUPS, duplicates="drop")
    names = {}
    for group, own in sizes.groupby(groups, observed=True):
        few = span_text(f"{own.min():,.0f}", f"{own.max():,.0f}")
        names[group] = f"{few} records ({count_text(len(own), 'clinic')})"
    placed = table.assign(clinic=table["clinic"].map(groups).map(names).astype(str), status="ok", value=table["mean"])
    found = with_bounds(summarise(placed, ["series", "level", "against", "clinic"], "value"), -1.0)
    return found.assign(records=found["clinic"].map(placed.groupby("clinic")["records"].mean()))


def joining_points(table: pd.DataFrame, ok: pd.DataFrame, names: Mapping[str, Names], score: str) -> pd.DataFrame:
    """Return what is drawn: :func:`joining`, and of many clinics their groups too, with `group` and `best`.

    By level, `names` are those of series, of which equal ones are drawn once; the best are chosen by `score`.
    """
    theirs = {name: name for name in table["series"].unique() if name not in set(ok["series"])}
    table = together_by_level(table, {level: own | theirs for level, own in names.items()})
    best = {(level, name) for level in names for name in theirs}
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
