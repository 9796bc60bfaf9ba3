"""Predictions of held-out records, and what intervals they support."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import pandas as pd

from sim.inference.evidence import Evidence, from_predictions, from_values
from sim.inference.scores import ScoredRuns, scored
from sim.results.reading import read_json
from sim.results.run_tables import read_run_tables
from sim.results.schema import checked
from sim.results.store import STUDY_FILE, read_record


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Predictions of a study's runs, and how its seeds deal records."""

    predictions: pd.DataFrame  # ``predictions.parquet`` of all runs, with a column ``run_id``; may be empty
    ratio: float  # Held-out over training records of a run, where records are held out; 0 where clinics are
    same_patients: bool  # Whether all seeds deal the same patients
    margin: float  # The difference within which two methods count as equal
    # What was worked out, by metric and groups of runs: tables, charts and words ask for the same
    kept: dict[tuple[object, ...], Evidence] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def scored_runs(self) -> ScoredRuns | pd.DataFrame:
        """The predictions as they are compared: each run is scored once, unless they are too many to keep that."""
        return ScoredRuns(self.predictions) if len(self.predictions) <= _KEPT_ROWS else self.predictions

    @property
    def dealt_anew(self) -> float:
        """The ratio by which intervals over seeds alone are widened; 0 where no seed deals the patients of another."""
        return self.ratio if self.same_patients else 0.0


MARGIN: Final = 0.01
_KEPT_ROWS: Final = 1_000_000
"""Of more predictions nothing is kept, since it would take too much memory."""
NOT_KNOWN: Final = HeldOut(predictions=pd.DataFrame(), ratio=0.5, same_patients=True, margin=MARGIN)
"""What is taken where there is nothing but a table of runs: that a third of the same records is held out."""


def held_out_of(folder: Path, spec: Mapping[str, Any], predictions: pd.DataFrame) -> HeldOut:
    """Return what the predictions of a study's folder support, by the spec of one of its runs."""
    data = spec["data"]
    share = data["test-share"] if data["test"] == "held-out-records" else 0.0
    return HeldOut(
        predictions=predictions,
        ratio=share / (1 - share),
        same_patients=data["source"] != "synthetic",
        margin=read_margin(folder),
    )


def read_margin(folder: Path) -> float:
    """Return the margin that the study was last run with; the default where nothing says it."""
    study = read_json(folder, STUDY_FILE)
    return MARGIN if study is None else float(checked("study", study, folder / STUDY_FILE)["margin"])


def read_held_out(folder: Path, run_ids: Iterable[str]) -> HeldOut | None:
    """Read the predictions of successful runs; None where only their table is left.

    Raises ScenarioError if a run lacks its own.
    """
    known = list(run_ids)
    if not any((folder / run_id).is_dir() for run_id in known):
        return None
    return held_out_of(folder, read_record(folder, known[0])["spec"], read_run_tables(folder, known, "predictions"))


def evidence_of(runs: pd.DataFrame, by: str, metric: str, held_out: HeldOut | None) -> Evidence:
    """Return what runs say of a metric: with the patients' part where predictions decide it, else by seed alone.

    Parameters
    ----------
    runs : DataFrame
        Successful runs; several of one group and seed are folds of the same.
    by : str
        Column that names the groups.
    """
    known = held_out or NOT_KNOWN
    models = runs[["run_id", by, "seed"]].rename(columns={by: "method"})
    if len(known.predictions) and metric in scored(known.predictions.columns):
        return _kept(models, metric, known)
    values = runs.groupby([by, "seed"], sort=False, observed=True)[metric].mean().reset_index()
    return from_values(values.rename(columns={by: "method"}), metric, known.dealt_anew)


def _kept(models: pd.DataFrame, metric: str, known: HeldOut) -> Evidence:
    """Work out the evidence once for the same groups of runs, whatever their names and order."""
    in_order = models.sort_values("run_id", ignore_index=True)
    groups, names = pd.factorize(in_order["method"])
    key = (metric, tuple(in_order["run_id"]), groups.tobytes())
    found = known.kept.get(key)
    if found is None:
        numbered = in_order.assign(method=groups)
        found = from_predictions(known.scored_runs, numbered, metric, same_patients=known.same_patients)
        if len(known.predictions) <= _KEPT_ROWS:
            known.kept[key] = found
    codes = {name: code for code, name in enumerate(names)}
    return found.among({codes[name]: name for name in dict.fromkeys(models["method"])})
