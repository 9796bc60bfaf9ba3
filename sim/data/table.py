"""A table of the user's own, in comma-separated text or Parquet: one row a record.

Features are the columns listed, or all but label, clinic, patient and those excluded. A categorical column becomes one
column of 0 and 1 for each level, stated or found; a value that is missing, or no stated level, is 0 in all of them,
unless missing values are a level of their own (``"unknown"``). Any other missing value takes a stated constant, beside
which an indicator column may say where, or its column is dropped: with ``missing = "drop"``, each column that lacks a
value of the records in use. `positive` makes the label two classes, the values listed (1) and all others (0).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.data.columns import Columns, Words, read_columns
from sim.data.federation import Ints, Mask, Table
from sim.data.labels import (
    amount_codes,
    class_codes,
    event_codes,
    grade_codes,
    measure_fault,
    outcome_remarks,
    time_codes,
)
from sim.data.remarks import has_level, indicated, remarks_on
from sim.data.split import at_sites, numbered
from sim.foundation.problems import ScenarioError, suggest
from sim.scenario.data import TableFile

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_MOST_LEVELS = 1000
UNKNOWN = "unknown"


def read(spec: TableFile) -> Table:
    """Read the file that a scenario names.

    The records of the clinics in use, of each patient only the first if so asked, in file order; the clinics are sorted
    by name. The table's problems do not contain a value of a record.

    Raises
    ------
    ScenarioError
        If label, clinics or patients are unusable; with one line for each problem of the file.
    """
    columns = read_columns(spec)
    header = columns.header
    absent = [(place, column) for place, column in _roles(spec) if column not in header]
    problems = [f'{place}: there is no column "{column}"; {suggest(column, header)}' for place, column in absent]
    if problems and spec.features is None:
        raise ScenarioError(_placed(problems))  # the features are all columns but these
    features = _features(spec, columns)
    problems += _setting_problems(spec, columns, features)
    if not columns.rows:
        raise ScenarioError(
            [*_placed(problems), f"scenario: data.path: {spec.path} has no rows; give one row a record"]
        )
    used, unknown = _used_rows(spec, columns)
    dropped = _dropped(spec, columns, features, used)
    kept = [feature for feature in features if feature not in dropped]
    ranges = _ranges(spec, kept)
    if features and not kept:
        problems.append("missing: every feature is dropped; keep at least one")
    problems += [*_range_problems(spec, columns, ranges, kept, used), *_feature_problems(spec, columns, kept, used)]
    faults = [*_role_problems(spec, columns, used)]
    problems = [*_placed([*problems, *faults]), *unknown]
    if faults or not used.any() or {column for _, column in _roles(spec)} - {*columns.header}:
        raise ScenarioError(problems)
    try:
        classes, y, measured = _outcomes(spec, columns, used)
    except ValueError as error:
        raise ScenarioError([*problems, f"scenario: data.{error}"]) from None
    clinics = columns.words[spec.clinic] if spec.clinic else None
    names, clinic = numbered(clinics.words, clinics.codes[used]) if clinics else ((), np.zeros_like(y))
    patient = columns.words[spec.patient].codes[used] if spec.patient else None
    x, names_of_x, statistics, found_levels = _assembled(spec, columns, [] if problems else kept, used)
    if spec.missing == "drop":
        statistics["which columns are dropped for missing values"] = "non-private"
    remarks: list[str] = []
    if not problems:
        remarks += remarks_on(spec, columns, kept, ranges, used, y if classes else None)
        remarks += outcome_remarks(spec.outcome_of_a_record, measured)
    return Table(
        names=names,
        features=names_of_x,
        classes=classes,
        outcome=spec.outcome_of_a_record,
        x=x,
        y=y,
        measured=measured,
        clinic=clinic,
        row=np.flatnonzero(used),
        scaling=spec.scaling,
        ranges=ranges,
        statistics=statistics,
        patient=patient,
        found_levels=found_levels,
        remarks=tuple(remarks),
        problems=tuple(problems),
    )


def _outcomes(spec: TableFile, columns: Columns, used: Mask) -> tuple[tuple[str, ...], Ints, NDArray[np.float64]]:
    """Return class names, each record's label as it travels, and ``[record, measure]`` what was measured.

    Raises ``ValueError``; the text begins with the key.
    """
    outcome, column = spec.outcome_of_a_record, spec.measured_column
    seen, y = np.array([], dtype=np.int64), np.zeros(np.count_nonzero(used), dtype=np.int64)
    names: tuple[str, ...] = ()
    if spec.classes_column is not None:
        label = columns.words[spec.classes_column]
        if spec.grades is not None:
            return spec.grades, grade_codes(spec, spec.grades, label)[label.codes[used]], np.empty((len(y), 0))
        names, class_of = event_codes(spec, label) if column else class_codes(spec, label)
        seen, y = np.unique(class_of[label.codes[used]], return_inverse=True)
        if column:
            y = seen[y]
    if column is None:
        if spec.outcome == "binary" and len(seen) != 2:
            raise ValueError(f'outcome: "binary" needs two classes, and data.label has {len(seen)}; set data.positive')
        return tuple(names[code] for code in seen), y, np.empty((len(y), 0))
    values, rows = columns.numbers[column][used], np.flatnonzero(used) + columns.first_row
    if fault := measure_fault(outcome, values, rows):
        raise ValueError(f'{"time" if outcome.kind == "time" else "label"}: column "{column}" {fault}')
    if outcome.kind == "time":
        return (), time_codes(values, y == 1, outcome.edges), np.stack([values, y], axis=1)
    return (), amount_codes(values, outcome.span), values[:, None]


def _features(spec: TableFile, columns: Columns) -> tuple[str, ...]:
    if spec.features is not None:
        return spec.features
    others = {*(column for _, column in _roles(spec)), *spec.exclude}
    return tuple(column for column in columns.header if column not in others)


def _used_rows(spec: TableFile, columns: Columns) -> tuple[Mask, list[str]]:
    """Return the rows in use, and lines for unknown sites."""
    used = np.ones(columns.rows, dtype=np.bool_)
    unknown: list[str] = []
    if clinic := columns.words.get(spec.clinic or ""):
        used, unknown = at_sites(spec, clinic.words, clinic.codes)
    if spec.max_records_per_patient is not None and (patient := columns.words.get(spec.patient or "")):
        rows = np.flatnonzero(used)
        rows = rows[np.argsort(patient.codes[rows], kind="stable")]
        codes = patient.codes[rows]
        place = np.arange(len(rows)) - np.searchsorted(codes, codes)  # among the patient's own rows
        used[rows[(place >= spec.max_records_per_patient) & (codes >= 0)]] = False
    return used, unknown


def _placed(lines: Sequence[str]) -> list[str]:
    return [f"scenario: data.{line}" for line in lines]


def _constant(spec: TableFile, feature: str) -> float | str | None:
    return spec.missing.get(feature) if isinstance(spec.missing, dict) else spec.missing


def _dropped(spec: TableFile, columns: Columns, features: Sequence[str], used: Mask) -> set[str]:
    if isinstance(spec.missing, dict):
        return {feature for feature in features if spec.missing.get(feature) == "drop"}
    if spec.missing != "drop":
        return set()
    return {
        feature for feature, x in columns.numbers.items() if (np.isnan(x) & ~columns.not_numbers[feature] & used).any()
    }


def _roles(spec: TableFile) -> list[tuple[str, str]]:
    """Return the keys of columns that are no features, and those columns."""
    keys = ("label", "time", "event", "clinic", "patient")
    return [(key, column) for key in keys if (column := getattr(spec, key)) is not None]


def _setting_problems(spec: TableFile, columns: Columns, features: Sequence[str]) -> Iterator[str]:
    header = columns.header
    for place, listed in (("features", spec.features or ()), ("exclude", spec.exclude)):
        for column in listed:
            if column not in header:
                yield f'{place}: there is no column "{column}"; {suggest(column, header)}'
    constants = spec.missing if isinstance(spec.missing, dict) else {}
    for place, stated in (("categorical", spec.categorical), ("missing", constants), ("ranges", spec.ranges)):
        for column in stated:
            if column not in features and (place, column) != ("ranges", "*"):
                yield f'{place}: "{column}" is not one of the features; {suggest(column, features)}'
    for column in spec.categorical:
        if isinstance(constants.get(column), float):
            yield f'missing: "{column}" is categorical; give "unknown" for a level of its own, or take it out'
        if column in spec.ranges:
            yield f'ranges: "{column}" is categorical, and its levels are 0 or 1; take it out'
    for column, constant in constants.items():
        if constant == "unknown" and column in features and column not in spec.categorical:
            yield f'missing: "{column}" is no category and has no levels; give a number, or list it in data.categorical'
    listed = spec.missing_indicator if isinstance(spec.missing_indicator, tuple) else ()
    for column in listed:
        if column not in features:
            yield f'missing-indicator: "{column}" is not one of the features; {suggest(column, features)}'
        elif column in spec.categorical:
            yield f'missing-indicator: "{column}" is categorical; set data.missing."{column}" = "unknown" instead'
        elif not isinstance(_constant(spec, column), float):
            yield f'missing-indicator: "{column}" has no constant to fill in; state one as data.missing."{column}"'
    if not features:
        yield "features: there is no column left; exclude fewer"


def _ranges(spec: TableFile, kept: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Return the range of each numeric feature that has one: its own, or that of all others."""
    others = {name: spec.ranges["*"] for name in kept if "*" in spec.ranges and name not in spec.categorical}
    return others | {name: spec.ranges[name] for name in kept if name in spec.ranges}


