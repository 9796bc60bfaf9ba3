"""Images and signals of the user's own in a NumPy archive (.npz).

Images are ``[record, channel, height, width]``, or ``[record, height, width, channel]`` where only the last axis has
1, 3 or 4 entries; signals are ``[record, channel, length]``, or ``[record, length]`` with one channel. With three axes,
unsigned bytes and MedMNIST's arrays are images without a channel axis, and anything else is signals. MedMNIST's arrays
(Yang et al., Scientific Data 10:41, 2023) are known by name: ``train`` and ``val`` are training records, ``test`` the
held-out ones. Numbers are mapped from the stated public range, by default 0 to 255 for unsigned bytes, to -1 to 1.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sim.data.archives import archive_fault
from sim.data.federation import Ints, Table
from sim.data.labels import class_names
from sim.data.split import at_sites, numbered
from sim.foundation.problems import ScenarioError, suggest
from sim.foundation.text import count_text
from sim.scenario.data import Npz

_MEDMNIST: Final = ("train", "val", "test")
_FLOAT32_MAX: Final = float(np.finfo(np.float32).max)
_CHANNELS: Final = (1, 3, 4)

Arrays = Mapping[str, NDArray[Any]]


def read(spec: Npz) -> Table:
    """Read the archive that a scenario names: the records of the clinics in use, in file order.

    ``x`` is ``[record, channel, height, width]`` or ``[record, channel, length]`` in the file's own numbers, and its
    features are the channels.

    Raises
    ------
    ScenarioError
        With one line for each problem; no line contains a value of a record.
    """
    named = ((role, getattr(spec, role)) for role in ("x", "label", "clinic", "patient"))
    roles = {role: name for role, name in named if name is not None}  # none where they have MedMNIST's names
    wanted = tuple(roles.values()) or tuple(name for part in _MEDMNIST for name in _of_part(part).values())
    arrays, stored = _loaded(spec.path, spec.sha256(), wanted)
    if problems := [f"scenario: data.{line}" for line in _problems(spec, roles, arrays, stored)]:
        raise ScenarioError(problems)
    held_out = None
    if not roles:
        parts = [part for part in _MEDMNIST if f"{part}_images" in arrays]
        x = np.concatenate([arrays[f"{part}_images"] for part in parts])
        label = np.concatenate([arrays[f"{part}_labels"].reshape(-1) for part in parts])
        held_out = np.repeat([part == "test" for part in parts], [len(arrays[f"{part}_images"]) for part in parts])
    else:
        x, label = arrays[roles["x"]], arrays[roles["label"]]
    sites, clinic = _coded(arrays[spec.clinic]) if spec.clinic else ((), np.zeros(len(x), dtype=np.int64))
    used, unknown = at_sites(spec, sites, clinic)
    words, code = _coded(label)
    try:
        classes, class_of = class_names(words)
    except ValueError as error:
        raise ScenarioError([*unknown, f"scenario: data.label: the array of labels {error}"]) from None
    if unknown:
        raise ScenarioError(unknown)
    classes, y = numbered(classes, class_of[code[used]])
    names, clinic = numbered(sites, clinic[used]) if spec.clinic else ((), clinic[used])
    x = _with_channels(x if used.all() else x[used], image=not roles)
    features = tuple(f"channel-{number}" for number in range(x.shape[1]))
    span = spec.range or ((0.0, 255.0) if x.dtype == np.uint8 else None)
    return Table(
        names=names,
        features=features,
        classes=classes,
        x=x,
        y=y,
        clinic=clinic,
        row=np.flatnonzero(used),
        scaling="none" if span is None else "public",
        ranges={} if span is None else dict.fromkeys(features, span),
        statistics={},
        patient=_coded(arrays[spec.patient])[1][used] if spec.patient else None,
        held_out=held_out,
    )


@lru_cache(maxsize=2)
def _loaded(path: Path, sha256: str, wanted: tuple[str, ...]) -> tuple[Arrays, tuple[str, ...]]:
    """Return those arrays that exist, and the names of all; `sha256` makes a changed file another entry."""
    if fault := archive_fault(path, wanted):
        raise ScenarioError(f"scenario: data.path: {path} {fault}")
    fault, held = "is no NumPy archive, or not whole; save it with numpy.savez", "it"
    arrays: dict[str, NDArray[Any]] = {}
    try:
        with path.open("rb") as file:
            if file.read(6) == b"\x93NUMPY":
                return {}, ()
            file.seek(0)
            archive = np.load(file, allow_pickle=False)
            stored = tuple(archive.files)
            for name in wanted:
                if name in stored:
                    fault, held = f'has a damaged array "{name}"; save it again', f'array "{name}"'
                    arrays[name] = np.asarray(archive[name])
                    arrays[name].setflags(write=False)
    except Exception as error:  # the bytes may be of any kind
        if str(error).startswith("Object arrays"):
            fault = f"holds {held} as pickled objects, which are never read; save it as numbers or text"
        raise ScenarioError(f"scenario: data.path: {path} {fault}") from None
    return arrays, stored


def _problems(spec: Npz, roles: Mapping[str, str], arrays: Arrays, stored: Sequence[str]) -> Iterator[str]:
    if not stored:
        yield f"path: {spec.path} holds no named array; save it with numpy.savez"
    elif roles:
        for place, name in roles.items():
            if name not in arrays:
                yield f'{place}: there is no array "{name}"; {suggest(name, stored)}'
        yield from _set_problems(roles, arrays)
    elif not arrays:
        yield "x: is missing; name the array of records (data.x) and the array of labels (data.label)"
    else:
        parts = [part for part in _MEDMNIST if part != "val" or not arrays.keys().isdisjoint(_of_part("val").values())]
        for part in parts:
            for name in _of_part(part).values():
                if name not in arrays:
                    yield f'path: there is no array "{name}" beside the others of MedMNIST; add it'
            yield from _set_problems(_of_part(part), arrays)
        shapes = {arrays[name].shape[1:] for part in parts if (name := _of_part(part)["x"]) in arrays}
        if len(shapes) > 1:
            yield "path: MedMNIST's arrays of images differ in the size of an image; make them equal"


def _of_part(part: str) -> dict[str, str]:
    return {"x": f"{part}_images", "label": f"{part}_labels"}


def _set_problems(roles: Mapping[str, str], arrays: Arrays) -> Iterator[str]:
    """Yield what is wrong with an array of records and those that describe them."""
    found = {place: (name, arrays[name]) for place, name in roles.items() if name in arrays}
    records = None
    if "x" in found:
        name, x = found["x"]
        records = len(x) if x.ndim else 0
        yield from _record_problems(name, x)
    for place, (name, array) in found.items():
        if place == "x":
            continue
        missing = array != array if array.dtype.kind == "f" else np.array(array.dtype.kind == "U") & (array == "")
        if array.ndim not in (1, 2) or array.shape[1:] not in ((), (1,)):
            yield f'{place}: array "{name}" has shape {list(array.shape)}; give one value a record'
        elif records is not None and len(array) != records:
            held = count_text(len(array), "value")
            yield f'{place}: array "{name}" has {held} for {records} records; give one a record'
        elif array.dtype.kind not in "buifU":
            yield f'{place}: array "{name}" holds neither numbers nor text; save it as one of them'
        elif missing.any():
            record = int(np.argmax(missing))
            yield f'{place}: array "{name}" has a missing value in record {record}, counted from 0; fill in or remove'


def _record_problems(name: str, x: NDArray[Any]) -> Iterator[str]:
    if x.dtype.kind not in "buif":
        yield f'x: array "{name}" does not hold numbers; save it as numbers'
    elif x.ndim not in (2, 3, 4) or not x.size:
        yield f'x: array "{name}" has shape {list(x.shape)}; give images or signals, one a record'
    elif x.dtype.kind == "f":
        sound = (np.abs(x) <= _FLOAT32_MAX).reshape(len(x), -1).all(axis=1)
        if not sound.all():
            record = int(np.argmin(sound))
            fault = f"a missing, infinite or too large value in record {record}, counted from 0"
            yield f'x: array "{name}" has {fault}; correct it'


def _coded(array: NDArray[Any]) -> tuple[tuple[str, ...], Ints]:
    """Return the different values as text, in their own order, and each record's index into them."""
    values, codes = np.unique(array.reshape(-1), return_inverse=True)
    words = (
        str(value) if isinstance(value, str) or not float(value).is_integer() else str(int(value))
        for value in values.tolist()
    )
    return tuple(words), codes


def _with_channels(x: NDArray[Any], *, image: bool) -> NDArray[Any]:
    if x.ndim == 2 or (x.ndim == 3 and (image or x.dtype == np.uint8)):
        return x[:, None]
    if x.ndim == 4 and x.shape[3] in _CHANNELS and x.shape[1] not in _CHANNELS:
        return np.ascontiguousarray(np.moveaxis(x, 3, 1))
    return x
