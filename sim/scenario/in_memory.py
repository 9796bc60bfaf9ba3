"""Data in memory as the file that a run reads: a table becomes comma-separated text, images and signals an archive.

The file has its own digest for a name. A run on a data frame is therefore the very run on the file
that ``frame.to_csv(path, index=False)`` writes: the digest of these bytes is part of its id, worker processes read the
same file, and a run can be repeated from its folder. What a loader returns is kept alike while this process lives.
Nothing is pickled.
"""

from __future__ import annotations

import atexit
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sim.foundation.plugins import loaded
from sim.foundation.problems import ScenarioError, place_of, show, suggest
from sim.scenario.lookup import SOURCES

_ROLES: Final = ("x", "y", "clinic", "patient")
_NEEDED: Final = ("x", "y")


@dataclass(frozen=True)
class InMemory:
    """Data in memory, as the bytes of a file and what a scenario says of it."""

    content: bytes
    settings: Mapping[str, str]  # Keys of [data] that it decides

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the content."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def name(self) -> str:
        """The file's name."""
        return f"{self.digest}.{self.settings['source']}"

    def keep(self, folder: Path) -> Path:
        """Write the file into a folder unless it is there; return its place. Raises OSError."""
        path = folder.resolve() / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() or not path.is_file() or path.read_bytes() != self.content:
            partial = path.with_name(f".{path.name}.{os.getpid()}")
            partial.unlink(missing_ok=True)  # like the file itself, it may be a link that somebody else put there
            partial.write_bytes(self.content)
            partial.replace(path)
        return path


def in_memory(data: object) -> InMemory:
    """Take data as a user has it.

    Parameters
    ----------
    data : DataFrame, dict of arrays or dict of torch Datasets
        A table with one row a record; or ``x``, ``y``, ``clinic`` and, if known, ``patient``, one value a record; or a
        ``Dataset`` of pairs of record and label by the clinic's name. An ``x`` of two axes is a table, of three
        ``[record, channel, length]`` signals, of four ``[record, channel, height, width]`` images.

    Raises
    ------
    ScenarioError
        With one line for each problem; no line holds a value of a record.
    """
    if isinstance(data, pd.DataFrame):
        return InMemory(_csv(data), {"source": "csv"})
    if not isinstance(data, Mapping) or not data:
        raise ScenarioError(
            f"data: is of type {type(data).__name__}; give a data frame, a dict of arrays, or of Datasets by clinic"
        )
    if set(_NEEDED) & data.keys():
        return _of_arrays(data)
    return _of_arrays(_stacked(data))


def _of_arrays(data: Mapping[Any, object]) -> InMemory:
    problems = [f"data: there is no {show(str(key))}; {suggest(str(key), _ROLES)}" for key in data if key not in _ROLES]
    problems += [f'data: "{role}" is missing; give one value a record' for role in _NEEDED if role not in data]
    arrays = {}
    for role in _ROLES:
        if data.get(role) is not None:
            try:
                arrays[role] = _array(data[role])
            except ValueError as error:
                problems.append(f'data: "{role}" {error}')
    problems += _shape_problems(arrays)
    if problems:
        raise ScenarioError(problems)
    roles = {"label": "y"} | {role: role for role in ("clinic", "patient") if role in arrays}
    if arrays["x"].ndim == 2:
        columns = {f"x{number}": arrays["x"][:, number] for number in range(arrays["x"].shape[1])}
        described = {role: array.reshape(-1) for role, array in arrays.items() if role != "x"}
        return InMemory(_csv(pd.DataFrame(described | columns)), {"source": "csv", **roles})
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # its stub takes a name for allow_pickle
    return InMemory(buffer.getvalue(), {"source": "npz", "x": "x", **roles})


def _array(value: Any) -> NDArray[Any]:
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    try:
        array = np.asarray(value)
        array = np.array(array.tolist()) if array.dtype.kind == "O" else array
    except ValueError:
        raise ValueError("has records of different sizes; make them equal") from None
    if array.dtype.kind not in "buifU":
        raise ValueError("holds neither numbers nor text; give one of them, the same for all records")
    return array


def _shape_problems(arrays: Mapping[str, NDArray[Any]]) -> Iterator[str]:
    if "x" not in arrays:
        return
    x = arrays["x"]
    if x.ndim not in (2, 3, 4) or not x.size:
        yield f'data: "x" has shape {list(x.shape)}; give a table, signals or images, one row a record'
        return
    for role, array in arrays.items():
        if role != "x" and (array.shape[:1] != x.shape[:1] or array.shape[1:] not in ((), (1,))):
            yield f'data: "{role}" has shape {list(array.shape)} for {len(x)} records; give one value a record'


def _stacked(datasets: Mapping[Any, Any]) -> dict[str, object]:
    """Put the clinics' Datasets one after another."""
    written = [str(name).strip() for name in datasets]
    twice = dict.fromkeys(name for name in written if written.count(name) > 1)
    problems = [f"data: two clinics are called {show(name)}; give each a name of its own" for name in twice]
    records: list[NDArray[Any]] = []
    labels: list[Any] = []
    clinics: list[str] = []
    for name, dataset in datasets.items():
        place = f"data: clinic {show(str(name))}"
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__") or isinstance(dataset, np.ndarray):
            problems.append(f"{place}: is of type {type(dataset).__name__}; give a Dataset with a length")
            continue
        for number in range(len(dataset)):
            item = dataset[number]
            if not isinstance(item, tuple | list) or len(item) != 2:
                problems.append(f"{place}: item {number} is no pair of record and label; let the Dataset return both")
                break
            records.append(_array(item[0]))
            labels.append(item[1].item() if hasattr(item[1], "item") else item[1])
            if records[-1].shape != records[0].shape:
                shapes = f"{list(records[-1].shape)}, and the first has {list(records[0].shape)}"
                problems.append(f"{place}: record {number} has shape {shapes}; make them equal")
                break
            clinics.append(str(name))
    if not records and not problems:
        problems.append("data: the Datasets have no record; give some")
    if problems:
        raise ScenarioError(problems)
    return {"x": np.stack(records), "y": labels, "clinic": clinics}


def _csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False, lineterminator="\n").encode()


@lru_cache(maxsize=4)
def records_of(name: str, options: str) -> tuple[InMemory, Path]:
    """Call a loader once, and return what it returns with the file that holds it.

    Parameters
    ----------
    name : str
        A registered name, or an import path.
    options : str
        Its arguments, as JSON.

    Raises
    ------
    ScenarioError
        With one line for each problem.
    """
    try:
        found = loaded(SOURCES, name)
    except ValueError as error:
        raise ScenarioError(f"scenario: data.path: {error}") from None
    try:
        data = found(**json.loads(options))
    except ScenarioError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, TypeError) and error.__traceback__ is not None and error.__traceback__.tb_next is None:
            fault = "cannot be called with data.options; give the arguments that it takes"
        else:
            code = getattr(found, "__code__", None)
            fault = f"failed: {place_of(error, code.co_filename if code else None)}; correct it"
        raise ScenarioError(f"scenario: data.path: loader {show(name)} {fault}") from None
    records = in_memory(data)
    return records, records.keep(_folder())


@cache
def _folder() -> Path:
    """Return a folder of this process, which nobody else can read and which is gone at its end unless it is killed."""
    folder = Path(tempfile.mkdtemp(prefix="suture-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