def _range_problems(
    spec: TableFile, columns: Columns, ranges: Mapping[str, tuple[float, float]], kept: Sequence[str], used: Mask
) -> Iterator[str]:
    for name, (low, high) in ranges.items():
        if name not in spec.ranges and name in columns.numbers:
            x = columns.numbers[name][used]
            if count := np.count_nonzero((x < low) | (x > high)):
                values = "a value of it lies" if count == 1 else f"{count:,} values of it lie"
                mend = f'state its own as data.ranges."{name}"'
                yield f'ranges: "*" gives column "{name}" a range that {values} outside; {mend}'
    without_range = [f'"{name}"' for name in kept if name not in ranges and name not in spec.categorical]
    if spec.scaling == "public" and without_range:
        mend = (
            'state [lowest, highest] for each, or for all others as "*", or set data.scaling to "none" or "per-clinic"'
        )
        yield f"ranges: no public range is stated for {', '.join(without_range)}; {mend}"


def _feature_problems(spec: TableFile, columns: Columns, kept: Sequence[str], used: Mask) -> Iterator[str]:
    if not used.any():
        return  # no site is known, and that has lines of its own
    out = "take the column out" if spec.features is not None else "put the column into data.exclude"
    for feature in kept:
        if feature in columns.words:
            yield from _category_problems(spec, columns.words[feature], feature, used, out)
        if feature not in columns.numbers:
            continue
        x = columns.numbers[feature]
        wrong, missing, infinite = (
            used & columns.not_numbers[feature],
            used & np.isnan(x),
            used & (abs(x) > _FLOAT32_MAX),
        )
        if wrong.any() and feature in columns.other_forms:
            yield f'features: column "{feature}" holds numbers with {columns.other_forms[feature]}, or {out}'
        elif wrong.any() and np.array_equal(missing, used):
            yield f'features: column "{feature}" holds no numbers; list it in data.categorical, or {out}'
        elif wrong.any():
            row = int(np.argmax(wrong)) + columns.first_row
            yield f'features: column "{feature}" has no number in row {row}; correct it, or {out}'
        elif np.array_equal(missing, used):
            yield f'features: column "{feature}" has no value at all; {out}'
        elif feature in columns.unnamed and spec.features is None:
            number = columns.header.index(feature) + 1
            yield f'features: column {number} has no name; give it one, or put "{feature}" into data.exclude'
        elif missing.any() and (_constant(spec, feature) is None or spec.missing == UNKNOWN):
            mend = f'state a public constant as data.missing."{feature}", or "drop" the column there'
            yield f'missing: column "{feature}" has {_rows(missing, columns)}; {mend}'
        if infinite.any():
            row = int(np.argmax(infinite)) + columns.first_row
            yield f'features: column "{feature}" has an infinite or too large value in row {row}; correct it'


