"""Learn a run again from nothing but its folder."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sim.problems import ScenarioError
from sim.spec import RunSpec
from sim.study.engines import InProcess
from sim.study.runner import execute, plan_runs
from sim.study.store import from_plain, read_record

NOT_COMPARED = frozenset({"wall_seconds", "study"})


def read_spec(record: dict[str, Any]) -> RunSpec:
    """Return the spec of a run from its ``run.json``.

    Raises
    ------
    ScenarioError
        If it cannot be read.
    """
    try:
        return RunSpec.model_validate_json(json.dumps(from_plain(record["spec"])), by_alias=True, by_name=False)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise ScenarioError([f"run.json: spec.{place}: cannot be read; restore the file, or run again"]) from None


def read_run(folder: Path) -> tuple[dict[str, Any], RunSpec]:
    """Return a run's ``run.json`` and its spec.

    Raises
    ------
    ScenarioError
        If the folder is no run's, another results version made it, or the data is no more what it was.
    """
    record = read_record(folder)
    spec = read_spec(record)
    if spec.run_id != record["row"]["run_id"]:
        raise ScenarioError(
            [f"{folder}: the data or the settings are not those of the run; put the same data file in its place"]
        )
    return record, spec


def differences(folder: Path) -> list[str]:
    """Learn a run again and compare.

    Parameters
    ----------
    folder : Path
        The run's.

    Returns
    -------
    list of str
        A line for each metric and file that differs; empty if nothing does.

    Raises
    ------
    ScenarioError
        If the folder is no run's, or the data is no more what it was.
    """
    _, spec = read_run(folder)
    [plan] = plan_runs([spec])
    with tempfile.TemporaryDirectory() as scratch:
        [_] = InProcess().run(lambda p: execute(p, Path(scratch), {}), [plan])
        again = Path(scratch) / spec.run_id
        ours, theirs = (read_record(place)["row"] for place in (folder, again))
        lines = [
            f"{name}: {ours.get(name)} in the folder, {theirs.get(name)} now"
            for name in sorted({*ours, *theirs} - NOT_COMPARED)
            if ours.get(name) != theirs.get(name)
        ]
        for file in sorted(folder.glob("*.safetensors")):
            if not (again / file.name).is_file() or (again / file.name).read_bytes() != file.read_bytes():
                lines.append(f"{file.name}: the weights differ")
    return lines
