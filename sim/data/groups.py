"""Groups of patients by a column of the source, for scores by group; features or not, nothing is trained on them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from sim.data import heart, synthetic
from sim.data.federation import Ints
from sim.foundation.lazy import Lazy
from sim.foundation.problems import ScenarioError, suggest, unwritable
from sim.scenario.data import Csv, DataSpec, HeartDisease, Loader, Npz, TableFile
from sim.scenario.study import GroupColumn

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = Lazy("pandas")

MISSING: Final = "missing"
"""The level of records without a value."""
_NO_VALUE: Final = ("", "NA", "N/A", "NaN", "nan", "NULL", "null", "?", "<NA>", "None")
_MOST_LEVELS: Final = 20


@dataclass(frozen=True, eq=False)
class Groups:
    """One way to group records."""

    column: str
    levels: tuple[str, ...]
    codes: Ints  # [row of the source] Index into `levels`


def read_groups(data: DataSpec, columns: Sequence[GroupColumn], seed: int) -> list[Groups]:
    """Read the columns by which records are grouped.

    Raises ``ScenarioError`` with one line for each that cannot be used; no line quotes a value.
    """
    if not columns:
        return []
    found, problems = [], []
    table = _table(data, tuple(each.column for each in columns), seed)
    for number, each in enumerate(columns):
        place = f"scenario: evaluation.groups.{number}"
        if each.column not in table:
            problems.append(f'{place}: there is no column "{each.column}"; {suggest(each.column, list(table))}')
            continue
        try:
            found.append(_grouped(each, table[each.column]))
        except ValueError as error:
            problems.append(f'{place}: column "{each.column}" {error}')
    if problems:
        raise ScenarioError(problems)
    return found


def _grouped(asked: GroupColumn, values: pd.Series[Any]) -> Groups:
    words = values.astype(str).str.strip()
    words = words.mask(values.isna() | words.isin(_NO_VALUE))
    numbers = pd.to_numeric(words, errors="coerce")
    if asked.bands is not None:
        if (numbers.isna() & words.notna()).any():
            raise ValueError("holds something other than numbers, which have no bands; leave them out")
        edges = [f"{edge:g}" for edge in asked.bands]
        between = [f"{low} to below {high}" for low, high in pairwise(edges)]
        levels = [f"below {edges[0]}", *between, f"{edges[-1]} and above"]
        codes = np.digitize(numbers.to_numpy(np.float64, na_value=np.nan), asked.bands)
        codes = np.where(numbers.isna(), len(levels), codes)
    else:
        if len(set(words.dropna())) > _MOST_LEVELS:
            raise ValueError(f"has more than {_MOST_LEVELS} different values; give bands, such as bands = [50, 65]")
        whole = numbers.notna().eq(words.notna()).all()
        words = numbers.map("{:g}".format, na_action="ignore") if whole else words
        levels = sorted(set(words.dropna()), key=float if whole else str)
        if any(map(unwritable, levels)):
            raise ValueError("has a control or formatting character in a value; take it out")
        codes = words.map({level: code for code, level in enumerate(levels)}).fillna(len(levels)).to_numpy()
    if (codes == len(levels)).any():
        levels.append(MISSING)
    return Groups(asked.column, tuple(levels), codes.astype(np.int64))


@lru_cache(maxsize=4)
def _table_of_rows(kind: str, path: str, digest: str, wanted: tuple[str, ...]) -> dict[str, Any]:
    """Return the columns of a file that are wanted, and the names of all others without values."""
    if kind == "csv":
        header = list(pd.read_csv(path, nrows=0, index_col=False).columns)
        own = [name for name in wanted if name in header]
        frame = pd.read_csv(path, usecols=own, dtype=str, keep_default_na=False, index_col=False) if own else None
    else:
        import pyarrow.parquet as pq

        header = list(pq.read_schema(path).names)
        own = [name for name in wanted if name in header]
        frame = pq.read_table(path, columns=own).to_pandas(ignore_metadata=True) if own else None
    return {str(name): None if frame is None or name not in frame else frame[name] for name in header}


def _table(data: DataSpec, wanted: tuple[str, ...], seed: int) -> dict[str, pd.Series[Any]]:
    """Return the columns of a source by name, ``[row]``; those of a file that nobody wants without values."""
    if isinstance(data, Loader):
        return _table(data.as_file(), wanted, seed)
    if isinstance(data, HeartDisease):
        return {str(name): values for name, values in pd.DataFrame(csv.DictReader(heart.lines())).items()}
    if isinstance(data, TableFile):
        kind = "csv" if isinstance(data, Csv) else "parquet"
        return _table_of_rows(kind, str(data.path), data.sha256(), wanted)
    if isinstance(data, Npz):
        return _arrays(data)
    made = synthetic.make(data.model_copy(update={"sites": None}), seed)
    return {name: pd.Series(values) for name, values in zip(made.features, made.x.T, strict=True)}


def _arrays(data: Npz) -> dict[str, pd.Series[Any]]:
    """Return the arrays of an archive that hold one value a record; those of MedMNIST describe no patient."""
    if data.x is None:
        return {}
    with np.load(data.path, allow_pickle=False) as archive:
        records = len(archive[data.x])
        flat: dict[str, NDArray[Any]] = {name: archive[name] for name in archive.files if name != data.x}
    return {name: pd.Series(values.reshape(-1)) for name, values in flat.items() if values.size == records}
