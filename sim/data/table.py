"""A comma-separated file of the user's own: one row a record, with a label, a clinic and numeric features."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.data import Table
from sim.data.split import clinic_problems
from sim.problems import ScenarioError, suggest
from sim.scenario import Csv

__all__ = ["read"]

_MISSING_NUMBERS: Final = ["", "NA", "N/A", "NaN", "nan", "NULL", "null"]
_FLOAT32_MAX: Final = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True, eq=False)
class _Coded:
    """A column of words: the sorted words, and each row's index into them (-1 where missing)."""

    words: tuple[str, ...]
    codes: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class _Parsed:
    header: tuple[str, ...]
    rows: int
    x: dict[str, NDArray[np.float64]]
    not_numbers: dict[str, NDArray[np.bool_]]
    label: _Coded | None
    clinic: _Coded | None


@lru_cache(maxsize=8)
def _parsed(path: Path, sha256: str, label: str, clinic: str, features: tuple[str, ...]) -> _Parsed:
    """Read the columns that exist; `sha256` makes a changed file another entry of the cache."""
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
        frame = pd.read_csv(
            path,
            dtype=dict.fromkeys((label, clinic), str),
            na_values=dict.fromkeys(features, _MISSING_NUMBERS),
            keep_default_na=False,
            index_col=False,
            low_memory=False,
        )
    header = tuple(str(column) for column in frame.columns)

    def coded(column: str) -> _Coded | None:
        if column not in header:
            return None
        stripped = frame[column].str.strip()
        codes, found = pd.factorize(stripped.mask(stripped == ""), sort=True)
        return _Coded(tuple(str(word) for word in found), codes.astype(np.int64))

    x: dict[str, NDArray[np.float64]] = {}
    not_numbers: dict[str, NDArray[np.bool_]] = {}
    for feature in features:
        if feature not in header:
            continue
        numbers = pd.to_numeric(frame[feature], errors="coerce").astype("float64")
        x[feature] = np.asarray(numbers, dtype=np.float64)
        not_numbers[feature] = np.asarray(numbers.isna() & frame[feature].notna())
    return _Parsed(header, len(frame), x, not_numbers, coded(label), coded(clinic))


def _read_columns(spec: Csv) -> _Parsed:
    import pandas as pd

    try:
        return _parsed(spec.path, spec.sha256(), spec.label, spec.clinic, spec.features)
    except pd.errors.EmptyDataError:
        fault = "is empty; give a header and one row a record"
    except (pd.errors.ParserError, pd.errors.ParserWarning):
        fault = "has rows longer than its header, or unclosed quotes; save it again as comma-separated text"
    except UnicodeDecodeError:
        fault = "is not UTF-8 text; save it as UTF-8"
    raise ScenarioError([f"scenario: data.path: {spec.path} {fault}"])


