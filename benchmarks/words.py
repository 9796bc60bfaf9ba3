"""Do the words of a report hold? Made-up studies with known truth; ``python -m benchmarks.words [STUDIES]``.

Each study has two methods that are equal, one that is better by .02 within clinics, one that is worse by .02 and looks
best when clinics are pooled, since it knows their shares of cases, and one that ranks by chance; one of them would do
better at a learning rate beyond those that were tried. A study counts as right if nothing that is said is false, and as
complete if all that the data can show is said.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from typing import Final

import numpy as np
import pandas as pd

from benchmarks.made_up import Law, Study, drawn, method_name
from sim.inference.scores import Predictions, scores
from sim.methods.labels import method_label
from sim.report.held_out import HeldOut
from sim.report.study import StudyResults
from sim.report.words import conclusions

BETTER, ONE, TWIN, TRAP, CHANCE = "fedprox", "fedavg", "splitfed-v1", "splitfed-v3", "split"
TRUTH: Final[Mapping[str, float]] = {BETTER: 0.82, ONE: 0.80, TWIN: 0.80, TRAP: 0.78, CHANCE: 0.5}
"""The methods and their within-clinic AUC."""
AT_THE_EDGE: Final = TWIN
RATES: Final = (0.02, 0.05, 0.1, 0.3, 1.0)
"""What was tried; the best of all methods is .1, but of :data:`AT_THE_EDGE` it is 3."""
LABELS: Final = {strategy: method_label(strategy) for strategy in TRUTH}
MARGIN: Final = 0.01
LAW: Final = Law(
    aucs=tuple(TRUTH.values()),
    seeds=8,
    patients=8000,
    clinics=8,
    apart=0.1,
    noise=0.002,
    knows_clinic=(0.0, 0.0, 0.0, 0.8, 0.0),
    prevalence=(0.15, 0.5, 0.85, 0.4),
)


def study_of(law: Law, seed: int, **changes: object) -> StudyResults:
    """Draw a study, and make of it what a results folder would be read as."""
    return results(drawn(law, np.random.default_rng([5, seed])), list(TRUTH), **changes)


def results(study: Study, methods: Sequence[str], **changes: object) -> StudyResults:
    """Return a made-up study as read from its folder; `methods` are the strategies, in the law's order."""
    strategies = dict(zip(map(method_name, range(len(methods))), methods, strict=True))
    run, runs = pd.factorize(study.predictions["run_id"])
    of = Predictions.of(study.predictions, run.astype(np.int64), len(runs))
    models = study.models.set_index("run_id").loc[runs].reset_index()
    table = pd.DataFrame(
        {
            "run_id": models["run_id"], "study": "made-up", "cut": "",
            "seed": models["seed"], "held_out": "", "status": "ok", "rounds": 1, "adjacency": "", "mechanism": "none",
            **{name: scores(of, name)[0] for name in ("within_clinic_auc", "auc", "brier")},
            **dict.fromkeys(("epsilon_model_user", "epsilon_peer", "epsilon_server"), np.inf),
        }
    ).assign(**dict.fromkeys(("strategy", "method"), models["method"].map(strategies)), **changes)  # fmt: skip
    held_out = HeldOut(predictions=study.predictions, ratio=0.5, same_patients=True, margin=MARGIN)
    return StudyResults(name="made-up", runs=table, held_out=held_out)


def trials(law: Law, seed: int) -> pd.DataFrame:
    """Draw the scores of each method at each rate on validation records, and mark the best of each seed."""
    rng = np.random.default_rng([6, seed])
    rows = pd.DataFrame(
        [(strategy, "", number, rate) for strategy in TRUTH for number in range(law.seeds) for rate in RATES],
        columns=["strategy", "cut", "seed", "tuned.train.learning-rate"],
    )
    best = rows["strategy"].map(lambda strategy: 3.0 if strategy == AT_THE_EDGE else 0.1)
    away = np.log10(rows["tuned.train.learning-rate"] / best)
    rows["score"] = 0.8 - 0.02 * away**2 + 0.002 * rng.standard_normal(len(rows))
    rows["loss"] = 0.5
    return rows.assign(chosen=rows["score"] == rows.groupby(["strategy", "seed"])["score"].transform("max"))


