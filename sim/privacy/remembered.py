"""Answers of the accountant that outlive the process.

One SQLite file in the user's cache folder (``$XDG_CACHE_HOME/suture``, else ``~/.cache/suture``). The name of an answer
is a digest of all that it follows from: the function, its arguments, the source of this package, and the versions of
the libraries that count. A file that cannot be read or written is done without.
"""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from functools import cache, wraps
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from platform import machine
from typing import ParamSpec, TypeVar

from sim.foundation.disk_cache import cache_folder

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer", float, tuple[float, float], tuple[float, ...], str)

MOST_ROWS = 100_000


def remembered(function: Callable[Arguments, Answer]) -> Callable[Arguments, Answer]:
    """Keep the answers of a pure function of numbers and events, given by position."""

    @wraps(function)
    def ask(*arguments: Arguments.args, **keywords: Arguments.kwargs) -> Answer:
        name = sha256(repr((_counted_with(), function.__qualname__, arguments, keywords)).encode()).hexdigest()
        if (known := _read(name)) is not None:
            return known  # type: ignore[return-value]
        answer = function(*arguments, **keywords)
        _write(name, json.dumps(answer))
        return answer

    return ask


@cache
def _counted_with() -> tuple[str, ...]:
    source = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return (
        sha256(source).hexdigest(),
        machine(),
        *(version(name) for name in ("dp-accounting", "riskcal", "numpy", "scipy")),
    )


def _file() -> Path:
    return cache_folder() / "accountant.sqlite"


def _read(name: str) -> float | tuple[float, ...] | str | None:
    try:
        if not (path := _file()).is_file():
            return None
        with closing(sqlite3.connect(path, timeout=1.0)) as store:
            row = store.execute("SELECT answer, proof FROM answers WHERE name = ?", (name,)).fetchone()
        if row is None or row[1] != _proof(name, row[0]):
            return None
        answer = json.loads(row[0])
    except (OSError, RuntimeError, ValueError, sqlite3.Error):
        return None
    return tuple(answer) if isinstance(answer, list) else answer


def _write(name: str, answer: str) -> None:
    with suppress(OSError, RuntimeError, sqlite3.OperationalError):  # no home, no right to write, busy
        path = _file()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with closing(sqlite3.connect(path, timeout=1.0, isolation_level=None)) as store:
                store.execute("PRAGMA synchronous = OFF")
                store.execute("CREATE TABLE IF NOT EXISTS answers (name TEXT PRIMARY KEY, answer TEXT, proof TEXT)")
                store.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", (name, answer, _proof(name, answer)))
                store.execute("DELETE FROM answers WHERE rowid <= (SELECT max(rowid) FROM answers) - ?", (MOST_ROWS,))
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:  # no database: the next answer begins a new one
            path.unlink()


def _proof(name: str, answer: str) -> str:
    return sha256(f"{name} {answer}".encode()).hexdigest()
