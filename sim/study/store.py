"""The results folder: one folder a run, moved in whole when it is complete, and one table of all runs.

``OUT/<study>/<run-id>/`` holds ``run.json``, ``rounds.parquet``, ``clinics.parquet``, ``model.safetensors`` (after the
last round) and, where validation records chose one, ``model_best.safetensors``.
``OUT/<study>/runs.parquet`` has one row a run and is rebuilt from the folders. A process that dies leaves at most a
folder whose name starts with a dot, which nothing reads.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from sim.chain import chained, file_hash
from sim.privacy.audit_log import AUDIT_FILE, seal_entries
from sim.problems import FolderError, ScenarioError
from sim.spec import RESULTS_VERSION

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

RUN_FILE, TABLE_FILE = "run.json", "runs.parquet"
COLUMNS = (
    "run_id", "study", "strategy", "cut", "seed", "status", "rounds",
    "auc", "balanced_accuracy", "accuracy", "loss", "calibration_error",
    "worst_clinic_auc", "worst_clinic", "majority_accuracy",
    "best_round", "best_auc", "best_balanced_accuracy", "best_accuracy", "best_loss", "best_calibration_error",
    "mean_participants", "lost_clinic_rounds",
    "sim_seconds", "bytes_up", "bytes_down", "clinic_flops", "server_flops", "peak_clinic_bytes",
    "clinic_joules", "idle_share", "server_busy_share",
    "unit", "mechanism", "delta", "epsilon_model_user", "epsilon_peer", "epsilon_server", "epsilon_label",
    "membership_auc", "smashed_reconstruction_r2", "wall_seconds", "error",
)  # fmt: skip
_TEXT = frozenset({"run_id", "study", "strategy", "cut", "status", "worst_clinic", "unit", "mechanism", "error"})
_WHOLE = frozenset({"seed", "rounds"})
_UNFINISHED = re.compile(r"\.(?:[0-9a-f]{16}|[a-z]+\.(?:parquet|json))\.(\d+)")


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Say in one line that a results folder takes no more, whichever library noticed.

    Raises
    ------
    FolderError
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        code = getattr(error, "errno", None)
        place, why = getattr(error, "filename", None) or folder, os.strerror(code) if code else error
        raise FolderError(
            f"{place}: {why}; what had finished is kept, and the same command goes on from there "
            "once the folder can be written"
        ) from None


def unfinished(study_folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield what is being written in a study's folder, or was when its process died, and that process's number."""
    for path in study_folder.iterdir():
        if match := _UNFINISHED.fullmatch(path.name):
            yield path, int(match[1])


def write_run(
    study_folder: Path,
    record: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    models: Mapping[str, Mapping[str, Tensor]],
    texts: Mapping[str, str] = MappingProxyType({}),
    log: Sequence[Mapping[str, Any]] | None = None,
) -> Path:
    """Write a run's folder, complete or not at all.

    Parameters
    ----------
    study_folder : Path
    record : mapping
        Becomes ``run.json``; ``record["row"]`` is the run's row in the table.
    tables : mapping of str to DataFrame
        By file stem.
    models : mapping of str to mapping of str to Tensor
        By file stem.
    texts : mapping of str to str
        By file name.
    log : sequence of mapping, optional
        Entries of the audit log, which is written behind all other files and ends with their hashes. Without it the
        run has none.

    Returns
    -------
    Path
        The run's folder.

    Raises
    ------
    FolderError
        If the folder cannot be written; nothing is left that looks like a run.
    """
    run_id = str(record["row"]["run_id"])
    target = study_folder / run_id
    partial = study_folder / f".{run_id}.{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    with writing_to(study_folder):
        try:
            partial.mkdir(parents=True)
            for stem, table in tables.items():
                table.to_parquet(partial / f"{stem}.parquet", index=False)
            for stem, parameters in models.items():
                from safetensors.torch import save_file

                save_file(
                    {name: value.contiguous() for name, value in parameters.items()}, partial / f"{stem}.safetensors"
                )
            for name, text in texts.items():
                (partial / name).write_text(text, encoding="utf-8", newline="\n")
            plain = to_plain(record)
            if log is not None:
                hashes = {path.name: file_hash(path) for path in partial.iterdir()}
                text, head = chained([*log, *seal_entries(hashes, plain)])
                (partial / AUDIT_FILE).write_text(text, encoding="utf-8", newline="\n")
                plain["privacy"]["audit-log"] = {"lines": text.count("\n"), "head": head}
            (partial / RUN_FILE).write_text(json.dumps(plain, indent=1, allow_nan=False), encoding="utf-8")
            if target.exists():
                shutil.rmtree(target)
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