def _category_problems(spec: TableFile, coded: Words, column: str, used: Mask, out: str) -> Iterator[str]:
    codes = np.unique(coded.codes[used])
    present = {coded.words[code] for code in codes if code >= 0}
    if not present:
        yield f'features: column "{column}" has no value at all; {out}'
    elif column in spec.levels and not present & set(spec.levels[column]):
        yield f'levels: no record has a level stated for "{column}"; write them as in the file'
    elif column not in spec.levels and len(present) > _MOST_LEVELS:
        mend = f'state those to use as data.levels."{column}", or {out}'
        yield f'categorical: column "{column}" has more than {_MOST_LEVELS} levels; {mend}'


def _role_problems(spec: TableFile, columns: Columns, used: Mask) -> Iterator[str]:
    every = np.ones_like(used)
    for place, column in _roles(spec):
        relevant = every if place == "clinic" else used
        if column in columns.words and (missing := relevant & (columns.words[column].codes < 0)).any():
            yield f'{place}: column "{column}" has {_rows(missing, columns)}; fill in or remove'


def _rows(mask: Mask, columns: Columns) -> str:
    count = np.count_nonzero(mask)
    first = int(np.argmax(mask)) + columns.first_row
    return f"{count} missing values, the first in row {first}" if count > 1 else f"a missing value in row {first}"


