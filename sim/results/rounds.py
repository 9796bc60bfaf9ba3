"""The first round of each method as it is drawn, kept in the study's folder: a report needs neither data nor model.

``OUT/<study>/first-rounds.json`` holds, by the id of the run whose round it is, the method, the round in words, and the
bars of its picture.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from sim.foundation.problems import ScenarioError
from sim.results import reading
from sim.results.plain import to_plain
from sim.results.schema import checked
from sim.results.store import write_atomically

_FILE: Final = "first-rounds.json"


@dataclass(frozen=True)
class DrawnRound:
    """One round of a method as it is drawn."""

    method: str  # As people read it
    words: str  # What happens in the round
    bars: pd.DataFrame  # ``row, phase, start, end``: one row a bar, as of :func:`sim.plan.drawn_round.round_frame`


def keep_first_rounds(folder: Path, rounds: Mapping[str, DrawnRound]) -> None:
    """Keep rounds, by the run that each is of, beside those that are there."""
    kept: dict[str, Any] = {}
    with suppress(ScenarioError):  # what is damaged is written anew
        kept = _read(folder)
    for run_id, one in rounds.items():
        kept[run_id] = {"method": one.method, "words": one.words, "bars": one.bars.to_dict("records")}
    write_atomically(folder / _FILE, json.dumps(to_plain(kept), indent=1, allow_nan=False))


def read_first_rounds(folder: Path, run_ids: Collection[str]) -> list[DrawnRound]:
    """Read the first rounds of those methods whose runs are asked for, in their order."""
    kept = _read(folder)
    found = {kept[run_id]["method"]: kept[run_id] for run_id in run_ids if run_id in kept}
    return [DrawnRound(name, one["words"], pd.DataFrame(one["bars"])) for name, one in found.items()]


def _read(folder: Path) -> dict[str, Any]:
    value = reading.read_json(folder, _FILE)
    kept: dict[str, Any] = {} if value is None else checked("rounds", value, folder / _FILE)
    return kept
