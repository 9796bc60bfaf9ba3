"""What a study says of itself on disk while it runs: the list of its runs, and one log a run.

``OUT/<study>/study.json`` lists the runs of the study and the process that runs them;
``OUT/<study>/logs/<run-id>.log`` holds JSON lines: the start with its process, each round with its metrics, the
end with its status. Another process reads both at any moment; a line that is being written is not read.
What outlives a run's folder is in the study's log (:mod:`sim.results.study_log`).
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sim.foundation.problems import ScenarioError
from sim.results import reading
from sim.results.plain import to_plain
from sim.results.schema import checked
from sim.results.store import LOGS, STUDY_FILE, read_rows, unfinished, write_atomically, writing_to
from sim.results.study_log import alive, note_end, note_start, this_process
from sim.results.trials import read_trials
from sim.scenario.spec import RESULTS_VERSION
from sim.study.forecast import estimated_seconds

if TYPE_CHECKING:
    from sim.plan.plan import Plan

State = Literal["ok", "failed", "running", "waiting", "interrupted"]


def write_study(folder: Path, plans: Sequence[Plan], table_ids: Sequence[str], trials: Sequence[Plan] = ()) -> None:
    """Name the runs that were asked for, in the order in which they are begun, and those that belong in the table.

    While trials are executed the runs have not chosen their settings yet. The margin of equivalence stands beside them,
    since it is of the study and changes no run.
    """
    runs = [
        {
            "run_id": plan.spec.run_id,
            "strategy": plan.spec.strategy.label or plan.spec.strategy.name,
            "cut": plan.spec.strategy.cut or "",
            "seed": plan.spec.seed,
            "rounds": plan.rounds,
            **plan.spec.swept,
            "estimated_seconds": estimated_seconds(plan),
        }
        for plan in plans
    ]
    study = {
        "results-version": RESULTS_VERSION,
        **this_process(),
        "margin": plans[0].spec.evaluation.margin,
        "table": list(table_ids),
        "trials": [{"run_id": plan.spec.run_id, "estimated_seconds": estimated_seconds(plan)} for plan in trials],
        "runs": runs,
    }
    write_atomically(folder / STUDY_FILE, json.dumps(to_plain(study), indent=1, allow_nan=False))


def read_study(folder: Path) -> dict[str, Any]:
    """Read what :func:`write_study` wrote.

    Raises
    ------
    ScenarioError
        If the folder is no study's, or the file does not hold what it must.
    """
    study = reading.read_json(folder, STUDY_FILE)
    if study is None:
        raise ScenarioError([f"{folder}: has no {STUDY_FILE}; give a study's folder, OUT/<study>"])
    found: dict[str, Any] = checked("study", study, folder / STUDY_FILE)
    return found


def trials_left(folder: Path) -> tuple[int, int, float]:
    """Return how many trials there are, how many of them have ended, and roughly the seconds that the others take.

    There are none once the runs have begun.
    """
    trials, ended = read_study(folder).get("trials", []), read_trials(folder)
    left = [float(trial["estimated_seconds"]) for trial in trials if trial["run_id"] not in ended]
    return len(trials), len(trials) - len(left), sum(left)


def remove_leftovers(folder: Path) -> None:
    """Remove what processes of this machine that are no more have left unfinished."""
    for path, process in unfinished(folder):
        if not alive(process):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


class RunLog:
    """The log of one run, whose start and end stand in the study's log too."""

    def __init__(self, study_folder: Path, run_id: str) -> None:
        self._written = partial(writing_to, study_folder)
        self._path = study_folder / LOGS / f"{run_id}.log"
        with self._written():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text("", encoding="utf-8")
            note_start(study_folder, run_id)
        self.line("start", **this_process())

    def line(self, event: str, **fields: Any) -> None:
        """Add a line, whole or not at all in the eyes of a reader."""
        told = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **fields}
        with self._written(), self._path.open("ab", buffering=0) as file:
            file.write(json.dumps(to_plain(told), allow_nan=False).encode() + b"\n")

    def end(self, run_folder: Path, status: Literal["ok", "failed"], error: str = "") -> None:
        """Say how the run ended, once its folder is there."""
        with self._written():
            note_end(run_folder, status, error)
        self.line("end", status=status, **({"error": error} if error else {}))


@dataclass(frozen=True)
class RunStatus:
    """Where a run stands.

    Attributes
    ----------
    run : dict
        Its entry in ``study.json``.
    state : {"ok", "failed", "running", "waiting", "interrupted"}
        Interrupted: begun by a process that is no more.
    round : int
        The last round that ended.
    error : str
        Why it failed.
    """

    run: dict[str, Any]
    state: State
    round: int = 0
    error: str = ""


def statuses(folder: Path) -> list[RunStatus]:
    """Say where every run of a study stands, from its files alone.

    Raises
    ------
    ScenarioError
        If the folder is no study's.
    """
    return [_status(folder, run) for run in read_study(folder)["runs"]]


def _status(folder: Path, run: dict[str, Any]) -> RunStatus:
    lines = _log_lines(folder, run["run_id"])
    for row in read_rows(folder, [run["run_id"]], strict=True):
        # A failed run is tried again: what its log says now counts, once it says more than that it failed.
        if row["status"] == "ok":
            return RunStatus(run, "ok", int(run["rounds"]))
        if not lines or lines[-1]["event"] == "end":
            return RunStatus(run, "failed", error=str(row.get("error")))
    if not lines or lines[-1]["event"] == "end":
        return RunStatus(run, "waiting")
    here = lines[0]["host"] == socket.gethostname()
    state: State = "running" if not here or alive(int(lines[0]["pid"])) else "interrupted"
    return RunStatus(run, state, max((int(line["round"]) for line in lines if line["event"] == "round"), default=0))


def _log_lines(folder: Path, run_id: str) -> list[dict[str, Any]]:
    name = f"{LOGS}/{run_id}.log"
    found: list[dict[str, Any]] = checked("log", reading.read_lines(folder, name), folder / name)
    return found
