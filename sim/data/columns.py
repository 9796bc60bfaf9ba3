"""The columns of a file with a table: numbers, and words with codes."""

import lzma
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from sim.data.archives import table_fault
from sim.data.federation import Ints, Mask
from sim.foundation.lazy import Lazy
from sim.foundation.problems import ScenarioError, show
from sim.scenario.data import Csv, TableFile

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = Lazy("pandas")

_MISSING: Final = ["", "NA", "N/A", "NaN", "nan", "NULL", "null", "?"]
"""What stands for a missing feature."""

_OTHER_SEPARATORS: Final = (";", "\t", "|")

_OTHER_FORMS: Final = {
    r"[-+]?\d+(\.\d+)?\s*%": "a percent sign; write them without",
    r"[-+]?\d+,\d+": "a decimal comma; write a point",
    r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?": "commas between thousands; write them without",
    r"[<>≤≥]\s*\d+(\.\d+)?": "a sign of comparison; write the bound, or leave the cell empty",
}
"""How numbers are written that are read as words, and how to mend it."""

_BROKEN: Final = (lzma.LZMAError, zipfile.BadZipFile, zlib.error)


class _HeaderError(Exception):
    """The names of the columns cannot be used; the text ends a line that begins with the file."""


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """A column of words."""

    words: tuple[str, ...]  # The different words, sorted
    codes: Ints  # [record] Each record's index into `words`, -1 where missing


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Columns:
    """A file's columns."""

    header: tuple[str, ...]  # All columns of the file
    rows: int  # Number of records
    first_row: int  # The number of the first record's row, as people count
    unnamed: frozenset[str]  # Those that have no name in the file, and one of their own only in `header`
    numbers: dict[
        str, NDArray[np.float64]
    ]  # [record] The numeric features, and a time or amount to predict; NaN where missing or no number
    not_numbers: dict[str, Mask]  # [record] Where a numeric feature holds something that is no number
    other_forms: dict[str, str]  # What is wrong with a numeric feature whose words are all numbers in one form
    words: dict[str, Words]  # Label or event, clinic, patient and categorical features


def read_columns(spec: TableFile) -> Columns:
    """Read the columns that a scenario names and that exist; kept between calls until the file changes.

    Raises ``ScenarioError`` if the file cannot be read.
    """
    import pyarrow as pa

    digest, is_csv = spec.sha256(), isinstance(spec, Csv)
    if fault := table_fault(spec.path, is_csv=is_csv):
        raise ScenarioError(f"scenario: data.path: {spec.path} {fault}")
    roles = tuple(column for column in (spec.classes_column, spec.clinic, spec.patient) if column is not None)
    try:
        return _parsed(
            spec.path, digest, is_csv, roles, spec.measured_column, spec.categorical, spec.features, spec.exclude
        )
    except pd.errors.EmptyDataError:
        fault = "is empty; give a header and one row a record"
    except (pd.errors.ParserError, pd.errors.ParserWarning):
        fault = "has rows longer than its header, or unclosed quotes; save it again as comma-separated text"
    except UnicodeDecodeError:
        fault = "is not UTF-8 text; save it as UTF-8"
    except _HeaderError as error:
        fault = str(error)
    except (OSError, EOFError, ImportError, ValueError, RuntimeError, MemoryError, *_BROKEN, pa.ArrowException):
        # pandas raises ValueError for an archive of several files, and ImportError for one that it cannot open
        fault = "cannot be unpacked; check that it is whole and that its name ends as its format asks"
        if not is_csv:
            fault = "is no Parquet file, or not whole; save it again"
    raise ScenarioError(f"scenario: data.path: {spec.path} {fault}")


