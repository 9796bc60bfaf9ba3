"""What commands share: their arguments, the console, and the plans of a scenario."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.foundation.lazy import loading
from sim.foundation.problems import ScenarioError

if TYPE_CHECKING:
    from rich.console import Console

    from sim.api.preparing import Prepared
    from sim.report.study import StudyResults

ScenarioFile = Annotated[Path, typer.Argument(metavar="FILE", help="The scenario (TOML).")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the scenario; repeatable. VALUE is TOML."),
]
Only = Annotated[
    list[str] | None, typer.Option("--only", metavar="STRATEGY", help="Run only this strategy; repeatable.")
]
Jobs = Annotated[
    int | None,
    typer.Option("--jobs", min=1, max=4096, help="Number of worker processes; one per processor by default."),
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


@contextmanager
def modules() -> Iterator[None]:
    """Import what a command needs; modules stay until its end, so that no garbage is ever looked for among them.

    NumPy, which is among them, gets one thread for linear algebra unless the user says otherwise: of products as small
    as a report's, threads that wait for each other take more time than they save.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with loading():
        yield
        gc.freeze()


def wide_console() -> Console:
    """Return a console for tables: where nobody watches (a file, a log) it is as wide as the tables need."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=120)


def print_results(console: Console, study: StudyResults) -> None:
    """Print a study's table, what it supports at each level of privacy, and what its attacks find."""
    from sim.report.attacks import attack_words
    from sim.report.spoken import spoken
    from sim.report.table import console_table
    from sim.report.words import conclusions

    console.print(console_table(study.runs, study.held_out, study.frame))
    for level, said in conclusions(study):
        console.print(f"{level}: {said}" if level not in ("", "as set") else said, markup=False, highlight=False)
    for said in attack_words(study, spoken(study.runs).within) if len(study.attacks) else ():
        console.print(said, markup=False, highlight=False)


def planned(
    file: Path, overrides: list[str] | None, only: list[str] | None = None, *, trials: bool = False
) -> Prepared:
    """Check a scenario file, plan every run, and its trials if need be; on standard error, say what is hardly meant.

    Raises ScenarioError with every problem; each line begins with the file.
    """
    with modules():
        from sim.api.preparing import prepare
        from sim.scenario import load_scenario

    try:
        if only:
            load_scenario(file, overrides or (), only)  # says what is not there
        prepared = prepare(load_scenario(file, overrides or ()), only or (), trials=trials)
    except ScenarioError as error:
        lines = (line.removeprefix("scenario: ") for line in error.problems)
        raise ScenarioError(line if line.startswith(f"{file}:") else f"{file}: {line}" for line in lines) from None
    for note in prepared.notes:
        print(f"{file}: note: {note}", file=sys.stderr)
    return prepared
