"""Do the intervals hold? Made-up studies with known truth; ``python -m benchmarks.coverage [STUDIES]``.

For each law of :data:`LAWS`, number of seeds and of patients: in what share of studies the interval of one method, and
that of the difference of two, holds the truth (95 % is claimed), and in what share any of all pairs of equal methods is
told apart (5 % is claimed), of four methods and of twelve.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from multiprocessing import get_context

import numpy as np
import pandas as pd

from benchmarks.made_up import Law, Study, drawn
from sim.inference.differences import all_differences, estimates
from sim.inference.evidence import Evidence, from_predictions
from sim.inference.hospitals import by_clinic, over_clinics

METRIC = "within_clinic_auc"
TWO = (0.8, 0.8)
LAWS = {
    "methods differ by patient (sd .4), seeds by .004": Law(aucs=TWO),
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


def evidence(study: Study, law: Law) -> Evidence:
    """Read a study as a report would."""
    ratio = law.held_out / (1 - law.held_out)
    return from_predictions(study.predictions, study.models, METRIC, ratio, same_patients=not law.fresh)


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


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
