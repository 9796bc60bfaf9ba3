"""How a folder from somebody else is read: only what lies in it, only plain files, and never more than a stated size.

Nothing here follows a link, opens a pipe or a device, imports a module or believes a file's own words about its size.
What is wrong is one ``ScenarioError`` with the file's path; no line quotes what a file holds.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from sim.foundation.problems import ScenarioError, unwritable

MOST_BYTES: Final = 256 * 2**20
"""No file of more bytes is read."""
MOST_CELLS: Final = 20_000_000
"""No table of more cells is read, however small its file."""
MOST_DEPTH: Final = 50
"""No JSON that is nested deeper is read."""
MOST_DIGITS: Final = 30
"""No whole number of more digits is read."""
MOST_SIGNS: Final = 100_000
"""No text of a table's cell is longer."""

_ENTRY: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,200}")
_MEND: Final = "restore the original file, or run again"
_NOT_FINITE: Final = "holds a number that is not finite"
_TEXT: Final = frozenset({pa.string().id, pa.large_string().id})
_WHOLE: Final = (pa.int8, pa.int16, pa.int32, pa.int64, pa.uint8, pa.uint16, pa.uint32, pa.uint64)
_PLAIN: Final = _TEXT | {kind().id for kind in (*_WHOLE, pa.float16, pa.float32, pa.float64, pa.bool_, pa.null)}
"""Numbers of Arrow's types, by which they are told apart quickly."""


def refuse(path: Path | str, fault: str) -> NoReturn:
    """Raise the one line that says what is wrong with a file."""
    raise ScenarioError([f"{path}: {fault}"])


def entries(folder: Path) -> Iterator[str]:
    """Yield the names of the folders that lie in a folder, sorted; links and names with a leading dot are none."""
    try:
        with os.scandir(folder) as found:
            names = sorted(entry.name for entry in found if entry.is_dir(follow_symlinks=False))
    except OSError:
        return
    yield from (name for name in names if not name.startswith(".") and _ENTRY.fullmatch(name))


def refuse_links(folder: Path) -> None:
    """Refuse a folder of files to be written anew if it, or anything in it, is a link or no plain file."""
    try:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            refuse(folder, "is not a folder; remove it")
        for path in folder.iterdir():
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                refuse(path, "is a link or a special file, so nothing is written there; remove it")
    except FileNotFoundError:
        return


