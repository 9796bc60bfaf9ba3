"""What a table holds that its settings pass over: missing values, levels that are not stated, values beyond a range.

No line contains a value of a record.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sim.data.columns import Columns
from sim.data.federation import Ints, Mask
from sim.scenario.data import TableFile

_MOST_NAMED = 6
_FEW_VALUES = 20
_FEWEST = 5
"""Records of each class, for a column to be said to tell them: fewer, and it may be by chance."""
_SOME = 500
"""Records that are looked at first."""
_FEW = 0.05
"""Of a column's values: filling in no more is what the user asked for, and no news."""


def remarks_on(
    spec: TableFile,
    columns: Columns,
    kept: Sequence[str],
    ranges: Mapping[str, tuple[float, float]],
    used: Mask,
    y: Ints | None,
) -> Iterator[str]:
    """Yield a line for each kind of value that is passed over, with how many records have one.

    Parameters
    ----------
    kept : sequence of str
        The features.
    ranges : mapping of str to (float, float)
        The range of each feature that is scaled by one.
    used : ndarray of bool
        ``[record]`` those in use.
    y : ndarray of int64 or None
        ``[record in use]`` its class, if it has one.
    """
    for column in kept:
        if y is not None and _enough_of_each(y) and _decides(_values(columns, column)[used], y, int(y.max()) + 1):
            out = "put it into data.exclude" if spec.features is None else "take it out"
            yield f'data.features: "{column}" alone tells the label of every record; if it repeats the label, {out}'
    categories = [column for column in kept if column in spec.categorical]
    without = {column: columns.words[column].codes[used] < 0 for column in categories if not has_level(spec, column)}
    if told := _counted(without):
        mend = 'data.missing = { COLUMN = "unknown" } gives them a level of their own'
        yield f"data.missing: missing values of categories are 0 in every level: {told}; {mend}"
    if told := _counted({column: _not_stated(spec, columns, column)[used] for column in categories}):
        yield f"data.levels: levels that are not stated are 0 in every level: {told}; add them, if they matter"
    numbers = {column: columns.numbers[column][used] for column in kept if column in columns.numbers}
    filled = {column: np.isnan(x) for column, x in numbers.items() if column not in indicated(spec, kept)}
    if told := _counted({column: missing for column, missing in filled.items() if missing.mean() > _FEW}):
        mend = "data.missing-indicator = true adds a column that says where"
        yield f"data.missing: missing values are filled in with public constants: {told}; {mend}"
    beyond = {
        column: (x < ranges[column][0]) | (x > ranges[column][1]) for column, x in numbers.items() if column in ranges
    }
    if spec.scaling == "public" and (told := _counted(beyond)):
        yield f"data.ranges: values outside their range are moved to its end: {told}; check unit and range"
        for column, outside in beyond.items():
            if np.count_nonzero(outside) > 1 and len(np.unique(numbers[column][outside])) == 1:
                fault = f'all values of "{column}" outside its range are the same, as a code for missing values is'
                yield f"data.ranges: {fault}; leave such cells empty, and state data.missing"
    if spec.ranges and spec.scaling != "public":
        yield f'data.ranges: has no effect with scaling = "{spec.scaling}"; remove it, or set scaling = "public"'


def has_level(spec: TableFile, column: str) -> bool:
    """Whether missing values of a category are a level of their own."""
    return (spec.missing.get(column) if isinstance(spec.missing, dict) else spec.missing) == "unknown"


def indicated(spec: TableFile, kept: Sequence[str]) -> list[str]:
    """Return the numeric features that have a column beside them which says where a value is missing."""
    wanted = spec.missing_indicator
    if wanted is True:
        constants = spec.missing
        named = kept if isinstance(constants, float) else constants if isinstance(constants, dict) else ()
        wanted = tuple(name for name in named if not isinstance(constants, dict) or isinstance(constants[name], float))
    return [column for column in kept if wanted and column in wanted and column not in spec.categorical]


def _values(columns: Columns, column: str) -> Ints | NDArray[np.float64]:
    """Return what takes the place of each record's value: its code, or the number, -inf where missing."""
    if column in columns.words:
        return columns.words[column].codes
    x = columns.numbers[column]
    return np.where(np.isnan(x), -np.inf, x)


def _enough_of_each(y: Ints) -> bool:
    """Whether there are classes to be told, and none by chance as that of a single record would be."""
    records = np.bincount(y)  # [class]
    return len(records) > 1 and bool(records.min() >= _FEWEST)


def _decides(x: Ints | NDArray[np.float64], y: Ints, classes: int) -> bool:
    """Whether the classes follow from a column alone: few values with one class each, or numbers in as many intervals.

    Where they do not among some records, they do not among all.
    """
    if len(x) > _SOME and not _decides(x[:_SOME], y[:_SOME], classes):
        return False
    values, first, place = np.unique(x, return_index=True, return_inverse=True)
    if not np.array_equal(y[first][place], y):
        return False
    changes = np.count_nonzero(np.diff(y[first]))  # one more where missing values are of the class of large ones
    return len(values) <= _FEW_VALUES or bool(changes <= classes)


def _not_stated(spec: TableFile, columns: Columns, column: str) -> Mask:
    words = columns.words[column]
    if column not in spec.levels:
        return np.zeros(len(words.codes), dtype=np.bool_)
    strange = np.array([*(word not in spec.levels[column] for word in words.words), False])
    found: Mask = strange[words.codes]
    return found


def _counted(found: Mapping[str, Mask]) -> str:
    """Name the columns and how many of the records in use they concern, the most frequent first; empty if none."""
    counts = {column: int(np.count_nonzero(mask)) for column, mask in found.items() if mask.any()}
    ordered = sorted(counts, key=lambda column: -counts[column])
    told = [f'"{column}" {counts[column]:,} ({counts[column] / len(found[column]):.1%})' for column in ordered]
    others = f" and {len(told) - _MOST_NAMED} other columns" if len(told) > _MOST_NAMED else ""
    return ", ".join(told[:_MOST_NAMED]) + others
