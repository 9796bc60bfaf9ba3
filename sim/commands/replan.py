"""``suture replan`` and ``suture rerun``."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from sim.commands.common import Overrides, RunFolder, Trust, wide_console
from sim.foundation.problems import ScenarioError
from sim.foundation.text import seconds_text


def replan(
    folder: RunFolder,
    overrides: Overrides = None,
    sweep: Annotated[
        str, typer.Option("--sweep", metavar="KEY=A,B,...", help="Repeat for each of these values of one key.")
    ] = "",
    trust: Trust = False,
) -> None:
    """Recompute the time of a finished run for other links and servers, without training."""
    from sim.study.replan import Retiming

    points = _points(sweep) if sweep else [""]
    run = Retiming(folder, trust=trust)
    print(f"as run: {seconds_text(run.recorded_seconds)}")
    refused: list[str] = []
    for point in points:
        settings = [*(overrides or ()), *filter(None, [point])]
        try:
            print(f"{', '.join(settings) or 'the same settings'}: {seconds_text(run.seconds(settings))}")
        except ScenarioError as error:
            refused += error.problems
    if refused:
        raise ScenarioError(refused)


def _points(sweep: str) -> list[str]:
    """Take ``KEY=A,B,...`` apart; commas in brackets part nothing."""
    key, _, values = sweep.partition("=")
    points = [value.strip() for value in re.split(r",(?![^\[{]*[\]}])", values)]
    if not key.strip() or not all(points):
        raise ScenarioError(
            f'--sweep: "{sweep}" is not a key with values; write it like "clinics.0.uplink=1 Mbit/s,10 Mbit/s"'
        )
    return [f"{key.strip()}={point}" for point in points]


def rerun(folder: RunFolder, trust: Trust = False) -> None:
    """Train a run again from its folder, and compare every metric and weight; writes nothing."""
    from sim.study.rerun import differences

    console = wide_console()
    if lines := differences(folder, trust=trust):
        console.print("\n".join(lines), markup=False, highlight=False)
        raise typer.Exit(1)
    console.print(f"{folder}: identical, every metric and every weight", markup=False, highlight=False)
