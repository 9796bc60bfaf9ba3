"""Tables of results: a row for each method and each combination of swept values, the baselines last."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich.table import Table

from sim.foundation.problems import ScenarioError
from sim.foundation.text import bytes_text, epsilon_text, listed, score_text, seconds_text, value_text
from sim.report.condition import parse_condition
from sim.report.spoken import spoken
from sim.report.summary import (
    adjacency_of,
    adversaries_in,
    is_baseline,
    of_one_kind,
    successful_runs,
    summarise,
    swept_keys,
    trains_further,
)
from sim.report.terminal import SHOWN_AS, table_of

if TYPE_CHECKING:
    from sim.report.held_out import HeldOut
    from sim.report.study import StudyResults

_CAPTION = (
    "Simulated time and traffic of a whole run. "
    "ε is the largest over seeds; ∞ means no guarantee against that adversary."
)
_QUALITY = {
    "Log loss": "loss",
    "Brier score": "brier",
    "Integrated Brier score": "integrated_brier",
    "Ranked probability score": "ranked_probability",
    "Mean absolute error": "mae",
    "Calibration error": "calibration_error",
    "Error by decile": "decile_error",
    "Predicted less observed risk": "horizon_calibration",
    "Calibration intercept": "calibration_intercept",
    "Calibration slope": "calibration_slope",
    "AUPRC": "auprc",
    "Sensitivity": "sensitivity",
    "Net benefit": "net_benefit",
}
EDGE_BYTES = ("edge_bytes_up", "edge_bytes_down")
_SHORT = {"ε edge server": "ε edge", "ε model user": "ε user", "ε peer clinic": "ε peer", "ε peer party": "ε peer"}


def results_frame(runs: pd.DataFrame, held_out: HeldOut | None = None) -> pd.DataFrame:
    """Lay out the results as text.

    One row for each method and combination of swept values, those of the baselines last; the columns' names are the
    headings. Empty when no run succeeded.
    """
    ok = _in_blocks(runs)
    keys = swept_keys(ok)
    by = ["method_label", *keys]
    groups = ok.groupby(by, dropna=False, sort=False, observed=True)
    words = spoken(ok)
    worst = words.worst
    means = groups[[worst, "sim_seconds", "bytes_up", "bytes_down"]].mean()
    adversaries = adversaries_in(ok)
    largest = groups[list(adversaries)].max()

    table = _settings(means.index, keys)
    table["Seeds"] = groups["seed"].nunique().astype(str).to_numpy()
    for name, metric in words.scores.items():
        if metric == worst:
            continue
        summary = summarise(ok, by, metric, held_out)
        table[name] = list(map(score_text, summary["mean"], summary["half_width"]))
    table[f"Worst {words.place} {words.word}"] = list(map(score_text, means[worst]))
    for column, adversary in adversaries.items():
        table[f"ε {adversary.lower()}"] = list(map(epsilon_text, largest[column]))
    if ok["epsilon_label"].notna().any():
        table["ε label"] = list(map(epsilon_text, groups["epsilon_label"].max()))
    table["Time"] = list(map(seconds_text, means["sim_seconds"]))
    table["Traffic"] = list(map(bytes_text, means["bytes_up"] + means["bytes_down"]))
    if EDGE_BYTES[0] in ok and ok[EDGE_BYTES[0]].notna().any():
        above = groups[list(EDGE_BYTES)].mean().sum(axis=1, skipna=False)
        table["Edge to cloud"] = ["–" if math.isnan(size) else bytes_text(size) for size in above]
    return table


def _in_blocks(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the successful runs of one kind of held-out records, the baselines last."""
    ok, _ = of_one_kind(successful_runs(runs))
    return ok.iloc[np.argsort(ok["method"].map(is_baseline).astype(bool), kind="stable")]


def _settings(groups: pd.Index[Any], keys: Sequence[str]) -> pd.DataFrame:
    """Name the method and the swept values of each row."""
    swept = {SHOWN_AS.get(key, key): list(map(value_text, groups.get_level_values(key))) for key in keys}
    return pd.DataFrame({"Method": groups.get_level_values("method_label"), **swept})


def quality_frame(runs: pd.DataFrame) -> pd.DataFrame:
    """Lay out calibration and decisions as text, a row as in :func:`results_frame`; columns that no run has left out.

    Of the probabilities of all held-out records, as means over seeds.
    """
    ok = _in_blocks(runs)
    keys = swept_keys(ok)
    groups = ok.groupby(["method_label", *keys], dropna=False, sort=False, observed=True)
    means = groups[[column for column in _QUALITY.values() if column in ok and ok[column].notna().any()]].mean()
    table = _settings(means.index, keys)
    for name, column in _QUALITY.items():
        if column in means:
            table[name] = list(map(score_text, means[column]))
    return table


