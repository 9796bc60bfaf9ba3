"""Everything a report says, read from a study's folder."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from sim.foundation.problems import ScenarioError
from sim.privacy.study_ledger import StudyRun, compose_study
from sim.report.held_out import held_out_of
from sim.report.privacy import composed_frame, composed_words
from sim.report.study import NO_ATTACKS, NO_TRIALS, StudyResults
from sim.results.attacks import attacks_table
from sim.results.decision_map import read_map
from sim.results.rounds import read_first_rounds
from sim.results.run_tables import read_run_tables
from sim.results.store import Records, read_record, read_records, read_table, uncounted
from sim.results.study_log import read_commands
from sim.results.trials import trials_table


def read_results(folder: Path, kept: Records | None = None) -> StudyResults:
    """Read a study's finished runs from nothing but its folder; no data file is opened, and no module imported.

    Raises ScenarioError if the folder holds no finished run, or a run's folder is gone.

    Parameters
    ----------
    folder : Path
        ``OUT/<study>``, with its ``runs.parquet``.
    kept : dict, optional
        What :func:`sim.results.store.write_table` has read of the runs.
    """
    runs = read_table(folder)
    if runs.empty:
        raise ScenarioError([f"{folder}: has no finished run; run the study first"])
    every = {record["row"]["run_id"]: record for record in read_records(folder, kept)}
    records = {run_id: every.get(run_id) or read_record(folder, run_id) for run_id in runs["run_id"]}
    specs = [record["spec"] for record in records.values()]
    releases = list(map(StudyRun.of, every.values()))
    composition = compose_study(releases)
    ok, heart = runs.loc[runs["status"] == "ok", "run_id"], specs[0]["data"]["source"] == "heart-disease"
    return StudyResults(
        name=", ".join(runs["study"].unique()),
        runs=runs,
        rounds=read_run_tables(folder, ok, "rounds"),
        clinics=read_run_tables(folder, ok, "clinics"),
        groups=read_run_tables(folder, ok, "groups"),
        phases=_planned(records, "phase_seconds", ["phase", "seconds"]),
        traffic=_planned(records, "bytes", ["way", "kind", "bytes"]),
        decided=read_map(folder, list(records)),
        clock=read_first_rounds(folder, records),
        statements={run_id: record["privacy"]["statement"] for run_id, record in records.items()},
        settings=_settings(specs),
        versions=_united([record["provenance"] for record in records.values()]),
        statistics=_united([record["privacy"]["statistics"] for record in records.values()]),
        composed=composed_frame(composition, releases),
        composed_words=[*composed_words(composition), *uncounted(folder, every)],
        data_card=files("sim.data").joinpath("heart_disease.md").read_text(encoding="utf-8") if heart else "",
        commands=read_commands(folder),
        held_out=held_out_of(folder, specs[0], read_run_tables(folder, ok, "predictions")),
        attacks=NO_ATTACKS if (attacks := attacks_table(folder)) is None else attacks,
        trials=NO_TRIALS if (trials := trials_table(folder)) is None else trials,
    )


def _planned(records: Mapping[str, Mapping[str, Any]], of: str, columns: Sequence[str]) -> pd.DataFrame:
    """Lay out amounts of the runs' plans, by the words of their names."""
    rows = [
        (run_id, *name.split(" ", len(columns) - 2), amount)
        for run_id, record in records.items()
        for name, amount in record["plan"][of].items()
    ]
    return pd.DataFrame(rows, columns=["run_id", *columns])


def _settings(specs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what all runs share, and the strategies, seeds and swept values that set them apart."""
    # A target of infinity turns the mechanism off, so the shared settings are those of a run that has one.
    base = next((spec for spec in specs if spec["privacy"]["mechanism"] != "none"), specs[0])
    shared = {key: _stated(base[key]) for key in ("data", "model", "train", "server", "clinics", "privacy")}
    for key in base["swept"]:
        _forget(shared, key.split("."))
    strategies = _distinct(_stated(spec["strategy"]) for spec in specs)
    sweep = {key: _distinct(spec["swept"].get(key) for spec in specs) for key in base["swept"]}
    seeds = sorted({spec["seed"] for spec in specs})
    return {"name": base["study"], "seeds": seeds, **shared, "strategies": strategies, "sweep": sweep}


def _stated(value: Any) -> Any:
    """Leave out what has no value."""
    if isinstance(value, Mapping):
        return {key: _stated(part) for key, part in value.items() if part not in (None, "", {}, [])}
    return [_stated(part) for part in value] if isinstance(value, (list, tuple)) else value


def _forget(tables: Any, path: Sequence[str]) -> None:
    *parents, last = path
    for key in parents:
        tables = tables.get(key) if isinstance(tables, dict) else None
    if isinstance(tables, dict):
        tables.pop(last, None)


def _distinct(values: Iterator[Any]) -> list[Any]:
    """Return each value once, in order of first appearance."""
    seen: dict[Hashable, Any] = {}
    for value in values:
        seen.setdefault(json.dumps(value, sort_keys=True), value)
    return list(seen.values())


def _united(tables: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Join tables of texts; where runs differ, all values are named."""
    names = dict.fromkeys(name for table in tables for name in table)
    values = {
        name: dict.fromkeys(str(table[name]) for table in tables if table.get(name) is not None) for name in names
    }
    return {name: "; ".join(found) or "unknown" for name, found in values.items()}
