"""What a study shows while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from sim.foundation.text import seconds_text
from sim.study.engines import Row
from sim.study.runner import Progress


@contextmanager
def shown_progress(console: Console) -> Iterator[Progress]:
    """Show a progress bar with the time left; a failed run is printed at once."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("about {task.fields[left]} left"),
    )
    with Bar(*columns, console=console) as bar:
        task = bar.add_task("runs", total=None, left="?")

        def begin(what: str, to_do: int, done: int, seconds_left: float) -> None:
            bar.update(task, description=what, total=to_do, completed=0, left=seconds_text(seconds_left))
            if done:
                bar.console.print(f"{done} {what} are already finished; {to_do} to do")

        def finished(row: Row, seconds_left: float) -> None:
            bar.update(task, advance=1, left=seconds_text(seconds_left))
            if row["status"] != "ok" and "trial_id" not in row:
                name = " ".join(filter(None, (row["strategy"], row["cut"], f"seed {row['seed']}")))
                bar.console.print(f"[red]failed[/red] {row['run_id']} {escape(name)}: {escape(str(row['error']))}")

        yield Progress(
            partial(begin, "runs"), finished, tuning=partial(begin, "trials"), attacking=partial(begin, "attacked runs")
        )
