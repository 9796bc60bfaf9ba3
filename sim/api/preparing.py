"""A study checked and planned, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sim.attacks.attack import attack_of
from sim.data.at_clinics import load_records
from sim.data.folds import runs_of
from sim.foundation.problems import ScenarioError
from sim.methods.messages import Kind
from sim.methods.method import method_of
from sim.methods.protocol import protocol_of
from sim.plan.notes import label_notes, privacy_notes
from sim.plan.plan import Plan
from sim.scenario import Scenario
from sim.scenario.clinics import ROW_NOISE
from sim.scenario.file import picked
from sim.scenario.spec import expand
from sim.scenario.study import AttackTable
from sim.study.planning import plan_runs, plan_trials


@dataclass(frozen=True)
class Prepared:
    """A study that is checked and planned."""

    whole: Scenario
    plans: list[Plan]  # Of the runs that are asked for
    trials: list[Plan]  # Those of these runs
    notes: tuple[str, ...]  # What is no error but most likely not meant, a line each


def prepare(whole: Scenario, only: Sequence[str] = (), *, trials: bool = True) -> Prepared:
    """Plan every run that is asked for, and its trials if need be; raises ScenarioError with every problem."""
    scenario = picked(whole, only)
    plans = list(plan_runs(runs_of(scenario)))
    federation = load_records(scenario.data, scenario.clinics, scenario.seeds[0], scenario.parties)
    _refuse_attacks(whole.attacks, plans)
    _refuse_noise_without_rows(whole)
    notes = (*privacy_notes(scenario), *label_notes(scenario, federation.facts), *federation.remarks, *_notes(plans))
    return Prepared(whole, plans, plan_trials(scenario) if trials else [], notes)


def _refuse_attacks(tables: Sequence[AttackTable], plans: Sequence[Plan]) -> None:
    """Raise ScenarioError with a line for each attack that is about classes where runs predict something else."""
    kinds = {plan.job.outcome.kind for plan in plans} - {"classes"}
    why = "and is not made on grades" if "ordinal" in kinds else f"and there are none of {min(kinds, default='')}s"
    problems = [
        f"scenario: attacks.{number}: {table.name} is about classes, {why}; remove it"
        for number, table in enumerate(tables)
        if kinds and attack_of(table.name).of_classes
    ]
    if problems:
        raise ScenarioError(problems)


def _refuse_noise_without_rows(whole: Scenario) -> None:
    """Raise ScenarioError if clinics add noise to their rows at a cut, and no strategy of the study has any."""
    groups = [group.hostile for group in whole.clinics]
    if ROW_NOISE not in [*groups, *(value for values in whole.sweep.values() for value in values)]:
        return
    strategies = {(spec.strategy.name, spec.strategy.cut) for spec in expand(whole)}
    if not any(Kind.SMASHED in protocol_of(method_of(name), cut).rows_sent for name, cut in strategies):
        mend = "take another, or add a strategy with a cut"
        raise ScenarioError(
            f"scenario: clinics.hostile: row-noise is on rows at a cut, and no strategy here sends any; {mend}"
        )


def _notes(plans: list[Plan]) -> Iterator[str]:
    """Say in how many rounds nobody comes back, once for all seeds of a method that have the same to say."""
    seeds: dict[tuple[str, str], dict[int, None]] = {}
    for plan in plans:
        strategy = plan.spec.strategy
        method = " ".join(filter(None, [strategy.label or strategy.name, strategy.cut]))
        if plan.note:
            seeds.setdefault((method, plan.note), {})[plan.spec.seed] = None
    for (method, note), alike in seeds.items():
        yield f"{method}, seed{'s' * (len(alike) > 1)} {', '.join(map(str, alike))}: {note}"
