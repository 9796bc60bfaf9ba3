"""Do the words hold of studies that were really run? ``python -m benchmarks.nothing [STUDIES]``.

The labels have nothing to do with the features, and clinics differ in their share of cases: whatever is trained, its
true within-clinic AUC is .5. So no method is better than another, none ranks better than chance, and none has a better
Brier score than the clinics' shares; FedProx with a penalty of 0 is FedAvg bit for bit. Everything runs through the
whole pipeline, from a table of records to the findings.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import pandas as pd

from sim import run
from sim.report.reading import read_results
from sim.report.words import conclusions

SIZES: Final = {(20, 30): "20 clinics of 30 patients", (4, 185): "4 clinics of 185 patients"}
FEATURES: Final = ("a", "b", "c")
SCENARIO: Final = """
name = "nothing"
seeds = [0, 1, 2]
[data]
source = "csv"
path = "records.csv"
label = "label"
clinic = "clinic"
features = ["a", "b", "c"]
scaling = "none"
test-share = 0.34
[model]
name = "mlp"
hidden = [4]
cut = 1
[train]
rounds = 10
batch-size = 16
learning-rate = 0.3
eval-every = 10
[[clinics]]
profile = "hospital"
[[strategies]]
name = "local"
[[strategies]]
name = "fedavg"
[[strategies]]
name = "fedprox"
proximal-mu = 0.0
[[strategies]]
name = "split"
"""
KINDS: Final = ("a method is better", "better than chance", "better Brier score", "twins are the same")


def records(clinics: int, size: int, study: int) -> pd.DataFrame:
    """Draw records whose labels depend on nothing but their clinic."""
    rng = np.random.default_rng([9, clinics, study])
    clinic = np.repeat(np.arange(clinics), size)
    label = rng.random(len(clinic)) < np.linspace(0.1, 0.9, clinics)[clinic]
    table = pd.DataFrame(rng.standard_normal((len(clinic), len(FEATURES))), columns=FEATURES)
    return table.assign(label=label.astype(int), clinic=[f"clinic {number}" for number in clinic])


def findings(clinics: int, size: int, study: int) -> tuple[str, str]:
    """Run a study, and return what is concluded of all methods, and of the twins."""
    with TemporaryDirectory() as place:
        folder = Path(place)
        records(clinics, size, study).to_csv(folder / "records.csv", index=False)
        (folder / "nothing.toml").write_text(SCENARIO, encoding="utf-8")
        run(folder / "nothing.toml", folder / "results")
        found = read_results(folder / "results" / "nothing")
    twins = replace(found, runs=found.runs[found.runs["strategy"].isin(["fedavg", "fedprox"])])
    [(_, said), _], [(_, of_twins), _] = conclusions(found), conclusions(twins)
    return said, of_twins


def judged(said: str, of_twins: str) -> list[bool]:
    """Say of each kind of words whether they were said; of the first three, that is false."""
    all_idle = "and 1 other are not shown to rank better than chance"
    all_worse = "is shown for Local; FedAvg; FedProx; and 1 other."
    return [
        "is better than" in said or "are better." in said or "is better." in said,
        all_idle not in said,
        all_worse not in said,
        "FedProx has the same on every seed." in of_twins,
    ]


def main(studies: int) -> None:
    """Print how often what is false was said, and what is true."""
    with get_context("spawn").Pool(2) as pool:
        print(f"| study | {' | '.join(KINDS)} |\n|{'---|' * (len(KINDS) + 1)}")
        for (clinics, size), name in SIZES.items():
            found = np.array([judged(*said) for said in pool.map(partial(findings, clinics, size), range(studies), 1)])
            print(f"| {name} | {' | '.join(f'{share:.1%}' for share in found.mean(0))} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60)
