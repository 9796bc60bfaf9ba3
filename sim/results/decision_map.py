"""The decision map of a study, kept in its folder: ``OUT/<study>/map.json``."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from sim.results import reading
from sim.results.kinds import Amount, Hash, Name, Real, Text
from sim.results.plain import to_plain
from sim.results.schema import hold
from sim.results.store import write_atomically

_FILE: Final = "map.json"


@dataclass(frozen=True, kw_only=True)
class Point:
    """What to take at one point."""

    x: Name
    y: Name
    method: Name  # Empty where none meets the conditions
    others: list[Name]  # Methods that share the point
    seconds: Amount | None  # Of a run of the method
    score: Real | None
    settled: bool  # Whether no quicker method is left that has a lower mean, but is not told apart
    alone: bool  # Whether training alone is not shown to be worse
    reason: Text  # Why there is no method, or why it is not settled


@dataclass(frozen=True, kw_only=True)
class DecisionMap:
    """What to take at each point of two settings."""

    # x, y: the key that is re-timed, and the swept one; empty where there is none
    x: Name
    y: Name
    # columns, rows: their values as people read them
    columns: list[Name]
    rows: list[Name]
    within: list[Text]  # The conditions
    points: list[Point]  # One for each value of both


@dataclass(frozen=True, kw_only=True)
class _Kept(DecisionMap):
    """A map with a digest of the runs that it is of."""

    runs: Hash


_KEPT: Final = TypeAdapter(_Kept)


def keep_map(folder: Path, shown: DecisionMap, run_ids: Collection[str]) -> None:
    """Keep the map that some runs give, in place of an earlier one."""
    text = json.dumps(to_plain({**asdict(shown), "runs": _digest(run_ids)}), indent=1, allow_nan=False)
    write_atomically(folder / _FILE, text)


def read_map(folder: Path, run_ids: Collection[str]) -> DecisionMap | None:
    """Read the map that just these runs give; None where there is none."""
    value = reading.read_json(folder, _FILE)
    kept: _Kept | None = None if value is None else hold(_KEPT, value, folder / _FILE)
    if kept is None or kept.runs != _digest(run_ids):
        return None
    return DecisionMap(**{name: getattr(kept, name) for name in DecisionMap.__dataclass_fields__})


def _digest(run_ids: Collection[str]) -> str:
    return sha256("\n".join(sorted(run_ids)).encode()).hexdigest()
