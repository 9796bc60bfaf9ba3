"""The first round of each method as it is drawn, kept in the study's folder: a report needs neither data nor model.

``OUT/<study>/first-rounds.json`` holds, by the id of the run whose round it is, the method, the round in words, and the
bars of its picture.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pandas as pd

from sim.foundation.problems import ScenarioError
from sim.plan.first_round import first_rounds, label_of
from sim.report.study import DrawnRound
from sim.results import reading
from sim.results.schema import checked
from sim.results.store import to_plain, write_atomically
from sim.scenario.spec import RunSpec

__all__ = ["ROUNDS_FILE", "read_first_rounds", "write_first_rounds"]

ROUNDS_FILE: Final = "first-rounds.json"


def write_first_rounds(folder: Path, specs: Sequence[RunSpec]) -> None:
    """Play the first round of each method, and keep what is drawn of it beside those that are there."""
    from sim.report.gantt import round_frame, round_words

    kept: dict[str, Any] = {}
    with suppress(ScenarioError):  # what is damaged is written anew
        kept = _read(folder)
    for one in first_rounds(specs):
        spec = next(spec for spec in specs if label_of(spec) == one.method)
        kept[spec.run_id] = {
            "method": one.method,
            "words": " ".join(round_words(one.load, one.time, one.names, one.deadline, one.over_select)),
            "bars": round_frame(one.load, one.time, one.names).to_dict("records"),
        }
    write_atomically(folder / ROUNDS_FILE, json.dumps(to_plain(kept), indent=1, allow_nan=False))


def read_first_rounds(folder: Path, run_ids: Collection[str]) -> list[DrawnRound]:
    """Read the first rounds of those methods whose runs are asked for, in their order.

    Raises
    ------
    ScenarioError
        If the file does not hold what it must.
    """
    kept = _read(folder)
    found = {kept[run_id]["method"]: kept[run_id] for run_id in run_ids if run_id in kept}
    return [DrawnRound(name, one["words"], pd.DataFrame(one["bars"])) for name, one in found.items()]


def _read(folder: Path) -> dict[str, Any]:
    value = reading.read_json(folder, ROUNDS_FILE)
    kept: dict[str, Any] = {} if value is None else checked("rounds", value, folder / ROUNDS_FILE)
    return kept
