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
        str, typer.Option("--where", metavar="CONDITION", help='For example "epsilon_server<=8 and hours<=24".')
    ] = "",
    best: Annotated[
        str,
        typer.Option(
            "--best",
            metavar="COLUMN",
            help="The column of runs.parquet to rank by; by default the score within clinics.",
        ),
    ] = "",
    cost: Annotated[
        str,
        typer.Option("--cost", metavar="COLUMN", help="Of the methods as good as the best, take the lowest in this."),
    ] = "sim_seconds",
    out: Out = Path("results"),
    overrides: Overrides = None,
) -> None:
    """Recommend the cheapest method that is as good as the best under a condition; from the plan before any run."""
    from sim.data.folds import runs_of
    from sim.report.advice import advise as choose
    from sim.report.compare import NO_ROUNDS
    from sim.report.held_out import read_held_out
    from sim.report.study import NO_TRIALS
    from sim.results.run_tables import read_run_tables
    from sim.results.store import TABLE_FILE, as_table, read_table
    from sim.results.trials import trials_table
    from sim.scenario import load_scenario
    from sim.scenario.contests import contests
    from sim.study.tuning import choices

    scenario = load_scenario(file, overrides or ())
    specs = runs_of(scenario)
    best = best or scenario.data.outcome_of_a_record.headline.within
    folder = out / scenario.name
    chosen = specs if scenario.tune is None else choices(contests(scenario, specs), folder).specs.values()
    runs = read_table(folder) if os.path.lexists(folder / TABLE_FILE) else as_table([])
    runs = runs[runs["run_id"].isin([spec.run_id for spec in chosen]) & (runs["status"] == "ok")]
    if runs.empty:
        plans = planned(file, overrides).plans
        advice = choose(as_table({**plan.columns(), "status": "ok"} for plan in plans), where, best, cost, planned=True)
    else:
        held_out, trials = read_held_out(folder, runs["run_id"]), trials_table(folder)
        advice = choose(
            runs,
            where,
            best,
            cost,
            planned=False,
            held_out=held_out,
            trials=NO_TRIALS if trials is None else trials,
            rounds=read_run_tables(folder, runs["run_id"], "rounds") if held_out else NO_ROUNDS,
        )
    print(advice.paragraph)
    if not runs.empty and (missing := len(specs) - len(runs)):
        print(f"{missing} of the study's {len(specs)} runs are not finished and left out.")
    if advice.best is None:
        raise typer.Exit(1)
