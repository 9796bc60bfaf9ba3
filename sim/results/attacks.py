"""What the attacks of a scenario found: ``attacks.jsonl`` while they end, ``attacks.parquet`` when all have.

A line is added for each attack on a run that has ended, so that a process that dies loses those that it was at. The
table has one row a finding: ``run_id attack adversary measure value low high chance bound``, and the clinic whose
records alone it is about, empty for all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import pandas as pd
from pydantic import BaseModel, BeforeValidator, ConfigDict, Strict, ValidationError

from sim.results import reading
from sim.results.columns import UNITS, unit_of
from sim.results.kinds import Amount, Name, RunId, Text, revived
from sim.results.store import append_line, moved_in, writing_to

ATTACKS_LOG, ATTACKS_TABLE = "attacks.jsonl", "attacks.parquet"
COLUMNS: Final = ("run_id", "attack", "adversary", "measure", "value", "low", "high", "chance", "bound", "clinic")
Row = dict[str, Any]
_Number = Annotated[float | None, Strict(), BeforeValidator(revived)]


class FoundLine(BaseModel):
    """One finding."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    adversary: Literal["model-user", "peer-clinic", "server"]
    measure: Name
    value: _Number
    low: _Number
    high: _Number
    chance: _Number
    bound: _Number
    clinic: Name


class AttackLine(BaseModel):
    """How an attack on a run ended."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    attack_id: RunId
    run_id: RunId
    attack: Name
    status: Literal["ok", "failed"]
    error: Text
    wall_seconds: Amount
    findings: list[FoundLine]


def note_attack(study_folder: Path, row: Mapping[str, Any]) -> None:
    """Add how an attack on a run ended."""
    append_line(study_folder, ATTACKS_LOG, {key: row[key] for key in AttackLine.model_fields})


def read_attacks(study_folder: Path) -> dict[str, Row]:
    """Return how each attack on a run ended that has ended, by its id; one that stands twice has its last word."""
    found = {}
    for number, line in enumerate(reading.read_lines(study_folder, ATTACKS_LOG), 1):
        try:
            row = AttackLine.model_validate(line).model_dump()
        except ValidationError:
            reading.refuse(study_folder / ATTACKS_LOG, f"line {number} is no attack's; remove it, or the file")
        found[row["attack_id"]] = row
    return found


def write_attacks(study_folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write ``attacks.parquet``, whole or not at all."""
    table = pd.DataFrame(
        [
            {"run_id": row["run_id"], "attack": row["attack"], **finding}
            for row in rows
            if row["status"] == "ok"
            for finding in row["findings"]
        ],
        columns=list(COLUMNS),
    )
    numbers = ["value", "low", "high", "chance", "bound"]
    table[numbers] = table[numbers].astype("float64")
    with writing_to(study_folder), moved_in(study_folder / ATTACKS_TABLE) as partial:
        table.to_parquet(partial, index=False)


def attacks_table(study_folder: Path) -> pd.DataFrame | None:
    """Read ``attacks.parquet``; None where the study names no attacks."""
    table = reading.read_parquet(study_folder, ATTACKS_TABLE)
    if table is None:
        return None
    path = study_folder / ATTACKS_TABLE
    for column in COLUMNS:
        if column not in table:
            reading.refuse(path, f"{column}: the column is missing; run the scenario again")
    for measure, value in zip(table["measure"], table["value"], strict=True):
        least, most = UNITS.get(unit_of(str(measure)) or "", (math.inf, -math.inf))
        if not (isinstance(value, float) and (math.isnan(value) or least <= value <= most)):
            reading.refuse(path, "holds a measure that is out of range; run the scenario again")
    return table
