"""Which settings each run of a study chooses among, and on which records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sim.foundation.problems import ScenarioError
from sim.scenario.base import Scalar
from sim.scenario.file import Scenario, validated
from sim.scenario.lookup import method_facts
from sim.scenario.overrides import replaced
from sim.scenario.spec import RunSpec
from sim.scenario.tune import Tune, of_strategies

MOST_TRIALS: Final = 100_000
_OF_ATTENDANCE: Final = ("train.participation", "train.over-select", "train.deadline")
"""Keys that decide who takes part in a round, where clinics have to be waited for."""
_AT_A_CUT: Final = ("model.cut", "model.cut-dropout", "train.smashed-dtype", "train.smashed-top-k", "train.nopeek")
"""Keys of what crosses at a cut."""
_OF_UPDATES: Final = ("train.update-dtype", "train.update-top-k")
"""Keys of what crosses of parts that are averaged."""


@dataclass(frozen=True)
class Contest:
    """The settings that one run chooses among.

    Every run, that is every seed, chooses by its own validation records. Seeds draw different records to hold out, so
    that a choice shared by seeds would be made on records that another seed reports on.

    Attributes
    ----------
    base : RunSpec
        The run as the scenario's tables have it.
    candidates : tuple of RunSpec
        The run with each of the settings, which are ``tuned``; none where no tuned key has an effect on the method.
    trials : tuple of RunSpec
        The same, on training records less the validation records.
    """

    base: RunSpec
    candidates: tuple[RunSpec, ...]
    trials: tuple[RunSpec, ...]


def contests(scenario: Scenario, specs: Sequence[RunSpec]) -> list[Contest]:
    """Return a contest for each of a scenario's runs; empty without ``[tune]``.

    Raises
    ------
    ScenarioError
        With a line for each setting that cannot be run.
    """
    tune = scenario.tune
    if tune is None:
        return []
    settings: dict[str, list[RunSpec]] = {}
    found: list[Contest] = []
    problems: list[str] = []
    for spec in specs:
        of_seeds = spec.model_dump_json(exclude={"seed"})
        try:
            if of_seeds not in settings:
                settings[of_seeds] = _candidates(scenario, tune, spec)
        except ScenarioError as error:
            problems += error.problems
            settings[of_seeds] = []
        own = [each.model_copy(update={"seed": spec.seed}) for each in settings[of_seeds]]
        trials = tuple(_trial(each, tune) for each in own)
        found.append(Contest(spec, tuple(own) if tune.refit else trials, trials))
    if problems:
        raise ScenarioError(problems)
    if (count := sum(len(each.trials) for each in found)) > MOST_TRIALS:
        raise ScenarioError(f"scenario: tune: {count:,} trials, and a study has at most {MOST_TRIALS:,}; tune less")
    return found


def _trial(spec: RunSpec, tune: Tune) -> RunSpec:
    return spec.model_copy(update={"data": spec.data.model_copy(update={"validation_share": tune.validation_share})})


def _candidates(scenario: Scenario, tune: Tune, spec: RunSpec) -> list[RunSpec]:
    """Return a run with each setting that is one of its own: keys without an effect are left out."""
    fixed = _set_by_strategy(scenario, spec)
    keys = [key for key in tune.keys if key not in fixed and _may_apply(spec, key)]
    found: dict[tuple[Any, ...], RunSpec] = {}
    for setting in tune.settings(keys):
        wanted = _with(spec, setting)
        without = set() if wanted.train.optimizer == "momentum" else {"train.momentum"}
        own = {key: value for key, value in setting.items() if key not in without}
        if own:
            found.setdefault(tuple(own.items()), _with(spec, own).model_copy(update={"tuned": own}))
    return list(found.values())


def _with(spec: RunSpec, setting: Mapping[str, Scalar]) -> RunSpec:
    tables: dict[str, Any] = spec.model_dump()
    places = {}
    for key, value in setting.items():
        way = key.split(".")
        for _, rest in of_strategies(key, [spec.strategy]):
            way = ["strategy", *rest.split(".")]
        tables = replaced(tables, way, value)
        places[".".join(way)] = f"tune.{key}"
    return validated(RunSpec, tables, "scenario", swept=places)


def _set_by_strategy(scenario: Scenario, spec: RunSpec) -> set[str]:
    shown = spec.strategy.label or spec.strategy.name
    tables = next((own.set for own in scenario.strategies if (own.label or own.name) == shown), {})
    return {f"{table}.{key}" for table, values in tables.items() for key in values}


def _may_apply(spec: RunSpec, key: str) -> bool:
    """Whether a key may have an effect on a run's method, whatever the other tuned keys are."""
    facts = method_facts(spec.strategy.name)
    if not getattr(facts, "trains", True):
        return False
    if key.startswith("strategies."):
        own = [rest.partition(".")[0] for _, rest in of_strategies(key, [spec.strategy])]
        return any(rest == "options" or rest in getattr(facts, "takes", ()) for rest in own)
    if key.startswith("privacy."):
        return bool(spec.privacy.mechanisms)
    if key in _OF_ATTENDANCE and (getattr(facts, "alone", False) or getattr(facts, "pooled", False)):
        return False
    if key in _OF_UPDATES:
        return getattr(facts, "clinic_parts", None) == "averaged" and not getattr(facts, "imported", False)
    return key not in _AT_A_CUT or spec.strategy.cut is not None
