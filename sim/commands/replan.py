"""``suture replan``."""

from __future__ import annotations

from typing import Annotated

import typer

from sim.commands.common import Overrides, RunFolder


def replan(
    folder: RunFolder,
    overrides: Overrides = None,
    sweep: Annotated[
        str, typer.Option("--sweep", metavar="KEY=A,B,...", help="Time each of these values of one key.")
    ] = "",
) -> None:
    """Time a finished run on other links and servers, without training."""
    from sim.report.table import seconds_text
    from sim.study.replan import Retiming

    run = Retiming(folder)
    print(f"as it was run: {seconds_text(run.recorded_seconds)}")
    key, _, values = sweep.partition("=")
    points = [f"{key.strip()}={value.strip()}" for value in values.split(",")] if sweep else []
    for point in points or [""]:
        settings = [*(overrides or ()), *filter(None, [point])]
        print(f"{', '.join(settings) or 'the same settings'}: {seconds_text(run.seconds(settings))}")
