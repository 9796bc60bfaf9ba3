"""``suture rerun``."""

from __future__ import annotations

import typer

from sim.commands.common import RunFolder, Trust, wide_console


def rerun(folder: RunFolder, trust: Trust = False) -> None:
    """Train a run again from its folder, and compare every metric and weight; writes nothing."""
    from sim.study.rerun import differences

    console = wide_console()
    if lines := differences(folder, trust=trust):
        console.print("\n".join(lines), markup=False, highlight=False)
        raise typer.Exit(1)
    console.print(f"{folder}: identical, every metric and every weight", markup=False, highlight=False)
