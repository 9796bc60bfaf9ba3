"""The results folder: one folder a run, moved in whole when it is complete, and one table of all runs.

``OUT/<study>/<run-id>/`` holds ``run.json``, ``rounds.parquet``, ``clinics.parquet``, ``predictions.parquet`` (the last
model's, a row a held-out record), ``split.parquet`` (which record went where), ``model.safetensors`` (after the last
round) and, where validation records chose one, ``model_best.safetensors``; where patients are grouped,
``groups.parquet``.
``OUT/<study>/runs.parquet`` has one row a run and is rebuilt from the folders. A process that dies leaves at most a
folder whose name starts with a dot, which nothing reads.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import filterfalse
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pandas as pd
from pydantic import ValidationError
from safetensors import SafetensorError

from sim.foundation.chain import chained
from sim.foundation.problems import FolderError, ScenarioError
from sim.results import reading
from sim.results.attack_log import with_audits
from sim.results.audit_log import AUDIT_FILE, seal_entries
from sim.results.columns import COLUMNS, TEXT_COLUMNS, WHOLE_COLUMNS, in_order, is_setting, is_swept, is_tuned
from sim.results.files import Columns, parquet, safetensors
from sim.results.plain import from_plain, to_plain
from sim.results.schema import checked, checked_rows
from sim.scenario.spec import RESULTS_VERSION, TUNED, RunSpec

if TYPE_CHECKING:
    from torch import Tensor

RUN_FILE, TABLE_FILE, STUDY_FILE, LOGS = "run.json", "runs.parquet", "study.json", "logs"
Records = dict[str, dict[str, Any]]
"""What ``run.json`` of runs holds, by their ids."""
_UNFINISHED = re.compile(r"\.(?:[0-9a-f]{16}|[a-z]+\.(?:parquet|json))\.(\d+)")


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Say in one line that a results folder takes no more, whichever library noticed."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        code = getattr(error, "errno", None)
        place, why = getattr(error, "filename", None) or folder, os.strerror(code) if code else error
        raise FolderError(
            f"{place}: {why}; finished runs are kept, and the same command resumes once the folder can be written"
        ) from None


def unfinished(study_folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield what is being written in a study's folder, or was when its process died, and that process's number."""
    for path in study_folder.iterdir():
        if match := _UNFINISHED.fullmatch(path.name):
            yield path, int(match[1])


def write_run(
    study_folder: Path,
    record: Mapping[str, Any],
    tables: Mapping[str, Columns | bytes],
    models: Mapping[str, Mapping[str, Tensor]],
    texts: Mapping[str, str] = MappingProxyType({}),
    log: Sequence[Mapping[str, Any]] | None = None,
) -> Path:
    """Write a run's folder, complete or not at all.

    Raises FolderError if the folder cannot be written; nothing is left that looks like a run.

    Parameters
    ----------
    record : mapping
        Becomes ``run.json``; ``record["row"]`` is the run's row in the table.
    tables : mapping of str to (mapping or bytes)
        Columns, or what :func:`sim.results.files.parquet` made of them.
    log : sequence of mapping, optional
        Entries of the audit log, which is written behind all other files and ends with their hashes. Without it the
        run has none.
    """
    run_id = str(record["row"]["run_id"])
    target = study_folder / run_id
    partial = study_folder / f".{run_id}.{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    with writing_to(study_folder):
        try:
            files = {f"{stem}.parquet": own if isinstance(own, bytes) else parquet(own) for stem, own in tables.items()}
            files |= {f"{stem}.safetensors": safetensors(own) for stem, own in models.items()}
            files |= {name: text.encode() for name, text in texts.items()}
            plain = to_plain(record)
            if log is not None:
                hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
                text, head = chained([*log, *seal_entries(hashes, plain)])
                files[AUDIT_FILE] = text.encode()
                plain["privacy"]["audit-log"] = {"lines": text.count("\n"), "head": head}
            files[RUN_FILE] = json.dumps(plain, indent=1, allow_nan=False).encode()
            partial.mkdir(parents=True)
            for name, content in files.items():
                (partial / name).write_bytes(content)
            if target.exists():
                shutil.rmtree(target)
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


