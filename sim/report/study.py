"""What a report is made of: the table of runs, and what the folders of the runs add to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import pandas as pd

from sim.report.held_out import HeldOut
from sim.report.points import with_levels
from sim.report.summary import PREVALENCE, held_out_clinics, of_one_kind, successful_runs
from sim.report.table import results_frame
from sim.results.attacks import COLUMNS
from sim.results.decision_map import DecisionMap
from sim.results.rounds import DrawnRound

NO_ATTACKS: Final = pd.DataFrame(columns=list(COLUMNS))
NO_TRIALS: Final = pd.DataFrame(columns=["strategy", "cut", "chosen"])


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyResults:
    """The finished runs of one study; all but the name and the table may be empty."""

    name: str
    runs: pd.DataFrame  # One row a run, with the columns of ``runs.parquet``
    # rounds, clinics: ``rounds.parquet`` and ``clinics.parquet`` of all runs, with a column ``run_id``
    rounds: pd.DataFrame = field(default_factory=pd.DataFrame)
    clinics: pd.DataFrame = field(default_factory=pd.DataFrame)
    groups: pd.DataFrame = field(default_factory=pd.DataFrame)  # ``groups.parquet`` of all runs, with `run_id`
    # ``run_id, phase, seconds``: simulated time summed over clinics and rounds
    phases: pd.DataFrame = field(default_factory=pd.DataFrame)
    # ``run_id, way, kind, bytes``: traffic of all clinics; `way` is "up" or "down"
    traffic: pd.DataFrame = field(default_factory=pd.DataFrame)
    decided: DecisionMap | None = None  # Which method to take where, if it was asked
    clock: Sequence[DrawnRound] = ()  # The first round of each method
    # The privacy statement of each run, by its id
    statements: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    # What the study asked for: the settings that all runs share, the strategies, seeds and swept values
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)  # Software and state of the code
    # Every statistic that the preprocessing used, as "public" or "non-private"
    statistics: Mapping[str, str] = field(default_factory=dict)
    # The study's own ledger as text, see :func:`sim.report.privacy.composed_frame`
    composed: pd.DataFrame = field(default_factory=pd.DataFrame)
    composed_words: Sequence[str] = ()  # What it says, and what it leaves out
    data_card: str = ""  # Where bundled data comes from
    # The commands that made the study: ``time``, ``command``, ``scenario-sha256``
    commands: Sequence[Mapping[str, str]] = ()
    held_out: HeldOut | None = None  # Predictions of held-out records
    # ``trials.parquet``: the settings that were tried, by method and seed, with their scores
    trials: pd.DataFrame = field(default_factory=NO_TRIALS.copy)
    attacks: pd.DataFrame = field(default_factory=NO_ATTACKS.copy)  # ``attacks.parquet``

    @cached_property
    def ok(self) -> pd.DataFrame:
        """The successful runs with levels, in reading order."""
        return with_levels(successful_runs(self.runs))

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Its results as :func:`sim.report.table.results_frame` lays them out."""
        return results_frame(self.runs, self.held_out)

    @cached_property
    def parties(self) -> bool:
        """Whether what stands as clinics are parties with columns of the same patients."""
        return any(statement.get("parties", False) for statement in self.statements.values())

    @cached_property
    def away(self) -> pd.DataFrame:
        """Those of them that hold out whole clinics."""
        return self.ok[held_out_clinics(self.ok)]

    @cached_property
    def all_away(self) -> bool:
        """Whether all of them do."""
        return len(self.away) == len(self.ok)

    @cached_property
    def drawn(self) -> pd.DataFrame:
        """Those of them that stand side by side in charts: of methods, and of one kind of held-out records."""
        ok, _ = of_one_kind(self.ok)
        ok = ok[ok["method"] != PREVALENCE]
        return ok.assign(level=ok["level"].cat.remove_unused_categories())