def _classes(words: Sequence[str]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the class names, whole numbers in their own order, and the class of each word."""
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return tuple(words), np.arange(len(words))
    if not all(number.is_integer() for number in numbers):
        raise ValueError("holds numbers that are not whole; give a column of classes")
    ordered = sorted({int(number) for number in numbers})
    return tuple(str(number) for number in ordered), np.searchsorted(ordered, numbers)


def _rows(mask: NDArray[np.bool_]) -> str:
    count = np.count_nonzero(mask)
    first = int(np.argmax(mask)) + 2  # the header is row 1
    return f"{count} missing values, the first in row {first}" if count > 1 else f"a missing value in row {first}"


def _setting_problems(spec: Csv, header: Sequence[str]) -> Iterator[str]:
    for place, column in (("label", spec.label), ("clinic", spec.clinic)):
        if column not in header:
            yield f'{place}: there is no column "{column}"; {suggest(column, header)}'
    for feature in spec.features:
        if feature not in header:
            yield f'features: there is no column "{feature}"; {suggest(feature, header)}'
    for place, stated in (("missing", spec.missing), ("ranges", spec.ranges)):
        for column in stated:
            if column not in spec.features:
                yield f'{place}: "{column}" is not one of the features; {suggest(column, spec.features)}'
    kept = [feature for feature in spec.features if spec.missing.get(feature) != "drop"]
    if not kept:
        yield "missing: every feature is dropped; keep at least one"
    without_range = [f'"{feature}"' for feature in kept if feature not in spec.ranges]
    if spec.scaling == "public" and without_range:
        mend = 'state [lowest, highest] for each, or set data.scaling to "none" or "per-clinic"'
        yield f"ranges: no public range is stated for {', '.join(without_range)}; {mend}"


def _feature_problems(spec: Csv, parsed: _Parsed, used: NDArray[np.bool_]) -> Iterator[str]:
    if not used.any():
        return  # no site is known, and that has lines of its own
    for feature, x in parsed.x.items():
        wrong = used & parsed.not_numbers[feature]
        missing = used & np.isnan(x)
        infinite = used & (np.abs(x) > _FLOAT32_MAX)
        constant = spec.missing.get(feature)
        if constant == "drop":
            continue
        if wrong.any():
            row = int(np.argmax(wrong)) + 2
            yield f'features: column "{feature}" has no number in row {row}; correct it, or take the column out'
        elif np.array_equal(missing, used):
            yield f'features: column "{feature}" has no value at all; take it out'
        elif missing.any() and constant is None:
            mend = f'state a public constant as data.missing."{feature}", or "drop" the column there'
            yield f'missing: column "{feature}" has {_rows(missing)}; {mend}'
        if infinite.any():
            row = int(np.argmax(infinite)) + 2
            yield f'features: column "{feature}" has an infinite or too large value in row {row}; correct it'


def _word_problems(spec: Csv, parsed: _Parsed, used: NDArray[np.bool_]) -> Iterator[str]:
    for place, column, coded, relevant in (
        ("label", spec.label, parsed.label, used),
        ("clinic", spec.clinic, parsed.clinic, np.ones_like(used)),
    ):
        if coded is not None and (missing := relevant & (coded.codes < 0)).any():
            yield f'{place}: column "{column}" has {_rows(missing)}; fill in or remove'


def read(spec: Csv) -> Table:
    """Read the file that a scenario names.

    Parameters
    ----------
    spec : Csv
        The scenario's ``[data]``.

    Returns
    -------
    Table
        The records of the clinics in use, sorted by the clinic's name, in file order within a clinic.

    Raises
    ------
    ScenarioError
        With one line for each problem of the file; no line contains a value of a record.
    """
    parsed = _read_columns(spec)
    problems = [f"scenario: data.{line}" for line in _setting_problems(spec, parsed.header)]
    if not parsed.rows:
        raise ScenarioError([*problems, f"scenario: data.path: {spec.path} has no rows; give one row a record"])
    used = _used_rows(spec, parsed)
    faults = [*_feature_problems(spec, parsed, used), *_word_problems(spec, parsed, used)]
    problems += [f"scenario: data.{line}" for line in faults]
    label, clinic = parsed.label, parsed.clinic
    if label is None or clinic is None or (label.codes[used] < 0).any() or (clinic.codes < 0).any():
        raise ScenarioError(problems)
    try:
        classes, class_of = _classes(label.words)
    except ValueError as error:
        raise ScenarioError([*problems, f'scenario: data.label: column "{spec.label}" {error}']) from None
    y = class_of[label.codes].astype(np.int64)
    problems += clinic_problems(clinic.words, y, clinic.codes, spec.sites, spec.one_class)
    if problems:
        raise ScenarioError(problems)
    return _table(spec, parsed, clinic, np.flatnonzero(used), y, classes)


def _used_rows(spec: Csv, parsed: _Parsed) -> NDArray[np.bool_]:
    if parsed.clinic is None or spec.sites is None:
        return np.ones(parsed.rows, dtype=np.bool_)
    return np.isin(parsed.clinic.codes, [code for code, name in enumerate(parsed.clinic.words) if name in spec.sites])


def _table(
    spec: Csv,
    parsed: _Parsed,
    clinic: _Coded,
    used: NDArray[np.int64],
    y: NDArray[np.int64],
    classes: tuple[str, ...],
) -> Table:
    order = used[np.argsort(clinic.codes[used], kind="stable")]
    present, counts = np.unique(clinic.codes[order], return_counts=True)
    seen, y = np.unique(y[order], return_inverse=True)
    features = tuple(feature for feature in spec.features if spec.missing.get(feature) != "drop")
    x = np.stack([parsed.x[feature][order] for feature in features], axis=1)
    statistics = {}
    for column, feature in enumerate(features):
        if feature in spec.missing:
            x[np.isnan(x[:, column]), column] = spec.missing[feature]
            statistics[f"constant for missing {feature}"] = "public"
    return Table(
        tuple(clinic.words[code] for code in present),
        features,
        tuple(classes[label] for label in seen),
        x,
        y.astype(np.int64),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        spec.ranges,
        statistics,
    )
