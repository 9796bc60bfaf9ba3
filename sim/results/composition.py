"""The runs of a study that its ledger does not count."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from sim.results.reading import entries
from sim.results.store import LOGS, older_runs


def uncounted(folder: Path, counted: Collection[str]) -> list[str]:
    """Say which runs may have released something and are none of those that are counted, one sentence a kind."""
    begun = {path.stem for path in (folder / LOGS).glob("*.log")}
    lost = sorted(begun - set(entries(folder)))
    kinds = {"begun and left no ledger": lost, "of another results version": older_runs(folder, counted)}
    return [
        f"{len(runs)} run{'s were' if len(runs) > 1 else ' was'} {what}, and not counted: {', '.join(runs)}."
        for what, runs in kinds.items()
        if runs
    ]
