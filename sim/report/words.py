"""What a study found, in plain words."""

from __future__ import annotations

import pandas as pd

from sim.foundation.problems import ScenarioError
from sim.foundation.text import count_text, listed, score_text, value_text
from sim.report.compare import CAVEAT, compare
from sim.report.figures import NO_DP, target_order
from sim.report.points import noise_key, with_levels
from sim.report.study import StudyResults
from sim.report.summary import adjacency_of, is_centralised, successful_runs


def compared(study: StudyResults) -> str:
    """Say what was compared."""
    ok = study.ok
    if ok.empty:
        return ""
    methods = ok["series"].drop_duplicates()
    parts = [count_text(len(methods), "method")]
    levels = ok["level"].cat.categories
    if len(levels) > 1:
        parts.append(f"at {len(levels)} privacy levels ({', '.join(levels)})")
    parts.append(f"on {count_text(ok['seed'].nunique(), 'seed')}")
    if len(study.clinics):
        first = study.clinics[study.clinics["run_id"] == study.clinics["run_id"].iloc[0]]
        records = f"{first['records'].sum():,} training and {first['test_records'].sum():,} held-out records"
        parts.append(f"over {count_text(len(first), 'clinic')} with {records}")
    return f"Compared: {', '.join(parts)}. The methods: {listed(methods)}."


def conclusions(runs: pd.DataFrame) -> list[tuple[str, str]]:
    """Say for each level of privacy what can and cannot be concluded about AUC, from pairs on the same seeds.

    The level and the finding; last, what holds for all. Empty where no run has an AUC.
    """
    ok = with_levels(successful_runs(runs))
    key = noise_key(ok)
    found = []
    for level in ok["level"].cat.categories:
        own = ok[ok["level"] == level]
        if own["auc"].isna().all() or own["series"].nunique() < 2:
            continue
        at = {key: value_text(own[key].iloc[0])} if key else {}
        try:
            found.append((str(level), compare(runs, ["strategy", "cut"], "auc", at).finding()))
        except ScenarioError as error:
            found.append((str(level), f"Not compared: {'; '.join(error.problems)}."))
    return [*found, ("", CAVEAT)] if found else []


def sentences(runs: pd.DataFrame, curves: pd.DataFrame) -> list[str]:
    """Say in plain words what the study found."""
    said = [f"{(runs['status'] == 'ok').sum()} of {len(runs)} runs succeeded."]
    auc = curves[curves["metric"] == "auc"]
    free = auc[auc["target"] == NO_DP]
    if free.empty:
        said += [f"At ε = {target}, {_best(auc[auc['target'] == target])}." for target in target_order(auc)]
        if not auc.empty:
            said.append("The study has no run without DP, so the cost of DP cannot be estimated.")
    else:
        said.append(f"Without DP, {_best(free)}.")
        apart = free[~free["strategy"].map(is_centralised)]
        if 0 < len(apart) < len(free):
            said.append(f"Among methods that keep records at the clinics, {_best(apart)}.")
        said += _costs(auc, free)
    return said


def _best(points: pd.DataFrame) -> str:
    """Name the series with the highest mean, and those that equal it."""
    top = points.sort_values("mean").iloc[-1]
    names = points.loc[(points["mean"] - top["mean"]).abs() < 1e-9, "series"]
    verb = "has" if len(names) == 1 else "share"
    seeds = "one seed" if top["n"] == 1 else f"mean of {top['n']} seeds and 95 % confidence interval"
    return f"{listed(names)} {verb} the highest pooled AUC: {score_text(top['mean'], top['half_width'])} ({seeds})"


def _costs(auc: pd.DataFrame, free: pd.DataFrame) -> list[str]:
    """Say for each epsilon how much AUC the methods lose to DP on average."""
    private = auc[auc["target"] != NO_DP].merge(free[["series", "mean"]], on="series", suffixes=("", "_free"))
    private["loss"] = private["mean_free"] - private["mean"]
    sentences = []
    for target in target_order(private):
        points = private[private["target"] == target].sort_values("loss")
        low, high = points.iloc[0], points.iloc[-1]
        text = f"At ε = {target} and these settings, DP costs {score_text(low['loss'])} of AUC ({low['series']})"
        if len(points) > 1:
            text = f"At ε = {target} and these settings, DP costs between {score_text(low['loss'])} of AUC "
            text += f"({low['series']}) and {score_text(high['loss'])} ({high['series']})"
        sentences.append(f"{text}{'; a negative cost is a gain' if '-' in score_text(low['loss']) else ''}.")
    return sentences


def guarantee(runs: pd.DataFrame) -> str:
    """State the unit, delta and mechanism the epsilons refer to."""
    private = runs[(runs["status"] == "ok") & (runs["mechanism"] != "none")]
    if private.empty:
        return "No run of this study used differential privacy."
    mechanisms, units = listed(private["mechanism"].unique()), listed(private["unit"].unique())
    deltas = listed([f"{delta:g}" for delta in sorted(private["delta"].unique())])
    return f"Mechanism: {mechanisms}. Protected unit: one {units}. δ = {deltas}. ε is for {adjacency_of(private)}."