def read_rows(
    study_folder: Path, run_ids: Iterable[str] | None = None, *, strict: bool = False, kept: Records | None = None
) -> list[dict[str, Any]]:
    """Read the rows of finished runs of the current results version from their folders.

    Raises ScenarioError if `strict`, in one line a damaged run.

    Parameters
    ----------
    run_ids : iterable of str, optional
        Which runs, in which order; those that are not there are left out. All of them, by name, where not given.
    strict : bool
        Whether a damaged ``run.json`` is an error; otherwise its run is not there, as one that is to run again.
    kept : dict, optional
        Where to keep what was read, for :func:`read_records`.
    """

    def row_of(record: Mapping[str, Any], run_folder: Path) -> dict[str, Any]:
        row: dict[str, Any] = from_plain(record.get("row"))
        checked_rows([row], run_folder / RUN_FILE)
        if row["run_id"] != run_folder.name:
            reading.refuse(run_folder / RUN_FILE, "row.run_id: does not match the folder's name; run again")
        return row

    return _each(study_folder, row_of, run_ids, strict=strict, kept=kept)


def read_records(study_folder: Path, kept: Records | None = None) -> list[dict[str, Any]]:
    """Read what ``run.json`` of every run of the current results version holds, in the table or not, by name.

    Those that are `kept` are not read again.
    """
    return _each(study_folder, _whole, kept=kept)


def _each(
    study_folder: Path,
    read: Callable[[dict[str, Any], Path], dict[str, Any]],
    run_ids: Iterable[str] | None = None,
    *,
    strict: bool = True,
    kept: Records | None = None,
) -> list[dict[str, Any]]:
    """Read every run of the current results version, by name or in the order given; of damaged ones see `strict`."""
    found: list[dict[str, Any]] = []
    problems: list[str] = []
    known = {} if kept is None else kept
    for run_id in reading.entries(study_folder) if run_ids is None else run_ids:
        try:
            record = known[run_id] if run_id in known else _record(study_folder, run_id)
            if kept is not None:
                kept[run_id] = record
            if record.get("results-version") == RESULTS_VERSION:
                found.append(read(record, study_folder / run_id))
        except ScenarioError as error:
            problems += error.problems
    if strict and problems:
        raise ScenarioError(problems)
    return found


def write_table(
    study_folder: Path, run_ids: Iterable[str] | None = None, *, strict: bool = False, kept: Records | None = None
) -> pd.DataFrame:
    """Build ``runs.parquet`` anew from the run folders, in one atomic step; parameters as for :func:`read_rows`.

    DESIGN's columns, with what audits found in theirs, then one column per swept key.
    """
    table = as_table(with_audits(study_folder, read_rows(study_folder, run_ids, strict=strict, kept=kept)))
    with writing_to(study_folder), moved_in(study_folder / TABLE_FILE) as partial:
        study_folder.mkdir(parents=True, exist_ok=True)
        table.to_parquet(partial, index=False)
    return table


