"""``suture advise``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from sim.commands.common import Out, Overrides, ScenarioFile, planned


def advise(
    file: ScenarioFile,
    where: Annotated[
        str, typer.Option("--where", metavar="CONDITION", help='Such as "epsilon_server<=8 and hours<=24".')
    ] = "",
    best: Annotated[str, typer.Option("--best", metavar="COLUMN", help="Rank by this column of runs.parquet.")] = "auc",
    out: Out = Path("results"),
    overrides: Overrides = None,
) -> None:
    """Name the best method under a condition, the runner-up and the reason; from the plan where nothing has run."""
    from sim.report.advice import advise as choose
    from sim.results.store import TABLE_FILE, as_table, read_table
    from sim.scenario import load_scenario
    from sim.scenario.spec import expand

    scenario = load_scenario(file, overrides or ())
    specs = expand(scenario)
    folder = out / scenario.name
    runs = read_table(folder) if os.path.lexists(folder / TABLE_FILE) else as_table([])
    runs = runs[runs["run_id"].isin([spec.run_id for spec in specs]) & (runs["status"] == "ok")]
    if runs.empty:
        plans = planned(file, overrides, None)
        advice = choose(as_table({**plan.columns(), "status": "ok"} for plan in plans), where, best, planned=True)
    else:
        advice = choose(runs, where, best, planned=False)
    print(advice.paragraph)
    if not runs.empty and (missing := len(specs) - len(runs)):
        print(f"{missing} of the study's {len(specs)} runs are not finished and left out.")
    if advice.best is None:
        raise typer.Exit(1)
