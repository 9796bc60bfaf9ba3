"""The tables in the folders of runs, read as one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from sim.foundation.problems import ScenarioError
from sim.results import reading
from sim.results.table_schema import checked_records, checked_table


def read_run_tables(study_folder: Path, run_ids: Iterable[str], stem: str) -> pd.DataFrame:
    """Read a table of successful runs' folders as one, with a column ``run_id``.

    Raises ScenarioError if a run's is missing, or does not hold what it must.

    Parameters
    ----------
    stem : {"rounds", "clinics", "predictions", "split", "groups"}
        Runs without groups have no table of them, and are left out.
    """
    alike: dict[pa.Schema, list[tuple[str, pa.Table]]] = {}
    parts = []
    for run_id in run_ids:
        if stem == "groups" and not (study_folder / run_id / "groups.parquet").exists():
            continue
        table = _read_table(study_folder, f"{run_id}/{stem}.parquet", stem)
        parts.append((run_id, table))
        alike.setdefault(table.schema, []).append((run_id, table))
    for own in alike.values():
        try:
            _check(_joined(own), stem, study_folder, of_several=True)
        except (ScenarioError, KeyError):  # which of them? (KeyError: a column run_id of its own)
            for run_id, table in own:
                _check(table, stem, study_folder / run_id / f"{stem}.parquet")
    return reading.as_frame(_joined(parts)) if parts else pd.DataFrame()


def _joined(tables: Sequence[tuple[str, pa.Table]]) -> pa.Table:
    """Join tables of runs, with a last column `run_id`."""
    run_ids, parts = zip(*tables, strict=True)
    runs = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    joined = pa.concat_tables(parts, promote_options="permissive").unify_dictionaries()
    return joined.append_column("run_id", pa.array(run_ids).dictionary_encode().take(pa.array(runs)))


def read_own_table(run_folder: Path, stem: str) -> pd.DataFrame:
    """Read a table of one run's folder; stems and errors are those of :func:`read_run_tables`."""
    return reading.as_frame(_run_table(run_folder, f"{stem}.parquet", stem))


def _run_table(folder: Path, name: str, stem: str) -> pa.Table:
    table = _read_table(folder, name, stem)
    _check(table, stem, folder / name)
    return table


def _read_table(folder: Path, name: str, stem: str) -> pa.Table:
    table = reading.read_arrow(folder, name, _TEXTS[stem])
    if table is None:
        reading.refuse(folder / name, "is missing; run again")
    if not table.num_rows:
        reading.refuse(folder / name, "has no rows; run again")
    return table


def _check(table: pa.Table, stem: str, label: Path, *, of_several: bool = False) -> None:
    """Refuse a run's table that does not hold what it must, or that of several runs with a column `run_id`."""
    of = ("run_id",) if of_several else ()
    if stem in _RUN_TABLES:
        needed, key = _RUN_TABLES[stem]
        checked_table(table, needed, (*of, *key), (*of, *_TEXTS[stem]), label)
    else:
        checked_records(table, label, is_split=stem == "split", key=(*of, "record"))


_TEXTS = {
    "rounds": ("worst_clinic",),
    "clinics": ("name",),
    "groups": ("group", "level"),
    "predictions": ("clinic",),
    "split": ("clinic", "part"),
}
_RUN_TABLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "rounds": (("round", "sim_seconds", "bytes"), ("round",)),
    "clinics": (("name", "records", "test_records"), ("name",)),
    "groups": (("group", "level", "records", "training_records"), ("group", "level")),
}