def write_atomically(path: Path, text: str) -> None:
    """Write a text file that is there whole or not at all."""
    with writing_to(path.parent), moved_in(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def moved_in(path: Path) -> Iterator[Path]:
    """Give a name to write under, and put the file in its place when that went well."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)  # what somebody else put there may be a link
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def append_line(study_folder: Path, name: str, value: Mapping[str, Any]) -> None:
    """Add a line to a file of JSON lines; what a killed process left of one is cut off."""
    line = json.dumps(to_plain(value), allow_nan=False) + "\n"
    with writing_to(study_folder), (study_folder / name).open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        file.write(line.encode())


def read_record(folder: Path, run_id: str | None = None) -> dict[str, Any]:
    """Read a run's ``run.json``.

    Infinities as they are, not-a-number as None; the spec with every key it has.

    Raises ScenarioError if the folder is no run's, another results version made it, or it does not hold what it must.

    Parameters
    ----------
    folder : Path
        The run's, or with `run_id` that of its study.
    """
    return _whole(_record(folder, run_id), folder if run_id is None else folder / run_id)


def _whole(read: Mapping[str, Any], run_folder: Path) -> dict[str, Any]:
    """Return what was read from a run's ``run.json`` as :func:`read_record` does."""
    record: dict[str, Any] = from_plain(read)
    if "row" not in record:
        reading.refuse(run_folder, f"has no {RUN_FILE} of a run; give a run's folder, OUT/<study>/<run-id>")
    version, path = record.get("results-version"), run_folder / RUN_FILE
    if version != RESULTS_VERSION:
        stated = version if isinstance(version, int) else "unknown"
        mend = f"run the scenario again, or take the version of Suture that {RUN_FILE} names"
        reading.refuse(run_folder, f"is of results version {stated}, this is {RESULTS_VERSION}; {mend}")
    checked("run", record, path)
    spec, row = _spec(read["spec"], path), record["row"]
    swept = {name: value for name, value in row.items() if is_swept(name)}
    tuned = {name.removeprefix(TUNED): value for name, value in row.items() if is_tuned(name)}
    if swept != spec.swept or tuned != spec.tuned or row["seed"] != spec.seed or row["study"] != spec.study:
        reading.refuse(path, "row: does not match the spec beside it; run again")
    return record | {"spec": from_plain(spec.model_dump(mode="json"))}


def read_spec(record: Mapping[str, Any], path: Path) -> RunSpec:
    """Return the spec of a run from its ``run.json``; nothing that it names is opened or imported."""
    return _spec(to_plain(record["spec"]), path)


def _spec(plain: Any, path: Path) -> RunSpec:
    try:
        return RunSpec.model_validate_json(json.dumps(plain), by_alias=True, by_name=False)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))[:100]
        reading.refuse(path, f"spec.{place}: cannot be read; restore the file, or run again")


def read_table(study_folder: Path) -> pd.DataFrame:
    """Read a study's ``runs.parquet``."""
    path, rebuild = study_folder / TABLE_FILE, "suture status --rebuild"
    frame = reading.read_parquet(study_folder, TABLE_FILE)
    if frame is None:
        reading.refuse(study_folder, f"has no {TABLE_FILE}; give a study's folder, or rebuild it with {rebuild}")
    if lacking := [column for column in COLUMNS if column not in frame]:
        reading.refuse(path, f"{lacking[0]}: the column is missing; rebuild the table with {rebuild}")
    rows = [
        {str(name): value for name, value in row.items() if value is not None and value == value}
        for row in frame.to_dict("records")
    ]
    checked_rows(rows, path, finished=True)
    return as_table(rows)


def older_runs(study_folder: Path, current: Collection[str] = ()) -> list[str]:
    """Return the runs in a study's folder that another results version made, which never enter its table.

    Those known to be `current` are not read again.
    """
    found = []
    for run_id in reading.entries(study_folder):
        if run_id in current:
            continue
        try:
            record = _record(study_folder, run_id)
        except ScenarioError:
            continue
        if record and record.get("results-version") != RESULTS_VERSION:
            found.append(run_id)
    return found


def uncounted(folder: Path, counted: Collection[str]) -> list[str]:
    """Say which runs may have released something and are none of those that are counted, one sentence a kind."""
    begun = {path.stem for path in (folder / LOGS).glob("*.log")}
    lost = sorted(begun - set(reading.entries(folder)))
    kinds = {"begun and left no ledger": lost, "of another results version": older_runs(folder, counted)}
    return [
        f"{len(runs)} run{'s were' if len(runs) > 1 else ' was'} {what}, and not counted: {', '.join(runs)}."
        for what, runs in kinds.items()
        if runs
    ]


def _record(folder: Path, run_id: str | None = None) -> dict[str, Any]:
    """Return what ``run.json`` holds: nothing where it is no file."""
    name = RUN_FILE if run_id is None else f"{run_id}/{RUN_FILE}"
    record = reading.read_json(folder, name)
    if record is None:
        return {}
    if not isinstance(record, dict):
        reading.refuse(folder / name, "is not the record of a run; restore the file, or run again")
    return record


def as_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows as a table with the contract's columns and types."""
    rows = list(rows)
    table = pd.DataFrame(rows, columns=in_order(key for row in rows for key in row))
    for column in filterfalse(is_setting, table.columns):
        if column in TEXT_COLUMNS:
            table[column] = table[column].astype(object).fillna("").astype(str)
        else:
            table[column] = pd.to_numeric(table[column]).astype("int64" if column in WHOLE_COLUMNS else "float64")
    return table
