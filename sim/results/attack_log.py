"""The lines of ``attacks.jsonl``: how each attack on a run ended, and what audits found against each claim."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Strict, model_validator

from sim.privacy.ledger import Adversary
from sim.results.columns import AUDITED_COLUMN_OF, in_range, unit_of
from sim.results.kinds import Amount, Name, RunId, Text, revived
from sim.results.reading import read_models

ATTACKS_LOG: Final = "attacks.jsonl"
AUDIT: Final = "audit"
"""The attack under whose name audits stand."""
SLACK: Final = 1e-3
Row = dict[str, Any]
_Number = Annotated[float | None, Strict(), BeforeValidator(revived)]


class FoundLine(BaseModel):
    """One finding."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    adversary: Adversary
    measure: Name
    value: _Number
    low: _Number
    high: _Number
    chance: _Number
    bound: _Number
    clinic: Name

    @model_validator(mode="after")
    def _within_its_unit(self) -> Self:
        sound = unit_of(self.measure) is not None if self.value is None else in_range(self.measure, self.value)
        if not sound:
            raise ValueError("is out of range")
        return self


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

    @model_validator(mode="after")
    def _bounds_are_numbers(self) -> Self:
        if self.attack == AUDIT and any(each.value is None or each.bound is None for each in self.findings):
            raise ValueError("is no bound")
        return self


def read_attacks(study_folder: Path) -> dict[str, Row]:
    """Return how each attack on a run ended that has ended, by its id; one that stands twice has its last word."""
    return {row["attack_id"]: row for row in read_models(study_folder, ATTACKS_LOG, AttackLine, "attack")}


def read_audits(study_folder: Path) -> dict[str, Row]:
    """Return how the last audit of each run ended that has been audited, by the run's id."""
    rows = read_attacks(study_folder).values()
    return {row["run_id"]: row for row in rows if row["attack"] == AUDIT and row["status"] == "ok"}


def with_audits(study_folder: Path, rows: list[Row]) -> list[Row]:
    """Put what audits found of the claimed epsilons into rows of the study's table."""
    columns = {
        run_id: {AUDITED_COLUMN_OF[f["adversary"]]: f["value"] for f in audit["findings"] if f["measure"] == "epsilon"}
        for run_id, audit in read_audits(study_folder).items()
    }
    return [row | columns.get(row["run_id"], {}) for row in rows]


def exceeds(audited: float | None, claimed: float | None) -> bool:
    """Whether a lower bound refutes what is claimed, by more than accountants differ."""
    return audited is not None and claimed is not None and audited > claimed * (1 + SLACK)