_Assembled = tuple[NDArray[np.float64], tuple[str, ...], dict[str, str], frozenset[str]]
"""``[record, feature]`` complete features, their names, what completed them, and which are levels found."""


def _assembled(spec: TableFile, columns: Columns, kept: Sequence[str], used: Mask) -> _Assembled:
    values: dict[str, NDArray[Any]] = {}
    statistics: dict[str, str] = {}
    found: set[str] = set()
    with_indicator = set(indicated(spec, kept))
    for column in kept:
        if column in spec.categorical:
            coded = columns.words[column]
            levels = spec.levels.get(column) or numbered(coded.words, coded.codes[used & (coded.codes >= 0)])[0]
            own = {f"{column}_{level}": level for level in levels}
            words = np.array([*coded.words, UNKNOWN if has_level(spec, column) else ""], dtype=object)[
                coded.codes[used]
            ]
            if has_level(spec, column):
                own[f"{column}_{UNKNOWN}"] = UNKNOWN
            values |= {name: words == level for name, level in own.items()}
            statistics[f"levels of {column}"] = "public" if column in spec.levels else "non-private"
            found |= own.keys() if column not in spec.levels else set()
            continue
        x = columns.numbers[column][used]
        missing, constant = np.isnan(x), _constant(spec, column)
        if isinstance(constant, float):
            x = np.where(missing, constant, x)
            statistics[f"constant for missing {column}"] = "public"
        values[column] = x
        if column in with_indicator:
            values[f"{column}_missing"] = missing
    x = np.zeros((np.count_nonzero(used), len(values)))
    for place, each in enumerate(values.values()):
        x[:, place] = each
    return x, tuple(values), statistics, frozenset(found)
