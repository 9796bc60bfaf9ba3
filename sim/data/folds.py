"""Clinics that are held out as a whole: which ones, and one run for each fold of them."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from sim.data.federation import clinic_names
from sim.foundation.problems import ScenarioError
from sim.foundation.rng import stream
from sim.scenario import Scenario
from sim.scenario.data import DataSpec
from sim.scenario.spec import MOST_RUNS, RunSpec, expand


def runs_of(scenario: Scenario) -> list[RunSpec]:
    """Return the runs of a scenario as ``expand`` does, and for each of them one a fold where clinics are held out.

    Raises
    ------
    ScenarioError
        With one line for each problem of the runs, or of the data that their folds are of.
    """
    specs = list(in_folds(expand(scenario)))
    if len(specs) > MOST_RUNS:
        fault = f"{len(specs):,} runs, and a study has at most {MOST_RUNS:,}"
        raise ScenarioError(f"scenario: data.folds: {fault}; hold out several clinics at a time with fewer folds")
    return specs


def in_folds(specs: Iterable[RunSpec]) -> Iterator[RunSpec]:
    """Yield each run, and in place of one with clinics in folds a run for every fold, which names its clinics."""
    known: dict[tuple[str, int], list[tuple[str, ...]]] = {}
    for spec in specs:
        data = spec.data
        if data.test != "held-out-clinics" or data.test_sites is not None:
            yield spec
            continue
        key = data.model_dump_json(), spec.seed
        if key not in known:
            known[key] = folds_of(data, clinic_names(data, spec.seed), spec.seed)
        for fold in known[key]:
            yield spec.model_copy(update={"data": data.model_copy(update={"test_sites": fold, "folds": None})})


def folds_of(data: DataSpec, names: Sequence[str], seed: int) -> list[tuple[str, ...]]:
    """Part clinics into folds of nearly equal numbers, drawn by the seed; each alone where no number is given.

    Raises
    ------
    ScenarioError
        If there are more folds than clinics, or only one clinic.
    """
    folds = data.folds or len(names)
    if len(names) < 2:
        raise ScenarioError("scenario: data.test: there is one clinic, and without it none to train; give more clinics")
    if folds > len(names):
        fault = f"{folds} folds of {len(names)} clinics"
        raise ScenarioError(f"scenario: data.folds: {fault}; give at most one a clinic, or leave data.folds out")
    if folds == len(names):
        return [(name,) for name in names]
    order = stream(seed, "folds").permutation(len(names))
    return [tuple(names[k] for k in sorted(part.tolist())) for part in np.array_split(order, folds)]
