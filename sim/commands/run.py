"""``suture run``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sim.commands.common import Only, Out, Overrides, ScenarioFile, planned, wide_console


def run(
    file: ScenarioFile,
    out: Out = Path("results"),
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Worker processes; one a processor if not given.")
    ] = None,
    overrides: Overrides = None,
    only: Only = None,
) -> None:
    """Run a study; runs that are finished in the results folder are not repeated."""
    from rich.console import Console

    from sim.report.html import write_report
    from sim.report.table import console_table
    from sim.scenario import load_scenario
    from sim.spec import expand
    from sim.study.display import report_context, shown_progress
    from sim.study.runner import default_jobs, run_study

    plans = planned(file, overrides, only)
    scenario = load_scenario(file, overrides or ())
    console = wide_console()
    folder = out / scenario.name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with shown_progress(Console(stderr=True)) as progress:
            table = run_study(plans, [spec.run_id for spec in expand(scenario)], out, jobs or default_jobs(), progress)
    except KeyboardInterrupt:
        print("interrupted; what has finished is kept, and the same command goes on from there", file=sys.stderr)
        raise typer.Exit(130) from None
    report = write_report(table, folder, report_context(scenario, sys.argv[1:]))
    console.print(console_table(table))
    console.print(f"Table: {folder / 'runs.parquet'}\nReport: {report}", soft_wrap=True, highlight=False)
    mine = table[table["run_id"].isin([p.spec.run_id for p in plans])]
    if (mine["status"] != "ok").any():
        raise typer.Exit(1)
