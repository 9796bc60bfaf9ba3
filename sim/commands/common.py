"""What commands share: their arguments, the console, and the plans of a scenario."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.foundation.problems import ScenarioError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from sim.plan.plan import Plan
    from sim.report.study import StudyResults

ScenarioFile = Annotated[Path, typer.Argument(metavar="FILE", help="The scenario (TOML).")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the scenario; repeatable. VALUE is TOML."),
]
Only = Annotated[
    list[str] | None, typer.Option("--only", metavar="STRATEGY", help="Run only this strategy; repeatable.")
]
StudyFolder = Annotated[Path, typer.Argument(metavar="DIR", help="The study's folder, OUT/<study>.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run's folder, OUT/<study>/<run-id>.")]
Trust = Annotated[
    bool, typer.Option("--trust", help="Import and run code that the folder names (a model factory, a strategy).")
]
AnyFolder = Annotated[
    Path, typer.Argument(metavar="DIR", help="A study's folder, OUT/<study>, or a run's, OUT/<study>/<run-id>.")
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="The results folder.")]


def wide_console() -> Console:
    """Return a console for tables: where nobody watches (a file, a log) it is as wide as the tables need."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=120)


def print_results(console: Console, table: pd.DataFrame, study: StudyResults) -> None:
    """Print a study's table, what it supports at each level of privacy, and what its attacks find."""
    from sim.report.attacks import attack_words
    from sim.report.points import HEADLINE
    from sim.report.table import console_table
    from sim.report.words import conclusions

    console.print(console_table(table, study.held_out))
    for level, said in conclusions(study):
        console.print(f"{level}: {said}" if level not in ("", "as set") else said, markup=False, highlight=False)
    for said in attack_words(study, HEADLINE) if len(study.attacks) else ():
        console.print(said, markup=False, highlight=False)


def planned(file: Path, overrides: list[str] | None, only: list[str] | None) -> list[Plan]:
    """Plan every run of a scenario file, and say on standard error what is most likely not meant.

    Raises ScenarioError with every problem; each line begins with the file.
    """
    from sim.data.federation import load_federation
    from sim.data.folds import runs_of
    from sim.plan.notes import label_notes, privacy_notes
    from sim.scenario import load_scenario
    from sim.study.planning import plan_runs

    with _problems_of(file):
        scenario = load_scenario(file, overrides or (), only or ())
        plans = list(plan_runs(runs_of(scenario)))
        federation = load_federation(scenario.data, scenario.seeds[0])
    for note in (
        *privacy_notes(scenario),
        *label_notes(scenario, federation.facts),
        *federation.remarks,
        *_notes(plans),
    ):
        print(f"{file}: note: {note}", file=sys.stderr)
    return plans


def planned_trials(file: Path, overrides: list[str] | None, only: list[str] | None) -> list[Plan]:
    """Plan every trial of a scenario file; errors are those of :func:`planned`."""
    from sim.scenario import load_scenario
    from sim.study.planning import plan_trials

    with _problems_of(file):
        return plan_trials(load_scenario(file, overrides or (), only or ()))


@contextmanager
def _problems_of(file: Path) -> Iterator[None]:
    """Begin each line of what is wrong with the file."""
    try:
        yield
    except ScenarioError as error:
        lines = (line.removeprefix("scenario: ") for line in error.problems)
        raise ScenarioError(line if line.startswith(f"{file}:") else f"{file}: {line}" for line in lines) from None


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
