"""``suture run``."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.commands.common import (
    Jobs,
    Only,
    Out,
    Overrides,
    ScenarioFile,
    modules,
    planned,
    print_results,
    wide_console,
)
from sim.foundation.problems import ScenarioError

if TYPE_CHECKING:
    from sim.study.engines import Engine


class EngineName(StrEnum):
    """Where runs are executed."""

    PROCESSES = "processes"
    RAY = "ray"


def run(
    file: ScenarioFile,
    out: Out = Path("results"),
    jobs: Jobs = None,
    overrides: Overrides = None,
    only: Only = None,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first failed run.")] = False,
    engine: Annotated[
        EngineName,
        typer.Option("--engine", help="Run in worker processes, or as tasks on a Ray cluster (suture[ray])."),
    ] = EngineName.PROCESSES,
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address", metavar="ADDRESS", help="The address of a running Ray cluster; a local one by default."
        ),
    ] = None,
    node_groups: Annotated[
        int | None,
        typer.Option(
            "--node-groups",
            min=1,
            max=4096,
            help="With --engine ray: share the clinics of each run out to so many processes that stay; runs come one "
            "after another.",
        ),
    ] = None,
) -> None:
    """Run a study; finished runs in the results folder are not repeated."""
    try:
        _run(file, out, overrides, only, fail_fast, _engine(engine, jobs, ray_address, node_groups))
    except KeyboardInterrupt:
        print("interrupted; finished runs are kept, and the same command resumes", file=sys.stderr)
        raise typer.Exit(130) from None


def _run(
    file: Path, out: Path, overrides: list[str] | None, only: list[str] | None, fail_fast: bool, engine: Engine
) -> None:
    with modules():
        from rich.console import Console

        from sim.api.progress import shown_progress
        from sim.api.running import carry_out
        from sim.api.study import Study
        from sim.results.store import older_runs, writing_to
        from sim.results.study_log import note_command

    prepared = planned(file, overrides, only, trials=True)
    console = wide_console()
    folder = out / prepared.whole.name
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        note_command(folder, sys.argv[1:], file)
    with shown_progress(Console(stderr=True)) as progress:
        done = carry_out(prepared, out, engine, progress, fail_fast=fail_fast)
    study = Study(folder, plans=done.plans)
    report = study.report(figures=True)
    print_results(console, study.results)
    console.print(f"Table: {folder / 'runs.parquet'}\nReport: {report}", soft_wrap=True, highlight=False)
    if older := older_runs(folder):
        console.print(f"{len(older)} runs of another results version are ignored: {', '.join(older)}", highlight=False)
    mine = study.runs[study.runs["run_id"].isin([p.spec.run_id for p in done.plans])]
    if (mine["status"] != "ok").any() or not done.attacked:
        raise typer.Exit(1)


def _engine(name: EngineName, jobs: int | None, ray_address: str | None, node_groups: int | None) -> Engine:
    from sim.api.running import engine_of
    from sim.flower.actors import ActorHosts
    from sim.study.engines import RayActors, RayCluster, RayTasks, default_jobs

    if name is not EngineName.RAY:
        for option, value in (("--ray-address", ray_address), ("--node-groups", node_groups)):
            if value is not None:
                raise ScenarioError(f"{option}: has no effect without --engine ray; add it")
        return engine_of(jobs or default_jobs())
    if node_groups is not None and jobs is not None:
        raise ScenarioError("--jobs: has no effect beside --node-groups, which are the processes; remove one of them")
    cluster = RayCluster(ray_address, node_groups or jobs or default_jobs())
    cluster.reach()
    return RayTasks(cluster, cluster.processors) if node_groups is None else RayActors(cluster, ActorHosts(node_groups))
