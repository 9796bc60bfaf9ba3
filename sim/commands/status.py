"""``suture status``."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from sim.commands.common import StudyFolder, wide_console
from sim.foundation.text import seconds_text


def status(
    folder: StudyFolder,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Rebuild runs.parquet from the run folders.")] = False,
) -> None:
    """Show the progress of a study, also while another process runs it."""
    from rich.markup import escape

    from sim.results.store import older_runs, write_table
    from sim.study.journal import read_study, statuses, trials_left

    console = wide_console()
    runs = statuses(folder)
    counts = Counter(run.state for run in runs)
    parts = [f"{counts[state]} {state}" for state in ("failed", "running", "interrupted", "waiting") if counts[state]]
    trials, ended, trial_seconds = trials_left(folder)
    if trials:
        console.print(f"{ended} of {trials} trials finished; the runs follow", highlight=False)
    console.print(", ".join([f"{counts['ok']} of {len(runs)} runs finished", *parts]), highlight=False)
    for run in runs:
        name = escape(" ".join(filter(None, (run.run["strategy"], run.run["cut"], f"seed {run.run['seed']}"))))
        if run.state in ("running", "interrupted"):
            console.print(f"{run.state} {run.run['run_id']} {name}: round {run.round} of {run.run['rounds']}")
        elif run.state == "failed":
            console.print(f"[red]failed[/red] {run.run['run_id']} {name}: {escape(run.error)}")
    left = trial_seconds + sum(float(run.run["estimated_seconds"]) for run in runs if run.state not in ("ok", "failed"))
    if left:
        console.print(f"about {seconds_text(left)} of processor time left (estimate)")
    if older := older_runs(folder):
        console.print(f"{len(older)} runs of another results version are ignored: {', '.join(older)}", highlight=False)
    if rebuild:
        table = write_table(folder, read_study(folder)["table"], strict=True)
        console.print(f"Table: {folder / 'runs.parquet'}, {len(table)} runs", soft_wrap=True, highlight=False)
