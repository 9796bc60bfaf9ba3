"""The study's log: every command and every run that was ever begun in a study's folder, and how it ended.

``OUT/<study>/study-log.jsonl`` is only ever added to. Its lines are chained by their hashes
(:mod:`sim.foundation.chain`), and the end of a run holds the head of that run's own log, so that a run that failed or
was deleted still stands in it, and the head of this one log stands for all of them. Several processes add to it in
turn, under a lock. A process that is killed while it writes leaves at most part of a line: the next one takes it out,
and its own line says of how many bytes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shlex
import socket
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal

from sim.foundation.chain import START, Chain, hash_of, line_of, read_chain
from sim.foundation.problems import FolderError
from sim.results import reading
from sim.results.audit_log import record_hash
from sim.results.schema import checked
from sim.results.store import RUN_FILE

STUDY_LOG = "study-log.jsonl"


def read_log(folder: Path, name: str = STUDY_LOG) -> Chain:
    """Read a log up to its first fault; an empty one where there is none."""
    return read_chain(reading.file_bytes(folder, name) or b"")


def note_command(folder: Path, arguments: Sequence[str], scenario: Path) -> None:
    """Enter a command that made part of the study, and the hash of its scenario file."""
    command = shlex.join(["suture", *arguments])
    _append(
        folder, "command", {"command": command, "scenario-sha256": hashlib.sha256(scenario.read_bytes()).hexdigest()}
    )


def read_commands(folder: Path) -> list[dict[str, Any]]:
    """Return the commands that were entered; none where the study was run from Python.

    Raises ScenarioError if the log is damaged; a last line that was not finished is no damage.
    """
    chain = read_log(folder)
    if chain.fault:
        reading.refuse(folder / STUDY_LOG, f"{chain.fault}; put back the file as it was, or move it away")
    said = [
        {key: entry.get(key) for key in ("time", "command", "scenario-sha256")}
        for entry in chain.entries
        if entry.get("event") == "command"
    ]
    found: list[dict[str, Any]] = checked("commands", said, folder / STUDY_LOG)
    return found


def note_start(folder: Path, run_id: str) -> None:
    """Enter that a run begins in this process."""
    _append(folder, "start", {"run": run_id, **this_process()})


def note_end(run_folder: Path, status: Literal["ok", "failed", "interrupted"], error: str = "") -> None:
    """Enter how a run ended, with what identifies its folder if it has one."""
    found = identity(run_folder) if status != "interrupted" else {}
    told = {"run": run_folder.name, "status": status, **found}
    _append(run_folder.parent, "end", told | ({"error": error} if error else {}))


def identity(run_folder: Path) -> dict[str, Any]:
    """Return the head of a run's own log, None where it has none, and the hash of its ``run.json``."""
    record = reading.read_json(run_folder, RUN_FILE)
    return {"head": record["privacy"].get("audit-log", {}).get("head"), "record-sha256": record_hash(record)}


def note_interrupted(folder: Path, over: Collection[str] = ()) -> None:
    """Enter the end of runs that were begun by processes of this machine that are no more.

    Parameters
    ----------
    over : collection of str
        Runs that no worker is at any more, though this process began them.
    """
    open_runs: dict[str, dict[str, Any]] = {}
    ended: dict[str, dict[str, Any]] = {}
    for entry in ({"pid": 0, "host": "", **each} for each in read_log(folder).entries if "event" in each):
        run_id = str(entry.get("run"))
        if entry["event"] == "start" and run_id == Path(run_id).name:
            open_runs[run_id] = entry
        elif entry["event"] == "end":
            open_runs.pop(run_id, None)
            ended[run_id] = entry
    here = socket.gethostname()
    for run_id, entry in open_runs.items():
        gone = not alive(int(entry["pid"])) or (run_id in over and entry["pid"] == os.getpid())
        if entry["host"] != here or not gone:
            continue
        try:
            status = reading.read_json(folder, f"{run_id}/{RUN_FILE}")["row"]["status"]
            known = {"head": None, "record-sha256": None} | ended.get(run_id, {})
            written = any(known[key] != value for key, value in identity(folder / run_id).items())
        except (OSError, ValueError, KeyError, TypeError):
            written = False
        # It may have been killed between its folder's last move and its line here.
        note_end(folder / run_id, status if written else "interrupted")


def this_process() -> dict[str, Any]:
    """Name this process among all machines'."""
    return {"pid": os.getpid(), "host": socket.gethostname()}


def alive(pid: int) -> bool:
    """Say whether a process of this machine is at work."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _append(folder: Path, event: str, fields: dict[str, Any]) -> None:
    entry = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "event": event, **fields}
    with (folder / STUDY_LOG).open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        last, whole, size = _tail(file)
        if whole < size:
            os.ftruncate(file.fileno(), whole)
            entry["torn-bytes"] = size - whole
        try:
            number, previous = (json.loads(last)["line"] + 1, hash_of(last)) if last else (1, START)
        except (ValueError, KeyError, TypeError):
            raise FolderError(
                f"{folder / STUDY_LOG}: its last line is damaged; put back the file as it was, or move it away"
            ) from None
        file.write(line_of(number, previous, entry).encode() + b"\n")


def _tail(file: BinaryIO) -> tuple[str, int, int]:
    """Return the last whole line, and up to which byte whole lines go, of how many."""
    size = file.seek(0, os.SEEK_END)
    step = 4096
    while True:
        start = max(0, size - step)
        file.seek(start)
        end = (block := file.read(size - start)).rfind(b"\n") + 1
        before = block.rfind(b"\n", 0, max(0, end - 1))
        if start == 0 or (end and before >= 0):
            return block[before + 1 : max(0, end - 1)].decode(), start + end, size
        step *= 4
