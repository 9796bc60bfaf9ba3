"""Means with confidence intervals, and the names of methods as people read them.

Every table and figure takes its numbers from here, so that the same study never shows two different means.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy

from sim.foundation.text import value_text
from sim.inference.differences import estimates
from sim.methods.labels import known_method, method_labels, reading_order
from sim.privacy.ledger import COLUMN_OF, REPLACE_COLUMN_OF
from sim.report.adversaries import ADVERSARIES, BETWEEN_PARTIES, EDGE_SERVER
from sim.report.spoken import between_parties, spoken
from sim.results.columns import NOISE_KEYS, is_tuned

if TYPE_CHECKING:
    from sim.report.held_out import HeldOut

WHO = {
    "model-user": "Model user",
    "peer-clinic": "Peer clinic",
    "server": "Server",
    "peers": "Colluding clinics",
    "server-and-peers": "Server and colluding clinics",
    "edge": "Edge server",
}
"""Names of the adversaries."""


def adversaries_in(runs: pd.DataFrame) -> dict[str, str]:
    """Return the adversaries of a table's runs as ``ADVERSARIES`` has them, edge servers where a run has any."""
    there = (column for column in EDGE_SERVER if column in runs and runs[column].notna().any())
    peer = BETWEEN_PARTIES if between_parties(runs) else {}
    return ADVERSARIES | peer | {column: EDGE_SERVER[column] for column in there}


PREVALENCE = "prevalence"
"""The method that predicts the same for all of a clinic's records: a line of reference, not one to choose."""


def is_centralised(method: str) -> bool:
    """Whether a method trains on the records of all clinics in one place: the upper baseline."""
    known = known_method(method)
    return known is not None and known.family == "baseline" and known.pooled


def is_baseline(method: str) -> bool:
    """Whether a method, by the column of that name, is there to be compared with: nobody trains a model together."""
    known = known_method(method)
    return known is not None and known.family == "baseline"


def trains_alone(method: str) -> bool:
    """Whether each clinic trains a model on its own records alone."""
    known = known_method(method)
    return known is not None and known.family == "baseline" and known.clinic_parts == "own" and known.trains


def trains_further(method: str) -> bool:
    """Whether each clinic makes a model of its own, without noise, of the one that all trained."""
    known = known_method(method)
    return known is not None and known.personal is not None


def held_out_clinics(runs: pd.DataFrame) -> pd.Series[bool]:
    """Say of each run whether it holds out whole clinics, which then take no part in training."""
    return (
        runs["held_out"].astype(object).fillna("") != "" if "held_out" in runs else pd.Series(False, index=runs.index)
    )