def read_rows(study_folder: Path, run_ids: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """Read the rows of finished runs of the current results version from their folders.

    Parameters
    ----------
    study_folder : Path
    run_ids : iterable of str, optional
        Which runs, in which order; those that are not there are left out. All of them, by name, where not given.

    Returns
    -------
    list of dict
    """
    if run_ids is None:
        run_ids = sorted(path.parent.name for path in study_folder.glob(f"[!.]*/{RUN_FILE}"))
    files = (study_folder / run_id / RUN_FILE for run_id in run_ids)
    records = map(_record, files)
    return [from_plain(record["row"]) for record in records if record.get("results-version") == RESULTS_VERSION]


def write_table(study_folder: Path, run_ids: Iterable[str] | None = None) -> pd.DataFrame:
    """Build ``runs.parquet`` anew from the run folders, in one atomic step.

    Returns
    -------
    DataFrame
        DESIGN's columns, then one column per swept key.
    """
    table = as_table(read_rows(study_folder, run_ids))
    with writing_to(study_folder), _moved_in(study_folder / TABLE_FILE) as partial:
        study_folder.mkdir(parents=True, exist_ok=True)
        table.to_parquet(partial, index=False)
    return table


def write_atomically(path: Path, text: str) -> None:
    """Write a text file that is there whole or not at all."""
    with writing_to(path.parent), _moved_in(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def _moved_in(path: Path) -> Iterator[Path]:
    """Give a name to write under, and put the file in its place when that went well."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_record(run_folder: Path) -> dict[str, Any]:
    """Read a run's ``run.json``.

    Raises
    ------
    ScenarioError
        If the folder is no run's, or another results version made it.
    """
    record = _record(run_folder / RUN_FILE)
    if "row" not in record:
        raise ScenarioError(
            [f"{run_folder}: holds no {RUN_FILE} of a run; name the folder of a run, OUT/<study>/<run-id>"]
        )
    if record.get("results-version") != RESULTS_VERSION:
        raise ScenarioError(
            [
                f"{run_folder}: is of results version {record.get('results-version')}, this is {RESULTS_VERSION}; "
                f"run the scenario again, or take the version of Suture that {RUN_FILE} names"
            ]
        )
    return record


def read_table(study_folder: Path) -> pd.DataFrame:
    """Read a study's ``runs.parquet``.

    Raises
    ------
    ScenarioError
        If the folder holds none.
    """
    import pandas as pd

    try:
        return pd.read_parquet(study_folder / TABLE_FILE)
    except (OSError, ValueError):
        raise ScenarioError(
            [f"{study_folder}: holds no {TABLE_FILE} to read; name a study's folder, or suture status --rebuild"]
        ) from None


def older_runs(study_folder: Path) -> list[str]:
    """Return the runs in a study's folder that another results version made, which never enter its table."""
    records = ((file, _record(file)) for file in sorted(study_folder.glob(f"[!.]*/{RUN_FILE}")))
    return [file.parent.name for file, record in records if record and record.get("results-version") != RESULTS_VERSION]


def _record(file: Path) -> dict[str, Any]:
    """Return what ``run.json`` holds: nothing where it is no file, or not whole."""
    try:
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record


def as_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows as a table with the contract's columns and types."""
    import pandas as pd

    rows = list(rows)
    swept = sorted({key for row in rows for key in row} - set(COLUMNS))
    table = pd.DataFrame(rows, columns=[*COLUMNS, *swept])
    for column in COLUMNS:
        if column in _TEXT:
            table[column] = table[column].astype(object).fillna("").astype(str)
        else:
            table[column] = pd.to_numeric(table[column]).astype("int64" if column in _WHOLE else "float64")
    return table


def to_plain(value: Any) -> Any:
    """Return a value as strict JSON can hold it: infinities as text, not-a-number as null."""
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def from_plain(value: Any) -> Any:
    """Return a value as it was before ``to_plain``; null stays as it is."""
    if isinstance(value, Mapping):
        return {key: from_plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [from_plain(item) for item in value]
    return float(value) if isinstance(value, str) and value in ("inf", "-inf") else value
