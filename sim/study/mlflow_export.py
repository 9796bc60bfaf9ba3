"""Finished runs as runs of an MLflow tracking server; exported again, a run is replaced."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from sim.foundation.problems import SutureError
from sim.results.run_tables import read_run_tables
from sim.results.store import read_record, read_rows

TAG = "suture.run_id"


def export(study_folder: Path, uri: str) -> int:
    """Export the successful runs of a study.

    Parameters
    ----------
    study_folder : Path
    uri : str
        Of the tracking server or store.

    Returns
    -------
    int
        Number of runs.

    Raises
    ------
    SutureError
        If MLflow is not installed, or the server is not to be reached.
    """
    try:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.exceptions import MlflowException
    except ImportError:
        raise SutureError("export needs MLflow, which is not installed; install suture[mlflow]") from None
    rows = [row for row in read_rows(study_folder, strict=True) if row["status"] == "ok"]
    read = [
        (row, read_record(study_folder, row["run_id"])["spec"], _rounds(study_folder, row["run_id"])) for row in rows
    ]
    try:
        client = MlflowClient(tracking_uri=uri)
        for row, spec, rounds in read:
            experiment = client.get_experiment_by_name(row["study"])
            experiment_id = experiment.experiment_id if experiment else client.create_experiment(row["study"])
            for old in client.search_runs([experiment_id], f"tags.`{TAG}` = '{row['run_id']}'"):
                client.delete_run(old.info.run_id)
            run = client.create_run(experiment_id, run_name=row["run_id"], tags={TAG: row["run_id"]})
            settings = _flat(spec)
            params = [Param(key, str(value)[:6000]) for key, value in settings.items()]
            # MLflow's stores do not all keep infinity: an infinite epsilon is a tag.
            numbers = {k: v for k, v in row.items() if isinstance(v, int | float) and not isinstance(v, bool)}
            finite = {key: float(value) for key, value in numbers.items() if math.isfinite(value)}
            tags = [RunTag(key, str(value)) for key, value in row.items() if key not in finite and value is not None]
            metrics = [Metric(_key(key), value, 0, 0) for key, value in finite.items()]
            client.log_batch(run.info.run_id, metrics, params, tags)
            for chunk in _chunks(rounds, 500):
                client.log_batch(run.info.run_id, [Metric(f"round/{k}", v, 0, step) for k, v, step in chunk])
            client.set_terminated(run.info.run_id)
    except MlflowException as error:
        raise SutureError(f"--mlflow: {error.message}") from None
    return len(rows)


def _rounds(study_folder: Path, run_id: str) -> list[tuple[str, float, int]]:
    table = read_run_tables(study_folder, [run_id], "rounds")
    numbers = table.select_dtypes("number").drop(columns="round")
    return [
        (str(name), float(value), int(step))
        for name in numbers
        for step, value in zip(table["round"], numbers[name], strict=True)
        if math.isfinite(value)
    ]


def _key(name: str) -> str:
    return name.replace(".", "/")


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {k: v for name, item in value.items() for k, v in _flat(item, f"{prefix}{name}.").items()}
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return {k: v for i, item in enumerate(value) for k, v in _flat(item, f"{prefix}{i}.").items()}
    return {prefix.rstrip("."): value}


def _chunks(items: list[Any], size: int) -> list[list[Any]]:
    return [items[i : i + size] for i in range(0, len(items), size)]
