"""What the attacks of a scenario found: ``attacks.jsonl`` while they end, ``attacks.parquet`` when all have.

A line is added for each attack on a run that has ended, so that a process that dies loses those that it was at. The
table has one row a finding: ``run_id attack adversary measure value low high chance bound``, and the clinic whose
records alone it is about, empty for all. Where an attack is asked for pictures, ``reconstructions/<attack-id>.npz``
holds the arrays ``originals`` and ``rebuilt``, ``[record, *feature]``: training records and what it made of them.
"""

from __future__ import annotations

import io
import math
import tokenize
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sim.results import reading
from sim.results.attack_log import ATTACKS_LOG, AUDIT, AttackLine, read_audits
from sim.results.columns import AUDITED_COLUMN_OF, in_range
from sim.results.store import append_line, moved_in, writing_to

ATTACKS_TABLE, EXHIBITS = "attacks.parquet", "reconstructions"
MOST_EXHIBIT_BYTES: Final = 16 * 2**20
"""Of both arrays of an exhibit together; no more records are kept than fit."""
COLUMNS: Final = ("run_id", "attack", "adversary", "measure", "value", "low", "high", "chance", "bound", "clinic")
NUMBERS: Final = COLUMNS[4:9]
TEXTS: Final = tuple(column for column in COLUMNS if column not in NUMBERS)
Floats = NDArray[np.float32]


def note_attack(study_folder: Path, row: Mapping[str, Any]) -> None:
    """Add how an attack on a run ended, and keep its exhibit if it has one."""
    if row["exhibit"] is not None:
        _write_exhibit(study_folder, row["attack_id"], *row["exhibit"])
    append_line(study_folder, ATTACKS_LOG, {key: row[key] for key in AttackLine.model_fields})


def write_attacks(study_folder: Path, rows: Iterable[Mapping[str, Any]] | None = None) -> None:
    """Write ``attacks.parquet``, whole or not at all.

    Audits that have been made stand in it beside the attacks in ``rows``; without ``rows``, beside those in it now.
    """
    found = [
        {"run_id": row["run_id"], "attack": row["attack"], **finding}
        for row in (*(rows or ()), *read_audits(study_folder).values())
        if row["status"] == "ok"
        for finding in row["findings"]
    ]
    table = pd.DataFrame(found, columns=list(COLUMNS))
    if rows is None and (before := attacks_table(study_folder)) is not None:
        kept = before[before["attack"] != AUDIT]
        table = pd.concat([kept, table], ignore_index=True) if len(kept) else table
    table = table.astype(dict.fromkeys(NUMBERS, "float64"))
    with writing_to(study_folder), moved_in(study_folder / ATTACKS_TABLE) as partial:
        table.to_parquet(partial, index=False)


def attacks_table(study_folder: Path) -> pd.DataFrame | None:
    """Read ``attacks.parquet``; None where the study names no attacks."""
    table, path = reading.read_whole(study_folder, ATTACKS_TABLE, COLUMNS), study_folder / ATTACKS_TABLE
    if table is None:
        return None
    for column in TEXTS:
        if not table[column].map(lambda value: isinstance(value, str)).all():
            reading.refuse(path, f"{column}: holds a value that is no text; run the scenario again")
    if not table["adversary"].isin(AUDITED_COLUMN_OF).all():
        reading.refuse(path, "adversary: names one that is not known; run the scenario again")
    for column in NUMBERS:
        if table[column].dtype != np.float64:
            reading.refuse(path, f"{column}: does not hold numbers; run the scenario again")
    for measure, value in zip(table["measure"], table["value"], strict=True):
        if not (math.isnan(value) or in_range(measure, value)):
            reading.refuse(path, "holds a measure that is out of range; run the scenario again")
    return table


def read_exhibit(study_folder: Path, attack_id: str) -> tuple[Floats, Floats] | None:
    """Read the training records and what an attack made of them, ``[record, *feature]`` each; None where none are kept.

    Nothing is unpickled or unpacked: what an archive takes in memory is what it takes on the disk.
    """
    name = f"{EXHIBITS}/{attack_id}.npz"
    content = reading.file_bytes(study_folder, name, MOST_EXHIBIT_BYTES + 2**16)
    if content is None:
        return None
    path = study_folder / name
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            originals, rebuilt = (_stored(archive, member) for member in ("originals.npy", "rebuilt.npy"))
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, NotImplementedError, RuntimeError):
        reading.refuse(path, "is no archive of plain numbers as an attack leaves it; remove it and run again")
    if originals.shape != rebuilt.shape or not 2 <= originals.ndim <= 4 or not originals.size:
        reading.refuse(path, "does not hold as many rebuilt records as originals; remove it and run again")
    if not (np.isfinite(originals).all() and np.isfinite(rebuilt).all()):
        reading.refuse(path, "holds a value that is not finite; remove it and run again")
    return originals, rebuilt


def _stored(archive: zipfile.ZipFile, member: str) -> Floats:
    """Read an array of single precision, not compressed, whose header declares what the file holds."""
    if archive.getinfo(member).compress_type != zipfile.ZIP_STORED:
        raise ValueError("compressed")
    with archive.open(member) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("another version")
        try:
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        except (tokenize.TokenError, TypeError, SyntaxError, MemoryError):
            raise ValueError("no header") from None
        data = file.read()
    if any(type(length) is not int for length in shape):
        raise ValueError("no shape")
    if dtype != np.float32 or fortran or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError("another array than declared")
    return np.frombuffer(data, np.float32).reshape(shape)


def _write_exhibit(study_folder: Path, attack_id: str, originals: Floats, rebuilt: Floats) -> None:
    most = MOST_EXHIBIT_BYTES // (2 * originals[0].size * np.dtype(np.float32).itemsize)
    true, made = (np.ascontiguousarray(each[:most], np.float32) for each in (originals, np.nan_to_num(rebuilt)))
    folder = study_folder / EXHIBITS
    with writing_to(study_folder):
        reading.refuse_links(folder)
        folder.mkdir(exist_ok=True)
        with moved_in(folder / f"{attack_id}.npz") as partial, partial.open("wb") as file:
            np.savez(file, originals=true, rebuilt=made)
