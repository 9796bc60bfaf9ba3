"""The decision map of a study, kept in its folder: ``OUT/<study>/map.json``."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

from sim.results import reading
from sim.results.schema import checked
from sim.results.store import from_plain, to_plain, write_atomically

_FILE: Final = "map.json"


@dataclass(frozen=True, kw_only=True)
class Point:
    """What to take at one point."""

    x: str
    y: str
    method: str = ""  # Empty where none meets the conditions
    others: Sequence[str] = field(default_factory=list)  # Methods that share the point
    seconds: float | None = None  # Of a run of the method
    score: float | None = None
    settled: bool = True  # Whether no quicker method is left that has a lower mean, but is not told apart
    alone: bool = False  # Whether training alone is not shown to be worse
    reason: str = ""  # Why there is no method, or why it is not settled


@dataclass(frozen=True, kw_only=True)
class DecisionMap:
    """What to take at each point of two settings."""

    # x, y: the key that is re-timed, and the swept one; empty where there is none
    x: str
    y: str
    # columns, rows: their values as people read them
    columns: Sequence[str]
    rows: Sequence[str]
    within: Sequence[str]  # The conditions
    points: Sequence[Point]  # One for each value of both


def keep_map(folder: Path, shown: DecisionMap, run_ids: Collection[str]) -> None:
    """Keep the map that some runs give, in place of an earlier one."""
    text = json.dumps(to_plain({**asdict(shown), "runs": _digest(run_ids)}), indent=1, allow_nan=False)
    write_atomically(folder / _FILE, text)


def read_map(folder: Path, run_ids: Collection[str]) -> DecisionMap | None:
    """Read the map that just these runs give; None where there is none."""
    value = reading.read_json(folder, _FILE)
    if value is None or checked("map", value, folder / _FILE)["runs"] != _digest(run_ids):
        return None
    value = from_plain(value)
    points = [Point(**{name: point[name] for name in Point.__dataclass_fields__}) for point in value["points"]]
    named = {name: value[name] for name in DecisionMap.__dataclass_fields__}
    return DecisionMap(**named | {"points": points})


def _digest(run_ids: Collection[str]) -> str:
    return sha256("\n".join(sorted(run_ids)).encode()).hexdigest()