def file_bytes(root: Path, name: str, most: int = MOST_BYTES) -> bytes | None:
    """Read a plain file that lies in a folder.

    None where there is no such file.

    Raises ScenarioError if a part of the name leads out of the folder, is a link, or the file is no plain file, too
    large or unreadable.

    Parameters
    ----------
    root : Path
        The folder that the user named; it may itself be a link.
    name : str
        The file in it, its parts separated by ``/``.
    most : int
        How many bytes it may have.
    """
    path = root
    *folders, _ = parts = name.split("/")
    if not all(map(_ENTRY.fullmatch, parts)):
        refuse(root, "names a file outside the folder; " + _MEND)
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        for place, part in enumerate(parts):
            path = path / part
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                refuse(path, "is a link, which is not followed; replace it by the file it points to")
            if place == len(folders) and not stat.S_ISREG(mode):
                refuse(path, "is a folder, a pipe, a socket or a device, not a file; remove it")
        with os.fdopen(os.open(path, flags), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                refuse(path, "is a folder, a pipe, a socket or a device, not a file; remove it")
            content = file.read(min(found.st_size, most) + 1)  # room for all that it may have is slow to get
            if len(content) > found.st_size:  # it has grown
                content += file.read(most + 1 - len(content))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        refuse(path, f"cannot be read ({error.strerror})")
    if len(content) > most:
        refuse(path, f"is larger than the limit of {most:,} bytes; {_MEND}")
    return content


def read_json(root: Path, name: str) -> Any:
    """Read a JSON file of a folder as :func:`parsed_json` does; None where there is no such file."""
    content = file_bytes(root, name)
    return None if content is None else parsed_json(content, root / name)


def read_lines(root: Path, name: str) -> list[Any]:
    """Read a file of JSON lines; a last line that is being written, and a file that is not there, count as none."""
    content = file_bytes(root, name) or b""
    whole = content[: content.rfind(b"\n") + 1]
    return [parsed_json(line, f"{root / name}: line {n}") for n, line in enumerate(whole.splitlines(), 1)]


def read_models(root: Path, name: str, line: type[BaseModel], whose: str) -> Iterator[dict[str, Any]]:
    """Yield the lines of a file of JSON lines as :func:`read_lines` does, each checked by a model."""
    for number, value in enumerate(read_lines(root, name), 1):
        try:
            yield line.model_validate(value).model_dump()
        except ValidationError:
            refuse(root / name, f"line {number} is no {whose}'s; remove it, or the file")


def parsed_json(content: bytes | str, label: Path | str) -> Any:
    """Parse strict JSON: no NaN or infinity, no key twice, no huge number, not too deep, no unseen characters."""
    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        value = json.loads(text, parse_constant=_no_number, parse_int=_whole, object_pairs_hook=_each_once)
    except _FaultError as fault:
        refuse(label, f"{fault}; {_MEND}")
    except RecursionError:
        refuse(label, f"is nested more than {MOST_DEPTH} deep; {_MEND}")
    except UnicodeDecodeError:
        refuse(label, f"is not UTF-8 text; {_MEND}")
    except ValueError:
        refuse(label, f"is not valid JSON; {_MEND}")
    _refuse_unfit(value, label)
    return value


class _FaultError(Exception):
    """What JSON must not hold."""


def _no_number(constant: str) -> NoReturn:
    raise _FaultError(_NOT_FINITE)


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise _FaultError(f"holds a number of more than {MOST_DIGITS} digits")
    return int(digits)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise _FaultError("has a duplicate key")
    return table


def _refuse_unfit(value: Any, label: Path | str) -> None:
    """Refuse JSON that is nested too deep, or holds characters that nobody sees or a number that is not finite."""
    level = [value]
    for _ in range(MOST_DEPTH):
        below: list[Any] = []
        texts: list[str] = []
        for part in level:
            kind = type(part)
            if kind is str:
                texts.append(part)
            elif kind is dict:
                below += part
                below += part.values()
            elif kind is list:
                below += part
            elif kind is float and not math.isfinite(part):
                _refuse_unseen(texts, label)
                refuse(label, f"{_NOT_FINITE}; {_MEND}")
        _refuse_unseen(texts, label)
        if not below:
            return
        level = below
    refuse(label, f"is nested more than {MOST_DEPTH} deep; {_MEND}")


def _refuse_unseen(texts: Iterable[str], label: Path | str) -> None:
    if _unseen("".join(texts)):
        refuse(label, f"holds a control or formatting character; {_MEND}")


def _unseen(text: str) -> bool:
    return not text.isprintable() and unwritable(text.translate({9: " ", 10: " "}))


def read_whole(root: Path, name: str, columns: Iterable[str]) -> pd.DataFrame | None:
    """Read a table as :func:`read_parquet` does; refuse one that lacks a column."""
    table = read_parquet(root, name)
    for column in columns:
        if table is not None and column not in table:
            refuse(root / name, f"{column}: the column is missing; run the scenario again")
    return table


def read_parquet(root: Path, name: str) -> pd.DataFrame | None:
    """Read a table as :func:`read_arrow` does, its text as objects."""
    table = read_arrow(root, name)
    return None if table is None else as_frame(table)


def as_frame(table: pa.Table) -> pd.DataFrame:
    """Return what :func:`read_arrow` read, or several of them joined, with text as objects."""
    words = [field.name for field in table.schema if pa.types.is_dictionary(field.type)]
    frame: pd.DataFrame = table.to_pandas(ignore_metadata=True)
    return frame.astype(dict.fromkeys(words, object))


def read_arrow(root: Path, name: str, texts: Sequence[str] = ()) -> pa.Table | None:
    """Read a flat Parquet table of numbers, text and truth values; None where there is no such file.

    Raises ScenarioError if it is no such table, or would be too large in memory.

    Parameters
    ----------
    texts : sequence of str
        Its columns of text, where they are known: a file that has just these is opened once, not twice.
    """
    content = file_bytes(root, name)
    if content is None:
        return None
    path = root / name
    try:
        file, schema = _opened(content, texts)
        if file.metadata.num_rows * max(len(schema), 1) > MOST_CELLS:
            refuse(path, f"has more cells than the limit of {MOST_CELLS:,}; {_MEND}")
        if not all(map(_is_plain, schema.types)):
            refuse(path, f"has a column of neither numbers nor text; {_MEND}")
        if len(set(schema.names)) < len(schema):
            refuse(path, f"has a duplicate column; {_MEND}")
        table = file.read(use_threads=False)  # threads cost more than they save where a study has many small files
        _refuse_unfit_text(table, path)
    except ScenarioError:
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError, MemoryError, OverflowError):
        refuse(path, f"is not a valid Parquet table; {_MEND}")
    return table


def _opened(content: bytes, texts: Sequence[str]) -> tuple[pq.ParquetFile, pa.Schema]:
    """Open a Parquet file, all its columns of text as dictionaries, and return its schema too."""
    try:
        file = pq.ParquetFile(pa.BufferReader(content), read_dictionary=texts)
    except KeyError:  # lacks one of them
        file = pq.ParquetFile(pa.BufferReader(content))
    schema = file.schema_arrow
    if not any(map(_is_text, schema.types)):
        return file, schema
    words = [name for name, kind in zip(schema.names, schema.types, strict=True) if name in texts or _is_text(kind)]
    file = pq.ParquetFile(pa.BufferReader(content), read_dictionary=words)
    return file, file.schema_arrow


def _is_text(kind: pa.DataType) -> bool:
    return kind.id in _TEXT


def _is_plain(kind: pa.DataType) -> bool:
    return kind.id in _PLAIN or (pa.types.is_dictionary(kind) and _is_text(kind.value_type))


def _refuse_unfit_text(table: pa.Table, path: Path) -> None:
    """Look at each different text once: dictionaries keep a table small that repeats a long one."""
    words = [place for place, kind in enumerate(table.schema.types) if pa.types.is_dictionary(kind)]
    for place in words:
        for chunk in table.column(place).chunks:
            for text in chunk.dictionary.to_pylist():
                if text is not None and len(text) > MOST_SIGNS:
                    refuse(path, f"holds a text of more than {MOST_SIGNS:,} characters; {_MEND}")
                if text is not None and _unseen(text):
                    refuse(path, f"holds a control or formatting character; {_MEND}")
    if _unseen("".join(table.column_names)):
        refuse(path, f"has a control or formatting character in a column's name; {_MEND}")
