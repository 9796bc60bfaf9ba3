"""What a study found, in plain words."""

from __future__ import annotations

import pandas as pd

from sim.foundation.problems import ScenarioError
from sim.foundation.text import listed, value_text
from sim.report.compare import CAVEAT, compare
from sim.report.points import noise_key, with_levels
from sim.report.summary import adjacency_of, successful_runs


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


def guarantee(runs: pd.DataFrame) -> str:
    """State the unit, delta and mechanism the epsilons refer to."""
    private = runs[(runs["status"] == "ok") & (runs["mechanism"] != "none")]
    if private.empty:
        return "No run of this study used differential privacy."
    mechanisms, units = listed(private["mechanism"].unique()), listed(private["unit"].unique())
    deltas = listed([f"{delta:g}" for delta in sorted(private["delta"].unique())])
    return f"Mechanism: {mechanisms}. Protected unit: one {units}. δ = {deltas}. ε is for {adjacency_of(private)}."
