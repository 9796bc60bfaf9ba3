"""The ledger of a study, from its run folders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sim.foundation.problems import ScenarioError
from sim.privacy.study_ledger import StudyRun
from sim.results.reading import entries
from sim.results.store import LOGS, RUN_FILE, older_runs

__all__ = ["study_runs", "uncounted"]


def study_runs(folder: Path, records: Iterable[Mapping[str, Any]]) -> list[StudyRun]:
    """Return the releases of every run in a study's folder, failed ones and those that left the table too.

    Parameters
    ----------
    records : iterable of mapping
        As of :func:`sim.results.store.read_records`.
    """
    runs = []
    for record in records:
        try:
            runs.append(StudyRun.of(record))
        except (KeyError, TypeError, ValueError) as error:
            name = record.get("row", {}).get("run_id", "a run")
            raise ScenarioError([f"{folder / str(name) / RUN_FILE}: holds no ledger: {error}"]) from None
    return runs


def uncounted(folder: Path, runs: Iterable[StudyRun]) -> list[str]:
    """Say which runs may have released something and are none of those with a ledger, one sentence a kind."""
    begun = {path.stem for path in (folder / LOGS).glob("*.log")}
    lost = sorted(begun - set(entries(folder)))
    older = older_runs(folder, {str(run.row["run_id"]) for run in runs})
    told = []
    if lost:
        told.append(f"{_runs(len(lost))} begun and left no ledger, and not counted: {', '.join(lost)}.")
    if older:
        told.append(f"{_runs(len(older))} of another results version, and not counted: {', '.join(older)}.")
    return told


def _runs(count: int) -> str:
    return f"{count} run{'s were' if count > 1 else ' was'}"
