"""What a study shows while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from sim.foundation.text import seconds_text
from sim.study.engines import Row
from sim.study.runner import Progress

SILENT: Final = Progress(lambda to_do, done, seconds: None, lambda row, seconds: None)
"""Shows nothing."""


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
            if failure := _failure(row):
                bar.console.print(f"[red]failed[/red] {escape(failure)}")

        yield Progress(
            partial(begin, "runs"), finished, tuning=partial(begin, "trials"), attacking=partial(begin, "attacked runs")
        )


@contextmanager
def notebook_progress() -> Iterator[Progress]:
    """Show a line in a notebook that changes in place; a failed run gets a line of its own.

    IPython alone is needed, and no widgets.
    """
    from IPython.display import display

    count: dict[str, Any] = {"what": "runs", "done": 0, "to do": 0}
    line = display({"text/plain": "planned"}, raw=True, display_id=True)

    def tell(seconds_left: float) -> None:
        text = f"{count['done']} of {count['to do']} {count['what']}, about {seconds_text(seconds_left)} left"
        line.update({"text/plain": text}, raw=True)

    def begin(what: str, to_do: int, done: int, seconds_left: float) -> None:
        count.update({"what": what, "done": 0, "to do": to_do})
        tell(seconds_left)

    def finished(row: Row, seconds_left: float) -> None:
        count["done"] += 1
        tell(seconds_left)
        if failure := _failure(row):
            display({"text/plain": f"failed {failure}"}, raw=True)

    yield Progress(
        partial(begin, "runs"), finished, tuning=partial(begin, "trials"), attacking=partial(begin, "attacked runs")
    )


def _failure(row: Row) -> str:
    """Say which run failed, and why; nothing of a run that did not, nor of a trial."""
    if row["status"] == "ok" or "trial_id" in row:
        return ""
    name = " ".join(filter(None, (row["strategy"], row["cut"], f"seed {row['seed']}")))
    return f"{row['run_id']} {name}: {row['error']}"
