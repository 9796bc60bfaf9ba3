"""A study's folder against its log: every run that was ever begun there, whether it is there still or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sim.foundation.problems import ScenarioError
from sim.privacy.ledger import COLUMN_OF
from sim.results import reading
from sim.results.attack_log import exceeds, with_audits
from sim.results.columns import AUDITED_COLUMN_OF
from sim.results.store import RUN_FILE, TABLE_FILE, as_table, read_record, read_rows, read_table
from sim.results.study_log import STUDY_LOG, identity, read_log
from sim.results.verification import run_faults
from sim.scenario.spec import RESULTS_VERSION


@dataclass(kw_only=True)
class StudyFindings:
    """What was found in a study's folder."""

    faults: list[str] = field(default_factory=list)  # What disagrees, a line each
    notes: list[str] = field(default_factory=list)  # What a reader should know and is no fault
    # listed, checked: runs that the log lists, and those whose folders were recounted
    listed: int = 0
    checked: int = 0
    lines: int = 0  # Of the log


def study_findings(folder: Path) -> StudyFindings:
    """Check a study's log, that it lists the folder's runs and these are the ones it lists, and each of them."""
    log, found = folder / STUDY_LOG, StudyFindings()
    chain = read_log(folder)
    found.lines = len(chain.entries)
    if chain.fault:
        found.faults.append(f"{log}: {chain.fault}")
        return found
    if chain.torn:
        found.notes.append(f"{log}: ends in {len(chain.torn)} bytes of a line that a killed process began; left aside")
    starts: dict[str, int] = {}
    ends: dict[str, tuple[int, dict[str, Any]]] = {}
    for number, entry in enumerate(chain.entries, 1):
        if "torn-bytes" in entry:
            found.notes.append(f"{log}: line {number} took the place of {entry['torn-bytes']} bytes of a torn line")
        if entry.get("event") == "start":
            starts[str(entry.get("run"))] = number
        elif entry.get("event") == "end":
            ends[str(entry.get("run"))] = number, entry
    there = {run_id for run_id in reading.entries(folder) if (folder / run_id / RUN_FILE).exists()}
    found.listed = len(starts.keys() | ends.keys())
    for run_id in sorted(there - starts.keys() - ends.keys()):
        found.faults.append(f"{folder / run_id}: is not listed in {STUDY_LOG}")
    for run_id in sorted(starts.keys() | ends.keys(), key=lambda each: starts.get(each, 0)):
        begun, (number, end) = starts.get(run_id, 0), ends.get(run_id, (0, {}))
        if number < begun:
            found.notes.append(f"{log}: line {begun}: run {run_id} began and has not ended: it runs, or was killed")
        if run_id not in there:
            if end and end.get("status") != "interrupted":
                found.faults.append(
                    f"{log}: line {number}: run {run_id} ended {end.get('status')}, its folder is missing"
                )
            elif number > begun:
                found.notes.append(f"{log}: line {number}: run {run_id} was interrupted")
        elif number > begun:
            _check_run(folder / run_id, log, number, end, found)
    found.faults += _table_faults(folder)
    return found


def _check_run(folder: Path, log: Path, number: int, end: Mapping[str, Any], found: StudyFindings) -> None:
    try:
        if end["status"] == "interrupted":
            found.notes.append(
                f"{log}: line {number}: run {folder.name} was interrupted; its folder is of an earlier start"
            )
            return
        known = identity(folder)
        for key in ("head", "record-sha256"):
            if known[key] != end[key]:
                what = "its log's head" if key == "head" else RUN_FILE
                found.faults.append(f"{folder}: {what} is not the one that line {number} of {log.name} has")
        raw = reading.read_json(folder, RUN_FILE)
        if raw["results-version"] != RESULTS_VERSION:
            found.notes.append(f"{folder}: is of another results version, and not counted again")
            return
        record = read_record(folder)
    except ScenarioError as error:
        found.faults += error.problems
        return
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        found.faults.append(f"{folder / RUN_FILE}: is not as a run writes it ({type(error).__name__})")
        return
    if record["row"]["status"] == "ok":
        found.faults += run_faults(folder, raw)
        found.checked += 1


def _table_faults(folder: Path) -> list[str]:
    """Hold the table against the rows of the runs' folders."""
    path = folder / TABLE_FILE
    if not path.exists():
        return []
    try:
        table = read_table(folder)
        told = table.astype(object).where(table.notna(), None).to_dict("records")
        built = as_table(with_audits(folder, read_rows(folder, [str(row["run_id"]) for row in told])))
        rows = built.astype(object).where(built.notna(), None).to_dict("records")
    except (ScenarioError, KeyError, TypeError, ValueError) as error:
        return [f"{path}: cannot be read ({type(error).__name__})"]
    by_id = {row["run_id"]: row for row in rows}
    faults = [f"{path}: run {row['run_id']}: has no folder here" for row in told if row["run_id"] not in by_id]
    faults += [
        f"{path}: run {row['run_id']}, {AUDITED_COLUMN_OF[adversary]}: refutes {COLUMN_OF[adversary]}"
        for row in told
        for adversary in AUDITED_COLUMN_OF
        if exceeds(row[AUDITED_COLUMN_OF[adversary]], row[COLUMN_OF[adversary]])
    ]
    return faults + [
        f"{path}: run {row['run_id']}, {column}: is not what {RUN_FILE} says"
        for row in told
        for column, value in by_id.get(row["run_id"], {}).items()
        if row.get(column) != value
    ]
