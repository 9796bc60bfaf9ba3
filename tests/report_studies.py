"""Made-up studies for the tests of reports: every number follows from the method, the level and the seed."""

import zlib
from collections.abc import Hashable, Mapping, Sequence
from math import inf, nan
from typing import Any

import numpy as np
import pandas as pd

from sim.privacy.ledger import COLUMN_OF
from sim.report.study import StudyResults

METHODS = {
    ("centralised", ""): "Centralised",
    ("local", ""): "Local",
    ("fedavg", ""): "FedAvg",
    ("splitfed-v1", "vanilla"): "SplitFed V1, vanilla",
    ("splitfed-v1", "u-shaped"): "SplitFed V1, U-shaped",
}
LEVELS = {"centralised": 0.86, "local": 0.74, "fedavg": 0.84, "splitfed-v1": 0.84}
LOSSES = {1.0: 0.05, 3.0: 0.02, 8.0: 0.01, inf: 0.0}


def make_runs(
    epsilons: Sequence[float] = (1.0, 3.0, 8.0, inf),
    seeds: Sequence[int] = (0, 1, 2),
    methods: Sequence[tuple[str, str]] = tuple(METHODS),
    **changes: Any,
) -> pd.DataFrame:
    """Runs whose within-clinic AUC is level - loss + 0.02 * (seed - 1); `changes` replace whole columns."""
    rows = [(*method, epsilon, seed) for method in methods for epsilon in epsilons for seed in seeds]
    runs = pd.DataFrame(rows, columns=["strategy", "cut", "privacy.epsilon", "seed"])
    epsilon, alone, split = runs["privacy.epsilon"], runs["strategy"] == "local", runs["cut"] != ""
    auc = runs["strategy"].map(LEVELS) - epsilon.map(LOSSES) + 0.02 * (runs["seed"] - 1)
    scores = {
        "within_clinic_auc": auc,
        "auc": auc + 0.01,
        "balanced_accuracy": auc - 0.08,
        "accuracy": auc - 0.06,
        "worst_clinic_auc": auc - 0.1,
    }
    return runs.assign(
        run_id=[f"run{row}" for row in runs.index], study="heart", held_out="", status="ok", loss=0.4, brier=0.15,
        calibration_slope=0.9, majority_accuracy=0.55,
        method=runs["strategy"], worst_clinic="south",
        mechanism=(epsilon == inf).map({True: "none", False: "dp-sgd"}), unit="record", delta=1e-4,
        sim_seconds=192.0, bytes_up=3_410_000, bytes_down=12_400, **scores,
        epsilon_model_user=0.99 * epsilon, epsilon_peer=(0.99 * epsilon).mask(alone, 0.0),
        epsilon_server=(0.99 * epsilon).mask(split, inf),
        epsilon_model_user_replace=2.1 * epsilon, epsilon_peer_replace=(2.1 * epsilon).mask(alone, 0.0),
        epsilon_server_replace=(2.1 * epsilon).mask(split, inf),
        adjacency=(epsilon == inf).map({True: "", False: "zero-out"}),
        epsilon_label=nan,
    ).assign(**changes)  # fmt: skip


def make_study(runs: pd.DataFrame, **context: Any) -> StudyResults:
    """A study with two rounds, two clinics, phases and traffic for each run that has a score."""
    ok = runs.loc[runs["status"] == "ok"]
    rounds, clinics = pd.DataFrame(), pd.DataFrame()
    if len(ok):
        scores = ["within_clinic_auc", "auc", "balanced_accuracy", "accuracy", "worst_clinic_auc"]
        rounds = pd.concat([ok[["run_id", *scores]].assign(round=number) for number in (0, 1)])
        clinics = pd.concat(
            [
                ok[["run_id", "accuracy"]].assign(
                    name=name, records=60, test_records=30, auc=ok["within_clinic_auc"] - loss
                )
                for name, loss in (("north", 0.0), ("south", 0.1))
            ]
        )
    phases = ok[["run_id"]].assign(phase="upload", seconds=3.0)
    traffic = ok[["run_id"]].assign(way="up", kind="model", bytes=ok["bytes_up"])
    statements = {row["run_id"]: make_statement(row) for row in runs.to_dict("records")}
    tables = {"runs": runs, "rounds": rounds, "clinics": clinics, "phases": phases, "traffic": traffic}
    return StudyResults(name="heart", **tables, statements=statements, **context)


def make_statement(row: Mapping[Hashable, Any]) -> dict[str, Any]:
    """A statement as `sim.plan.statement` makes it: the server sees smashed rows where the model is cut."""
    adversaries = [
        {
            "adversary": name,
            "sees": [{"meaning": "smashed data", "noised": False}] if name == "server" and row["cut"] else [],
            "epsilon": row[column],
            "clinic": "north",
            "adjacency": "zero-out",
            "replace-epsilon": row[f"{column}_replace"],
            "reasons": ["smashed rows leave without noise"] if row[column] == inf else [],
            "advantage": 0.25,
            "true-positive-rates": {"0.01": 0.05},
        }
        for name, column in COLUMN_OF.items()
        if column in row
    ]
    mechanism = {
        "what": "gradients", "seen-by": ["server"], "mechanism": "Gaussian noise on Poisson samples",
        "noise": [1.5, 2.5], "noise-is": "standard deviation over the sensitivity", "sample-rate": [0.1, 0.1],
        "times": [40, 60], "counted-in": "training steps", "adjacency": "zero-out",
    }  # fmt: skip
    return {
        "delta": 1e-4,
        "adversaries": adversaries,
        "mechanisms": [mechanism] if row["mechanism"] != "none" else [],
        "attacks": [],
        "outside": [{"what": "batch sizes", "marking": "public", "note": "seen where rows cross"}],
        "not-covered": [
            {"what": "held-out metrics", "where": "run.json", "of": "held-out records", "columns": ["auc"]}
        ],
        "accountant": "privacy loss distributions",
        "generator": "Streams.",
    }


def datasets(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all rows of data embedded in a Vega-Lite specification and its parts."""
    own = spec.get("data", {}).get("values", [])
    parts = (part for kind in ("hconcat", "vconcat", "layer") for part in spec.get(kind, ()))
    return [*own, *(row for part in parts for row in datasets(part))]


def make_predictions(runs: pd.DataFrame, clinics: Mapping[str, int], lift: Mapping[str, float]) -> pd.DataFrame:
    """Predictions of held-out records, the same records and labels in all runs of a seed.

    Parameters
    ----------
    clinics : mapping of str to int
        By name, how many records are held out.
    lift : mapping of str to float
        By strategy, how much higher cases score than controls, in standard deviations.
    """
    parts = []
    for row in runs.to_dict("records"):
        records = np.random.default_rng(row["seed"])
        own = np.random.default_rng([row["seed"], zlib.crc32(row["strategy"].encode())])
        for place, (clinic, count) in enumerate(clinics.items()):
            if row["held_out"] not in ("", clinic):
                continue
            label = records.integers(0, 2, count)
            score = own.normal(size=count) + lift[row["strategy"]] * label
            parts.append(
                pd.DataFrame(
                    {
                        "run_id": row["run_id"],
                        "record": 1000 * place + np.arange(count),
                        "patient": 1000 * place + np.arange(count),
                        "clinic": clinic,
                        "label": label,
                        "probability_1": 1 / (1 + np.exp(-score)),
                    }
                ).assign(probability_0=lambda own: 1 - own["probability_1"])
            )
    return pd.concat(parts, ignore_index=True)