def of_one_kind(runs: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Leave out the runs that hold out whole clinics where others do not: they are scored on other records; say so."""
    away = held_out_clinics(runs)
    if not away.any() or away.all():
        return runs, ""
    return runs[~away].copy(), "Runs that hold out whole clinics are scored on other records and are left out here."


def swept_keys(runs: pd.DataFrame) -> list[str]:
    """List the swept keys (the columns with a dotted name) that take more than one value."""
    return [
        name
        for name in runs.columns
        if "." in name and not is_tuned(name) and len(runs[name].map(_hashable).unique()) > 1
    ]


def series_label(method: str, settings: dict[str, object]) -> str:
    """Name a method together with the swept settings that set it apart, for example "FedAvg, local-epochs 5"."""
    return ", ".join([method, *(f"{key.rpartition('.')[2]} {value_text(value)}" for key, value in settings.items())])


def successful_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Keep the runs that succeeded, name their methods and put them in reading order.

    The runs with status "ok" and two more columns: `method_label`, and `series` (that label, followed by the values of
    the swept keys other than the amount of noise). Sorted by method, then by swept values. All epsilons are of one
    adjacency, see `under_one_adjacency`. Where the runs of a seed hold out clinics in turn, its first has the worst
    clinic of all, and the others none.
    """
    ok = in_reading_order(under_one_adjacency(runs[runs["status"] == "ok"]))
    ok["series"] = named_settings(ok, without=NOISE_KEYS)
    return _worst_of_all_folds(ok)


def _worst_of_all_folds(ok: pd.DataFrame) -> pd.DataFrame:
    away, by = ok[held_out_clinics(ok)], [*swept_keys(ok), "method_label", "seed"]
    worst = spoken(ok).worst
    columns = [column for column in (worst, "worst_clinic") if column in ok]
    if columns and len(away):
        keys = [away[key] for key in by]
        lowest = away[worst].fillna(np.inf).groupby(keys, dropna=False, observed=True).transform("idxmin")
        first = ~away.duplicated(by).to_numpy()
        for column in columns:
            ok.loc[away.index, column] = away.loc[lowest, column].where(first).to_numpy()
    return ok


def in_reading_order(runs: pd.DataFrame) -> pd.DataFrame:
    """Name the method of each run, and sort by method, then by swept values, then by seed."""
    runs = runs.copy()
    keys = swept_keys(runs)
    for key in keys:
        runs[key] = runs[key].map(_hashable)
    runs["method_label"] = method_labels(runs["strategy"], runs["cut"])
    places = [reading_order(*pair) for pair in zip(runs["method"], runs["cut"], strict=True)]
    ranks = {place: rank for rank, place in enumerate(sorted(set(places)))}
    runs["_rank"] = [ranks[place] for place in places]
    by = ["_rank", "method_label", *keys, "seed"]
    # one swept key may take numbers and words
    ordered = runs.sort_values(by, key=lambda own: own if pd.api.types.is_numeric_dtype(own) else own.astype(str))
    return ordered.drop(columns="_rank").reset_index(drop=True)


def named_settings(runs: pd.DataFrame, without: Sequence[str] = ()) -> list[str]:
    """Name the setting of each run: its method, followed by the values of the swept keys."""
    settings = [key for key in swept_keys(runs) if key not in without]
    return [
        series_label(label, dict(zip(settings, values, strict=True)))
        for label, values in zip(runs["method_label"], runs[settings].itertuples(index=False), strict=True)
    ]


def adjacencies(runs: pd.DataFrame) -> set[str]:
    """Return the adjacencies that occur; a table that names none, or leaves a run's open, adds nothing."""
    return set(runs["adjacency"].dropna()) - {""} if "adjacency" in runs else set()


def adjacency_of(runs: pd.DataFrame) -> str:
    """Name the one adjacency that all epsilons of a table are shown for; empty where nothing is noised.

    An epsilon for zeroing a record out is not comparable with one for replacing it. Where any run has the latter, all
    are shown under replacement.
    """
    found = adjacencies(runs)
    return "replace-one" if "replace-one" in found else "zero-out" if found else ""


def adjacency_note(runs: pd.DataFrame) -> str:
    """Say that the runs' noise is for different neighbours; empty where it is not."""
    if len(adjacencies(runs)) < 2:
        return ""
    ways = runs[runs["adjacency"].isin(adjacencies(runs))].groupby("adjacency")["mechanism"].unique()
    named = "; ".join(f"{', '.join(mechanisms)}: {adjacency}" for adjacency, mechanisms in ways.items())
    return (
        f"The mechanisms are for different neighbours ({named}), so the same target epsilon is not the same "
        "protection; all epsilons are compared under replace-one."
    )


def under_one_adjacency(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with all epsilons of `adjacency_of` them."""
    if adjacency_of(runs) != "replace-one":
        return runs.copy()
    pairs = ((COLUMN_OF[who], other) for who, other in REPLACE_COLUMN_OF.items() if other in runs)
    return runs.assign(**{column: runs[other].astype(float) for column, other in pairs})


def summarise(runs: pd.DataFrame, by: Sequence[str], metric: str, held_out: HeldOut | None = None) -> pd.DataFrame:
    """Mean of a metric and its 95 % confidence interval, for every group of successful runs.

    The columns `by`, then `n` (seeds, or values averaged), `mean`, and `half_width` of the interval: over patients and
    seeds (:func:`sim.inference.differences.estimates`) where the predictions are known; else over the values alone,
    from Student's t with n - 1 degrees of freedom, NaN when n is 1 or 2. Groups come in order of first appearance.

    Parameters
    ----------
    runs : pandas.DataFrame
        One row a run; rows whose status is not "ok" are left out.
    by : sequence of str
        Columns that make a group; everything else in a group counts as repetition.
    metric : str
        Column to average. Missing values are left out.
    held_out : HeldOut, optional
        The runs' predictions.
    """
    from sim.report.held_out import evidence_of

    ok = runs[runs["status"] == "ok"]
    groups = ok.groupby(list(by), dropna=False, sort=False, observed=True)
    if held_out is not None and len(ok):
        place = groups.ngroup()
        firsts = ok[~place.duplicated()].reset_index(drop=True)
        noise = [key for key in NOISE_KEYS if key in firsts]
        levels = firsts[[*noise]].astype(str).agg(" ".join, axis=1) if noise else firsts["status"]
        pools = levels.where(firsts["method"] != PREVALENCE, PREVALENCE).tolist()
        found = estimates(evidence_of(ok.assign(place=place), "place", metric, held_out), pools).set_index("method")
        keys = firsts[list(by)]
        return keys.join(found.reindex(keys.index)[["n", "mean", "half_width"]])
    table = groups[metric].agg(n="count", mean="mean", half_width="std")
    table["half_width"] *= (scipy.special.stdtrit(table["n"] - 1, 0.975) / np.sqrt(table["n"])).where(table["n"] > 2)
    return table.reset_index()


BOUNDED = ("auc", "accuracy", "auprc", "sensitivity", "brier", "net_benefit", "concordance", "r2", "kappa")
"""Metrics between 0 and 1 end so: a margin is of their size."""


def higher_is_better(column: str) -> bool:
    """Whether a column is a score, of which more is better; of everything else less is."""
    return column.endswith(tuple(name for name in BOUNDED if name != "brier"))


def title(column: str, place: str = "clinic") -> str:
    """Name a column in a sentence; ``place`` is as of :class:`sim.report.spoken.Spoken`."""
    return _TITLES.get(column, column.replace("_", " ")).replace("clinic", place)


_TITLES = {
    "within_clinic_auc": "within-clinic AUC",
    "auc": "pooled AUC",
    "worst_clinic_auc": "AUC of the worst clinic",
    "best_within_clinic_auc": "within-clinic AUC after the best round",
    "best_auc": "pooled AUC after the best round",
    "within_clinic_concordance": "within-clinic concordance",
    "concordance": "pooled concordance",
    "uno_concordance": "Uno's concordance",
    "worst_clinic_concordance": "concordance of the worst clinic",
    "within_clinic_r2": "within-clinic R²",
    "r2": "pooled R²",
    "worst_clinic_r2": "R² of the worst clinic",
    "mae": "mean absolute error",
    "integrated_brier": "integrated Brier score",
    "within_clinic_ordinal_auc": "within-clinic ordinal AUC",
    "ordinal_auc": "pooled ordinal AUC",
    "worst_clinic_ordinal_auc": "ordinal AUC of the worst clinic",
    "ranked_probability": "ranked probability score",
    "quadratic_kappa": "kappa with squared weights",
    "auprc": "AUPRC",
    "loss": "log loss",
    "brier": "Brier score",
    "sim_seconds": "simulated time",
    "hours": "simulated time",
    "minutes": "simulated time",
    "bytes_up": "traffic up",
    "bytes_down": "traffic down",
    "gigabytes_up": "traffic up",
    "gigabytes_down": "traffic down",
    "clinic_joules": "energy of all clinics",
    "peak_clinic_bytes": "peak memory of a clinic",
    "idle_share": "clinics' idle share",
    **{column: f"ε of the {name.lower()}" for column, name in (ADVERSARIES | EDGE_SERVER).items()},
}


def _hashable(value: object) -> Hashable:
    """Return scalars as they are and anything else (a list from a scenario) as text, so that it can be grouped."""
    return value if isinstance(value, (str, int, float, np.number)) else str(value)
