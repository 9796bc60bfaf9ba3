"""What the tables of a run's folder must hold before anything is made of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import TypeAdapter, ValidationError

from sim.results.reading import refuse
from sim.results.schema import hold, kind_of

PARTS: Final = ("train", "validation", "test")
_MEND: Final = "restore the original file, or run again"


@lru_cache(maxsize=256)
def _values(column: str) -> TypeAdapter[Any]:
    return TypeAdapter(list[kind_of(column)])  # type: ignore[misc, arg-type]


def checked_table(
    table: pa.Table, needed: Sequence[str], key: Sequence[str], texts: Collection[str], label: Path
) -> None:
    """Refuse a table of rounds or of clinics whose columns do not fit: types, ranges, and missing ones.

    Parameters
    ----------
    table : pyarrow.Table
        As of :func:`sim.results.reading.read_arrow`.
    needed : collection of str
        Columns that must be there, without a missing value.
    key : collection of str
        Those of them that together have no duplicate.
    texts : collection of str
        The columns of text; all others are numbers.
    """
    if lacking := [column for column in needed if column not in table.column_names]:
        refuse(label, f"{lacking[0]}: the column is missing; restore the original file, or run again")
    for name, values in zip(table.column_names, table.columns, strict=True):
        column = name[:60]
        telling, lacks = _telling(values)
        if telling and isinstance(telling[0], str) != (name in texts):
            refuse(label, f"{column}: holds {'numbers' if name in texts else 'text'}; run again")
        if name in needed and lacks:
            refuse(label, f"{column}: lacks a value; run again")
        try:
            _values(name).validate_python(telling)
        except ValidationError:
            every = [value for value in values.to_pylist() if value is not None and value == value]
            hold(_values(name), every, label, (column,))
    if _has_twice(table, key):
        refuse(label, f"{', '.join(key)}: has a duplicate value; run again")


def _telling(column: pa.ChunkedArray) -> tuple[list[Any], bool]:
    """Return values of a column that fit only if all do, and whether it lacks one.

    Those are each text once, or the least and the greatest number, since what a number may be has no gaps.
    """
    known = column.drop_null()
    lacks = len(known) < len(column)
    if not len(known):
        return [], lacks
    if pa.types.is_dictionary(column.type):
        used = [text for chunk in known.chunks for text in chunk.dictionary.take(chunk.indices.unique()).to_pylist()]
        texts = [text for text in dict.fromkeys(used) if text is not None]
        return texts, lacks or len(texts) < len(set(used))
    numbers = known.to_numpy()
    there = numbers[numbers == numbers]  # a NaN is none
    return [there.min().item(), there.max().item()] if len(there) else [], lacks or len(there) < len(numbers)


def _has_twice(table: pa.Table, key: Sequence[str]) -> bool:
    return bool(table.select(list(key)).to_pandas(ignore_metadata=True).duplicated().any())


def checked_records(table: pa.Table, label: Path, *, is_split: bool, key: Sequence[str] = ("record",)) -> None:
    """Refuse a table of single records, of predictions or of the split, whose columns do not fit.

    No two rows have the same `key`.
    """
    names = table.column_names
    classes = sum(name.startswith("probability_") for name in names)
    probabilities = [] if is_split else [name for name in names if name.startswith("survival_")]
    of_classes = not probabilities and "amount" not in names
    if of_classes and not is_split:
        probabilities = [f"probability_{c}" for c in range(max(classes, 2))]
    texts = ["clinic", "part"] if is_split else ["clinic"]
    whole = ["record"] if is_split else ["record", "patient", *(["label"] if of_classes else [])]
    measured = [] if is_split or of_classes else ["time", "event"] if probabilities else ["amount", "predicted"]
    for name in (*whole, *texts, *probabilities, *measured):
        if name not in names:
            refuse(label, f"{name}: the column is missing; {_MEND}")
        if name in measured:
            if not _is_finite(table[name]):
                refuse(label, f"{name}: holds something other than numbers; {_MEND}")
        elif fault := _fault(table[name], name in texts, name in probabilities):
            refuse(label, f"{name}: {fault}; {_MEND}")
    if _has_twice(table, key):
        refuse(label, f"record: has a duplicate value; {_MEND}")
    if is_split and not set(pc.unique(table["part"]).to_pylist()) <= set(PARTS):
        refuse(label, f"part: is none of {', '.join(PARTS)}; {_MEND}")
    if of_classes and not is_split and pc.max(table["label"]).as_py() >= len(probabilities):
        refuse(label, f"label: names a class that has no probability; {_MEND}")


def _is_finite(column: pa.ChunkedArray) -> bool:
    numeric = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    return bool(numeric and not column.null_count and pc.all(pc.is_finite(column)).as_py() is not False)


def _fault(column: pa.ChunkedArray, is_text: bool, is_probability: bool) -> str | None:
    """Say what is wrong with a column of text, of numbers from 0 on, or of probabilities."""
    if column.null_count:
        return "lacks a value"
    if is_text:
        return None if pa.types.is_dictionary(column.type) else "holds something other than text"
    if is_probability:
        if not pa.types.is_floating(column.type):
            return "holds something other than probabilities"
        values = column.to_numpy()
        return None if ((values >= 0) & (values <= 1)).all() else "holds something other than probabilities"
    sound = pa.types.is_integer(column.type) and pc.min(column).as_py() >= 0
    return None if sound else "holds something other than whole numbers from 0 on"