def console_table(runs: pd.DataFrame, held_out: HeldOut | None = None, frame: pd.DataFrame | None = None) -> Table:
    """Build the table a study ends with on the terminal; it fits 100 columns with two swept keys.

    One row for each method and combination of swept values, the baselines in a block of their own; the caption says how
    many runs are missing.

    Parameters
    ----------
    frame : DataFrame, optional
        The :func:`results_frame` of the runs, where it is known.
    """
    frame = results_frame(runs, held_out) if frame is None else frame
    seeds = frame["Seeds"].unique()
    missing = int((runs["status"] != "ok").sum())
    told = [
        f"Means over {seeds[0]} seeds." if len(seeds) == 1 and seeds[0] != "1" else "",
        caption(runs, held_out),
        f"{missing} of {len(runs)} runs failed and are left out." if missing else "",
    ]
    words = spoken(runs)
    shown = frame.drop(columns=[*words.others, *(["Seeds"] if len(seeds) == 1 else [])]).rename(columns=_SHORT)
    pooled = f"Pooled {words.word}"
    shown[pooled] = [text.partition("±")[0] for text in shown[pooled]]
    return rendered(shown, ", ".join(runs["study"].unique()), " ".join(filter(None, told)), baselines_of(runs))


def baselines_of(runs: pd.DataFrame) -> set[str]:
    """Name the methods that stand below the others; none where there are no others."""
    ok = successful_runs(runs)
    baselines = ok["method"].map(is_baseline).astype(bool)
    return set(ok.loc[baselines, "method_label"]) if not baselines.all() else set()


def caption(runs: pd.DataFrame, held_out: HeldOut | None = None) -> str:
    """Say what the table of results shows."""
    several = len(set(runs.loc[runs["status"] == "ok", "seed"])) > 1
    over = " and ".join([*(["patients"] if held_out else []), *(["seeds"] if several else [])])
    shown = f"Mean ± half-width of the 95 % interval over {over}. " if over else ""
    told = f"{shown}{'' if several else 'Of one seed. '}{_CAPTION}{_neighbours(runs)}{_without_noise(runs)}"
    return " ".join(filter(None, [told, of_one_kind(runs)[1]]))


def _without_noise(runs: pd.DataFrame) -> str:
    """Say whose scores are of models that no ε is about."""
    noised = successful_runs(runs[runs["mechanism"] != "none"])
    own = noised.loc[noised["method"].map(trains_further).astype(bool), "method_label"].unique()
    return f" Scores of {listed(own)} are of the clinics' own models, which no ε is about." if len(own) else ""


def _neighbours(runs: pd.DataFrame) -> str:
    adjacency = adjacency_of(runs)
    return f" All ε are for {adjacency}." if adjacency else ""


def rendered(frame: pd.DataFrame, title: str, caption: str, baselines: Collection[str] = frozenset()) -> Table:
    """Build a terminal table from a frame of texts, see :func:`sim.report.terminal.table_of`."""
    return table_of(list(frame.columns), list(frame.itertuples(index=False, name=None)), title, caption, baselines)


def first_rounds_at(study: StudyResults, target: str) -> pd.DataFrame:
    """Find the first round of each run after which a condition holds.

    The successful runs with `target_round`, `target_seconds` and `target_bytes`; NaN where it never holds.

    Raises ScenarioError if there is no such column, or it is no condition.

    Parameters
    ----------
    target : str
        A condition on columns of ``rounds.parquet``, such as ``auc>=0.8`` (held-out) or ``validation_auc>=0.8``.
    """
    if study.rounds.empty:
        raise ScenarioError(["--target: no run of the study has succeeded; run the study first"])
    numbers = study.rounds.select_dtypes("number")
    condition = parse_condition(target, list(numbers.columns), "--target")
    first = study.rounds[condition.holds(numbers)].groupby("run_id")[["round", "sim_seconds", "bytes"]].first()
    first.columns = pd.Index(["target_round", "target_seconds", "target_bytes"])
    return study.ok.merge(first, how="left", left_on="run_id", right_index=True)


def target_frame(study: StudyResults, target: str) -> pd.DataFrame:
    """Lay out time and traffic to a target as text, by method and swept values.

    Means over the runs that reach it, and how many do.
    """
    runs = first_rounds_at(study, target)
    keys = swept_keys(runs)
    rows = []
    for values, group in runs.groupby(["method_label", *keys], dropna=False, sort=False, observed=True):
        reached = group.dropna(subset="target_round")
        means = reached[["target_round", "target_seconds", "target_bytes"]].mean()
        some = len(reached) > 0
        rows.append(
            {
                "Method": values[0],
                **dict(zip(keys, map(value_text, values[1:]), strict=True)),
                "Reached by": f"{len(reached)} of {len(group)}",
                "Rounds": f"{means['target_round']:.3g}" if some else "–",
                "Time": seconds_text(means["target_seconds"]) if some else "–",
                "Traffic": bytes_text(means["target_bytes"]) if some else "–",
            }
        )
    return pd.DataFrame(rows)
