"""Execute a run again from nothing but its folder."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from sim.foundation.files import absolute
from sim.foundation.problems import ScenarioError
from sim.results.columns import is_measured
from sim.results.reading import file_bytes
from sim.results.store import RUN_FILE, read_record, read_spec
from sim.scenario.data import DataFile, Loader
from sim.scenario.spec import RunSpec, imports
from sim.study.engines import InProcess
from sim.study.planning import plan_runs
from sim.study.runner import execute_together

NOT_COMPARED = frozenset({"wall_seconds", "study"})


def read_run(folder: Path, *, trust: bool) -> tuple[dict[str, Any], RunSpec]:
    """Return a run's ``run.json`` and its spec.

    Parameters
    ----------
    folder : Path
        The run's.
    trust : bool
        Whether code that the folder names may be imported and run.

    Raises
    ------
    ScenarioError
        If the folder is no run's, another results version made it, it names code without `trust`, or the data is no
        more what it was.
    """
    record = read_record(folder)
    spec = read_spec(record, folder / RUN_FILE)
    if isinstance(spec.data, DataFile) and not isinstance(
        spec.data, Loader
    ):  # in the study's own folder, unless its path is a whole one
        place = absolute(folder.parent, spec.data.path)
        spec = spec.model_copy(update={"data": spec.data.model_copy(update={"path": place})})
    if not trust and (named := [f'{kind} "{path}"' for kind, path in imports(spec, [spec.strategy])]):
        raise ScenarioError(
            [
                f"{folder}: would import and run {' and '.join(named)}, as its {RUN_FILE} says; "
                "if you trust whoever made the folder, add --trust"
            ]
        )
    if spec.run_id != record["row"]["run_id"]:
        raise ScenarioError(
            [f"{folder}: the data or the settings are not those of the run; put the same data file in its place"]
        )
    return record, spec


def differences(folder: Path, *, trust: bool = False) -> list[str]:
    """Execute a run again and compare.

    Parameters
    ----------
    folder : Path
        The run's.
    trust : bool
        Whether code that the folder names may be imported and run.

    Returns
    -------
    list of str
        A line for each metric and file that differs; empty if nothing does. What only attacks that are not registered
        here have measured is not compared.

    Raises
    ------
    ScenarioError
        If the folder is no run's, names code without `trust`, or the data is no more what it was.
    """
    _, spec = read_run(folder, trust=trust)
    [plan] = plan_runs([spec])
    with tempfile.TemporaryDirectory() as scratch:
        list(InProcess().run(partial(execute_together, folder=Path(scratch), origin={}), [[plan]]))
        again = Path(scratch) / spec.run_id
        ours, theirs = (read_record(place)["row"] for place in (folder, again))
        lines = [
            f"{name}: {ours.get(name)} in the folder, {theirs.get(name)} now"
            for name in sorted({*ours, *theirs} - NOT_COMPARED)
            if ours.get(name) != theirs.get(name) and not (is_measured(name) and name not in theirs)
        ]
        for file in sorted(folder.glob("*.safetensors")):
            if file_bytes(again, file.name) != file_bytes(folder, file.name):
                lines.append(f"{file.name}: the weights differ")
    return lines
