"""Plan the runs of a study, and put a plan into ``run.json``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from sim.data.at_clinics import load_records, records_key
from sim.data.facts import Facts
from sim.data.folds import runs_of
from sim.data.groups import read_groups
from sim.foundation.problems import ScenarioError
from sim.plan.plan import Plan, alike, make_plan
from sim.scenario import Scenario
from sim.scenario.contests import contests
from sim.scenario.lookup import is_flower_path
from sim.scenario.spec import RunSpec

Row = dict[str, Any]


def plan_runs(specs: Sequence[RunSpec], *, trials: bool = False) -> Iterator[Plan]:
    """Plan runs one by one; of each data set only the facts are kept, however many runs share it.

    Parameters
    ----------
    trials : bool
        Whether they are trials: these know of no held-out record, and share what is planned where they differ only in
        how they learn, or in a seed that decides about neither records nor who comes.

    Raises
    ------
    ScenarioError
        At the end, with every problem of every run, each once.
    """
    problems: list[str] = []
    known: dict[tuple[str, str, int], Facts] = {}
    planned: dict[str, Plan] = {}
    for spec in specs:
        data = records_key(spec.data, spec.clinics, spec.seed)
        try:
            if data not in known:
                federation = load_records(spec.data, spec.clinics, spec.seed, spec.parties)
                known[data] = (federation.for_tuning() if trials else federation).facts
            if is_flower_path(spec.strategy.name):
                from sim.flower.imported import check_imported

                check_imported(spec.strategy, len(known[data].names))
            read_groups(spec.data, spec.evaluation.groups, spec.seed)
            if not trials:
                yield make_plan(spec, known[data])
                continue
            name = alike(spec, known[data])
            if name not in planned:
                planned[name] = make_plan(spec, known[data])
            yield planned[name].of(spec, known[data])
        except ScenarioError as error:
            problems += error.problems
    if any(spec.parties for spec in specs):  # clinics are then made of regions, and a fault of theirs is the parties'
        problems = [problem for problem in problems if not problem.startswith("scenario: clinics.")] or problems
    if problems:
        raise ScenarioError(problems)


def plan_trials(scenario: Scenario) -> list[Plan]:
    """Plan the trials of a scenario's runs; none without ``[tune]``. Errors are those of :func:`plan_runs`."""
    return list(plan_runs([t for c in contests(scenario, runs_of(scenario)) for t in c.trials], trials=True))


def plan_summary(plan: Plan) -> Row:
    """Return what ``suture plan --json`` prints of a run: the columns known before training, and its clinics."""
    return {
        **plan.columns(),
        "bytes": {f"{way} {kind}": int(sizes.sum()) for (way, kind), sizes in sorted(plan.traffic.items())},
        "phase_seconds": plan.phase_seconds,
        "clinics": [asdict(clinic) for clinic in plan.clinics],
        **({"edges": [asdict(edge) for edge in plan.edges]} if plan.edges else {}),
    }


def plan_counts(plan: Plan) -> dict[str, list[int]]:
    """Return planned bytes by direction and kind and planned noised steps by part, one number a clinic."""
    traffic = {f"{way} {kind}": sizes.tolist() for (way, kind), sizes in sorted(plan.traffic.items())}
    return traffic | {f"noised-steps {part}": list(steps) for part, steps in sorted(plan.noised_steps.items())}


def edge_counts(plan: Plan) -> dict[str, dict[str, list[int]]]:
    """Return planned bytes between edge servers and cloud by direction and kind, one number an edge server."""
    traffic = {f"{way} {kind}": sizes.tolist() for (way, kind), sizes in sorted(plan.edge_traffic.items())}
    return {"edge-counts": traffic} if traffic else {}


def plan_drawn(plan: Plan) -> Row:
    """Return the counts and noise that epsilon follows from, ``[clinic]`` each, and how many classes there are."""
    drawn: Row = {name: values.tolist() for name, values in vars(plan.sampled).items() if name != "sums"}
    drawn["sums"] = [list(plan.sampled.sums_of(k).items()) for k in range(len(plan.clinics))]
    noise = {"noise-multipliers": list(plan.noise_multipliers), "release-noise": list(plan.release_noise)}
    return {**drawn, **noise, "classes": len(plan.job.facts.classes)}
