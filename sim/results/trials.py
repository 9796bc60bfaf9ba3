"""The trials of a study's tuning: ``trials.jsonl`` while they end, ``trials.parquet`` when all have.

A line is added for each trial that has ended, so that a process that dies loses the trials that it was at. The table
has one row a trial: ``trial_id study strategy method cut seed held_out``, the swept keys, ``tuned.<key>``, ``score loss
status chosen``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict

from sim.results import reading
from sim.results.kinds import Amount, Bound, Real, RunId, Text
from sim.results.store import append_line, moved_in, writing_to

TRIALS_LOG, TRIALS_TABLE = "trials.jsonl", "trials.parquet"
_NEEDED: Final = ("trial_id", "strategy", "method", "cut", "seed", "score", "loss", "status", "chosen")


class TrialLine(BaseModel):
    """How a trial ended; without a score where nothing could be scored."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    trial_id: RunId
    score: Real | None
    loss: Bound | None
    status: Literal["ok", "failed"]
    error: Text
    wall_seconds: Amount


def note_trial(study_folder: Path, row: Mapping[str, Any]) -> None:
    """Add how a trial ended."""
    append_line(study_folder, TRIALS_LOG, {key: row[key] for key in TrialLine.model_fields})


def read_trials(study_folder: Path) -> dict[str, dict[str, Any]]:
    """Return how each trial ended that has ended, by its id; a trial that stands twice has its last word."""
    return {
        row["trial_id"]: row | {key: math.nan for key in ("score", "loss") if row[key] is None}
        for row in reading.read_models(study_folder, TRIALS_LOG, TrialLine, "trial")
    }


def write_trials(study_folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``trials.parquet``, whole or not at all."""
    table = pd.DataFrame(rows)
    with writing_to(study_folder), moved_in(study_folder / TRIALS_TABLE) as partial:
        table.to_parquet(partial, index=False)


def trials_table(study_folder: Path) -> pd.DataFrame | None:
    """Read ``trials.parquet``; None where the study tuned nothing."""
    return reading.read_whole(study_folder, TRIALS_TABLE, _NEEDED)