def told(said: str) -> dict[str, set[str]]:
    """Take apart what was said: the best, and by what was said of them the others."""
    names = "|".join(map(re.escape, sorted(LABELS.values(), key=len, reverse=True)))
    patterns = {
        "best": rf"^({names}) has the highest within-clinic AUC",
        "worse": r"It is better than ([^.]*)\.",
        "better": r"([^.]*) (?:is|are) better\.",
        "equal": r"([^.]*) (?:is|are) equal to it within",
        "open": r"About (.*?) nothing can be concluded",
        "pooled": r"ranks otherwise: (.*?) leads",
        "chance": r"([^.]*) (?:is|are) not shown to rank better than chance",
        "edge": r"([^.]*) did best at the highest train.learning-rate that was tried",
    }
    found = {kind: re.search(pattern, said) for kind, pattern in patterns.items()}
    named = {kind: set(re.findall(names, match[1])) if match else set() for kind, match in found.items()}
    whole = {kind for kind, match in found.items() if match and match[1].startswith("the other ")}
    return named | dict.fromkeys(whole, set(LABELS.values()) - named["best"])


def faults(said: Mapping[str, set[str]]) -> list[str]:
    """List what was said and is not true."""
    aucs = {LABELS[strategy]: auc for strategy, auc in TRUTH.items()}
    [best] = said["best"]
    wrong = [f"{best} better than {other}" for other in said["worse"] if aucs[best] <= aucs[other]]
    wrong += [f"{other} better than {best}" for other in said["better"] if aucs[best] >= aucs[other]]
    wrong += [f"{other} equal to {best}" for other in said["equal"] if abs(aucs[best] - aucs[other]) > MARGIN]
    wrong += [f"{other} leads pooled" for other in said["pooled"] if other != LABELS[TRAP]]
    wrong += [f"{other} by chance" for other in said["chance"] if other != LABELS[CHANCE]]
    return wrong + [f"{other} at the edge" for other in said["edge"] if other != LABELS[AT_THE_EDGE]]


def gaps(said: Mapping[str, set[str]], best: str) -> list[str]:
    """List what could have been said: the best, that it is better, which others equal it, and the traps."""
    auc = {LABELS[strategy]: value for strategy, value in TRUTH.items()}
    worse = {name for name in auc if auc[name] < auc[best] - MARGIN}
    equal = {name for name in auc if name != best and auc[name] == auc[best]}
    kinds = {"best": {best}, "worse": worse, "equal": equal, "edge": {LABELS[AT_THE_EDGE]}}
    kinds |= {"pooled": {LABELS[TRAP]}, "chance": {LABELS[CHANCE]}}
    return [
        f"{kind}: not {'; '.join(sorted(names - said[kind]))}" for kind, names in kinds.items() if names - said[kind]
    ]


def judged(law: Law, seed: int) -> tuple[list[str], list[str]]:
    """Return the faults and the gaps of what a report says of a study."""
    everything = replace(study_of(law, seed), trials=trials(law, seed))
    [(_, said), _] = conclusions(everything)
    # The two equal methods are compared where no better one takes the lead.
    runs = everything.runs[everything.runs["strategy"] != BETTER]
    [(_, of_twins), _] = conclusions(replace(everything, runs=runs))
    first, second = told(said), told(of_twins)
    [lead] = second["best"]
    lead = lead if lead in (LABELS[ONE], LABELS[TWIN]) else LABELS[ONE]
    return faults(first) + faults(second), gaps(first, LABELS[BETTER]) + gaps(second, lead)


def main(studies: int) -> None:
    """Print in how many studies the words were right, and complete, and what was wrong."""
    laws = {
        "large": LAW,
        "as large as heart": replace(LAW, seeds=5, patients=740, clinics=4, apart=0.4, noise=0.004),
    }
    with get_context("spawn").Pool(2) as pool:
        print("| study | nothing false | all said |\n|---|---|---|")
        for name, law in laws.items():
            found = pool.map(partial(judged, law), range(studies), chunksize=10)
            right, complete = (np.mean([not each[kind] for each in found]) for kind in (0, 1))
            print(f"| {name}, {law.patients} patients | {right:.1%} | {complete:.1%} |", flush=True)
            for fault in [fault for wrong, _ in found for fault in wrong]:
                print(f"{name}: {fault}", file=sys.stderr)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