@lru_cache(maxsize=1)
def _parsed(
    path: Path,
    sha256: str,
    is_csv: bool,
    roles: tuple[str, ...],
    measured: str | None,
    categorical: tuple[str, ...],
    features: tuple[str, ...] | None,
    exclude: tuple[str, ...],
) -> Columns:
    """Read the columns that exist; `sha256` makes a changed file another entry of the cache."""
    written = _header(path) if is_csv else ()
    frame = _csv(path, roles, categorical) if is_csv else _parquet(path)
    header = tuple(str(column) for column in frame.columns)
    named = header if features is None else features
    for column, count in Counter(filter(None, written)).items():
        if count > 1 and (features is None or column in (*roles, *named)):
            raise _HeaderError(f'has {count} columns "{column}"; name each once')
    unnamed = frozenset(column for column, name in zip(header, written, strict=False) if not name)
    numbers: dict[str, NDArray[np.float64]] = {}
    not_numbers: dict[str, Mask] = {}
    other_forms: dict[str, str] = {}
    for feature in named:
        if feature in header and feature not in (*roles, *categorical, *exclude):
            numbers[feature], not_numbers[feature] = _numbers(frame[feature])
            if form := _other_form(frame[feature][not_numbers[feature]]):
                other_forms[feature] = form
    if measured in header:
        numbers[measured], not_numbers[measured] = _numbers(frame[measured])
    words = {column: _words(frame[column], ("",)) for column in roles if column in header}
    words |= {column: _words(frame[column], _MISSING) for column in categorical if column in header}
    return Columns(
        header=header,
        rows=len(frame),
        first_row=2 if is_csv else 1,
        unnamed=unnamed,
        numbers=numbers,
        not_numbers=not_numbers,
        other_forms=other_forms,
        words=words,
    )


def _header(path: Path) -> tuple[str, ...]:
    """Return the names of the columns as they are written."""
    first = pd.read_csv(path, nrows=1, header=None, dtype=str, keep_default_na=False, index_col=False)
    written = tuple(str(name) for name in first.iloc[0])
    if len(written) == 1 and (found := [sign for sign in _OTHER_SEPARATORS if sign in written[0]]):
        raise _HeaderError(f"is separated by {show(found[0])}; save it again as comma-separated text")
    return written


def _csv(path: Path, roles: Sequence[str], categorical: Sequence[str]) -> "pd.DataFrame":
    words = (*roles, *categorical)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
        header = pd.read_csv(path, nrows=0, index_col=False).columns
        return pd.read_csv(
            path,
            dtype=dict.fromkeys(words, str),
            na_values={column: _MISSING for column in header if column not in words},
            keep_default_na=False,
            index_col=False,
            low_memory=False,
        )


def _parquet(path: Path) -> "pd.DataFrame":
    import pyarrow.parquet as pq

    frame: pd.DataFrame = pq.read_table(path).to_pandas(ignore_metadata=True)  # an index is a column like others
    return frame.loc[:, [not str(column).startswith("__index_level_") for column in frame.columns]]


def _numbers(column: "pd.Series[Any]") -> tuple[NDArray[np.float64], Mask]:
    if column.dtype.kind in "mMc":  # dates, durations and complex numbers, which pandas would turn into numbers
        return np.full(len(column), np.nan), np.asarray(column.notna())
    numbers = pd.to_numeric(column, errors="coerce").astype("float64")
    return np.asarray(numbers, dtype=np.float64), np.asarray(numbers.isna() & column.notna())


def _other_form(strange: "pd.Series[Any]") -> str | None:
    """Return the form that all values have which are no numbers, if there is one."""
    text = strange.astype(str).str.strip()
    return next(
        (form for pattern, form in _OTHER_FORMS.items() if len(text) and text.str.fullmatch(pattern).all()), None
    )


def _words(column: "pd.Series[Any]", missing: Sequence[str]) -> Words:
    if pd.api.types.is_float_dtype(column) and (column.dropna() % 1 == 0).all():
        column = column.astype("Int64")  # whole numbers beside missing ones
    text = column.astype(str).str.strip().mask(column.isna())
    codes, found = pd.factorize(text.mask(text.isin(missing)), sort=True)
    return Words(tuple(str(word) for word in found), codes.astype(np.int64))
