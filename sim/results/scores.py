"""A run's scores, counted again from its predictions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sim.results.run_tables import read_own_table
from sim.results.store import RUN_FILE
from sim.scenario.outcomes import outcome_of
from sim.scenario.study import Scoring
from sim.tensor.scoring import scorer_of

_PRECISION: Final = 1e-6


def score_faults(folder: Path, record: Mapping[str, Any]) -> list[str]:
    """Hold the scores of a run's row and of its clinics against its predictions, and these against the split.

    A line for each score that disagrees. Raises ScenarioError if a file is not as a run writes it.

    Parameters
    ----------
    record : mapping
        Its ``run.json``.
    """
    predictions, split, clinics = (read_own_table(folder, stem) for stem in ("predictions", "split", "clinics"))
    path = folder / "predictions.parquet"
    held_out = split.loc[split["part"] == "test", ["record", "clinic"]]
    told = predictions[["record", "clinic"]]
    if not _in_order(told).equals(_in_order(held_out)):
        return [f"{path}: is not of the records that split.parquet holds out"]
    clinic = predictions["clinic"].to_numpy()
    begins = np.flatnonzero(np.append(True, clinic[1:] != clinic[:-1]))
    names, offsets = clinic[begins].tolist(), np.append(begins, len(clinic))
    if len(set(names)) < len(names):
        return [f"{path}: clinic: is not in order, clinic by clinic"]
    by_clinic, pooled = _scores(predictions, offsets, record["spec"])
    row = {name: record["row"].get(name) for name in pooled}
    faults = _faults(f"{folder / RUN_FILE}: row", row, pooled)
    own = clinics.set_index("name").reindex(names)
    for name, values in by_clinic.items():
        for k, value in enumerate(values.tolist()):
            place = f"{folder / 'clinics.parquet'}: {name}, clinic {k}"
            faults += _faults(place, {"": own[name].iloc[k]}, {"": value})
    return faults


def _in_order(records: pd.DataFrame) -> pd.DataFrame:
    return records.sort_values("record").reset_index(drop=True)


def _scores(
    predictions: pd.DataFrame, offsets: NDArray[np.int64], settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, float]]:
    """Return every score by clinic, and over all records."""
    scorer = scorer_of(outcome_of(settings["data"]), Scoring.model_validate(settings["evaluation"]))
    names, columns = scorer.columns(sum(str(name).startswith("probability_") for name in predictions))
    predicted, seen = (predictions[list(some)].to_numpy(np.float64) for some in (columns, names))
    return scorer.scores(predicted, seen, offsets, last=True)


def _faults(place: str, told: Mapping[str, Any], counted: Mapping[str, float]) -> list[str]:
    found = []
    for name, value in counted.items():
        claim = math.nan if told[name] is None else float(told[name])
        if not np.isclose(claim, value, rtol=_PRECISION, atol=_PRECISION, equal_nan=True):
            where = f"{place}.{name}" if name else place
            found.append(f"{where}: {claim:.6g} is claimed, the predictions give {value:.6g}")
    return found
