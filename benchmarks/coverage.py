"""Do the intervals hold? Made-up studies with known truth; ``python -m benchmarks.coverage [STUDIES]``.

For each law of :data:`LAWS`, number of seeds and of patients: in what share of studies the interval of one method, and
that of the difference of two, holds the truth (95 % is claimed), and in what share any of all pairs of equal methods is
told apart (5 % is claimed), of four methods and of twelve. Then the same over clinics that are drawn, and with models
that are really trained on the patients that are not held out, whose true difference is that over all such studies.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from multiprocessing import get_context

import numpy as np
import pandas as pd
from scipy.special import expit

from benchmarks.made_up import Law, Study, drawn, method_name
from sim.inference.clinics import by_clinic
from sim.inference.differences import all_differences, estimates
from sim.inference.evidence import Evidence, from_predictions
from sim.inference.hospitals import over_clinics

METRIC = "within_clinic_auc"
TWO = (0.8, 0.8)
LAWS = {
    "methods differ by patient (sd .4), seeds by .004": Law(aucs=TWO),
    "the same, seeds by .02": Law(aucs=TWO, noise=0.02),
    "new patients on each seed; methods differ by seed alone (.01)": Law(aucs=TWO, fresh=True, apart=0.0, noise=0.01),
    "new patients on each seed, both": Law(aucs=TWO, fresh=True, noise=0.01),
    "a true difference of .02": Law(aucs=(0.82, 0.8)),
    "clinics differ by .08, five records a patient": Law(aucs=TWO, by_clinic=0.08, records=5),
}
HOSPITALS = {
    f"{clinics} clinics differ by .05, methods at clinics by .03": Law(
        aucs=TWO, clinics=clinics, patients=60 * clinics, by_clinic=0.05, by_clinic_apart=0.03, every_clinic=True
    )
    for clinics in (5, 10, 20)
}

TRAINED = ((2000, 14, 5), (740, 14, 5), (740, 14, 20), (740, 60, 5), (200, 24, 5))
"""Patients, features of both models and seeds."""


def evidence(study: Study, law: Law) -> Evidence:
    """Read a study as a report would."""
    return from_predictions(study.predictions, study.models, METRIC, same_patients=not law.fresh)


def covered(law: Law, seed: int) -> tuple[bool, bool]:
    """Say whether the interval of the first method, and that of its difference from the second, hold the truth."""
    study = drawn(law, np.random.default_rng([1, seed]))
    of = evidence(study, law)
    one, two = estimates(of).iloc[0], all_differences(of).iloc[0]
    return _holds(one, study.truth[0]), _holds(two, study.truth[0] - study.truth[1])


def told_apart(law: Law, seed: int) -> bool:
    """Say whether any two methods, all equally good, are told apart."""
    found = all_differences(evidence(drawn(law, np.random.default_rng([2, seed])), law))
    return bool((found["mean"].abs() > found["half_width"]).any())


def covered_over_clinics(law: Law, seed: int) -> tuple[bool, bool]:
    """Say the same as `covered` of intervals over clinics, which are drawn too."""
    study = drawn(law, np.random.default_rng([3, seed]))
    singles, pairs = over_clinics(by_clinic(study.predictions, study.models, METRIC))
    return _holds(singles.iloc[0], law.aucs[0]), _holds(pairs.iloc[0], law.aucs[0] - law.aucs[1])


def covered_if_trained(patients: int, features: int, seeds: int, seed: int) -> bool:
    """Say whether the difference of two trained models, which see halves of like features, holds its true value 0."""
    rng = np.random.default_rng([4, seed])
    label = (rng.random(patients) < 0.45).astype(np.int64)
    x = rng.standard_normal((patients, features)) + 0.5 * label[:, None] * (np.arange(features) < 4)
    halves = [np.arange(start, features, 2) for start in (0, 1)]
    parts = []
    for number in range(seeds):
        held = rng.random(patients) < 0.34
        for method, seen in enumerate(halves):
            score = x[held][:, seen] @ _logistic(x[~held][:, seen], label[~held])
            part = {"run_id": f"{number}-{method}", "patient": np.flatnonzero(held), "label": label[held]}
            parts.append(pd.DataFrame(part | {"probability_0": 1 - expit(score), "probability_1": expit(score)}))
    models = pd.DataFrame(
        [(f"{number}-{method}", method_name(method), number) for number in range(seeds) for method in (0, 1)],
        columns=["run_id", "method", "seed"],
    )
    table = pd.concat(parts, ignore_index=True).assign(clinic="one")
    return _holds(all_differences(from_predictions(table, models, METRIC, same_patients=True)).iloc[0], 0.0)


def _logistic(x: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Fit a ridge-penalised logistic regression by Newton steps; return its slopes."""
    x = np.column_stack([np.ones(len(x)), x])
    weights, ridge = np.zeros(x.shape[1]), np.diag([1e-6] + [1.0] * (x.shape[1] - 1))
    for _ in range(8):
        p = expit(x @ weights)
        curve = x.T @ (x * np.maximum(p * (1 - p), 1e-4)[:, None]) + ridge
        weights = weights + np.linalg.solve(curve, x.T @ (label - p) - ridge @ weights)
    return weights[1:]


def _holds(row: pd.Series, truth: float) -> bool:
    return bool(abs(row["mean"] - truth) <= row["half_width"])


def main(studies: int) -> None:
    """Print the tables as Markdown."""
    print("| truth | seeds | patients | one method | difference | of 4 | of 12 |\n|---|---|---|---|---|---|---|")
    seeds = range(studies)
    with get_context("spawn").Pool(2) as pool:
        for name, law in LAWS.items():
            for count, patients in ((3, 740), (5, 740), (20, 740), (3, 150), (20, 150)):
                now = replace(law, seeds=count, patients=patients, clinics=4 if patients > 150 else 2)
                hits = np.mean(pool.map(partial(covered, now), seeds, chunksize=20), axis=0)
                false = [
                    np.mean(pool.map(partial(told_apart, replace(now, aucs=(0.8,) * methods)), seeds, chunksize=20))
                    if "true" not in name
                    else np.nan
                    for methods in (4, 12)
                ]
                cells = [f"{share:.1%}" if share == share else "" for share in (*hits, *false)]
                print(f"| {name} | {count} | {patients} | {' | '.join(cells)} |", flush=True)
        print("\n| clinics are drawn | one method | difference |\n|---|---|---|")
        for name, law in HOSPITALS.items():
            hits = np.mean(pool.map(partial(covered_over_clinics, law), seeds, chunksize=20), axis=0)
            print(f"| {name} | {' | '.join(f'{share:.1%}' for share in hits)} |", flush=True)
        print("\n| trained on what is not held out | seeds | difference |\n|---|---|---|")
        for patients, features, count in TRAINED:
            hits = pool.map(partial(covered_if_trained, patients, features, count), seeds, chunksize=20)
            print(f"| {patients} patients, {features} features | {count} | {np.mean(hits):.1%} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
