"""The command ``suture``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from sim.plan.plan import Plan

app = typer.Typer(
    help="Simulate how a group of clinics would train one model together.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ScenarioFile = Annotated[Path, typer.Argument(metavar="FILE", help="The scenario (TOML).")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key; repeatable. VALUE is TOML.")
]
Only = Annotated[list[str] | None, typer.Option("--only", metavar="STRATEGY", help="This strategy only; repeatable.")]


@app.callback()
def _suture() -> None:
    """Simulate how a group of clinics would train one model together."""


@app.command()
def plan(
    file: ScenarioFile,
    overrides: Overrides = None,
    only: Only = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list, one object a run.")] = False,
) -> None:
    """Say what a study will cost in time, traffic and epsilon, before any training."""
    from sim.study.runner import plan_summary

    plans = _plans(file, overrides, only)
    if as_json:
        import json

        from sim.study.store import to_plain

        print(json.dumps(to_plain([plan_summary(p) for p in plans]), indent=1, allow_nan=False))
        return
    from sim.report.table import plan_table

    _console().print(plan_table([plan_summary(p) for p in plans]))


@app.command()
def check(
    file: ScenarioFile,
    overrides: Overrides = None,
    plot: Annotated[bool, typer.Option("--plot", help="Also draw what each clinic holds.")] = False,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the picture goes.")] = Path("results"),
) -> None:
    """Check a scenario and say what each clinic holds, for the first seed; nothing is trained."""
    from sim.data import load_federation
    from sim.report.holdings import holdings_table, write_holdings_figure
    from sim.scenario import load_scenario

    scenario = load_scenario(file, overrides or ())
    plans = _plans(file, overrides, None)
    federation = load_federation(scenario.data, scenario.seeds[0])
    console = _console()
    console.print(holdings_table(federation))
    methods = {(plan.spec.strategy.label or plan.spec.strategy.name, plan.spec.strategy.cut) for plan in plans}
    console.print(f"{len(plans)} runs: {len(methods)} methods, {len(scenario.seeds)} seeds")
    if plot:
        for picture in write_holdings_figure(federation, out / scenario.name / "figures"):
            console.print(f"Picture: {picture}", soft_wrap=True, highlight=False)


@app.command()
def run(
    file: ScenarioFile,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The results folder.")] = Path("results"),
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

    plans = _plans(file, overrides, only)
    scenario = load_scenario(file, overrides or ())
    console = _console()
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


def _console() -> Console:
    """Return a console for tables: where nobody watches (a file, a log) it is as wide as the tables need."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=120)


def _plans(file: Path, overrides: list[str] | None, only: list[str] | None) -> list[Plan]:
    from sim.problems import ScenarioError
    from sim.scenario import load_scenario
    from sim.spec import expand
    from sim.study.runner import plan_runs

    try:
        return list(plan_runs(expand(load_scenario(file, overrides or (), only or ()))))
    except ScenarioError as error:
        lines = (line.removeprefix("scenario: ") for line in error.problems)
        raise ScenarioError(line if line.startswith(f"{file}:") else f"{file}: {line}" for line in lines) from None


def main() -> None:
    """Run the command; a problem with the input is one line each and exit code 2, never a traceback."""
    from sim.problems import ScenarioError, SutureError

    try:
        app()
    except ScenarioError as error:
        print("\n".join(error.problems), file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        print(f"{error.filename or 'file'}: {error.strerror or error}", file=sys.stderr)
        raise SystemExit(2) from None
    except SutureError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
