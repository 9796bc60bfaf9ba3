"""The rules of the layout: who may import whom, typed packages, and scenario files that work."""

import csv
import math
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sim.data.folds import runs_of
from sim.foundation.problems import ScenarioError
from sim.scenario import load_scenario
from sim.scenario.spec import expand
from sim.study.planning import plan_runs

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("sim", "strategies", "clients")
SCENARIOS = sorted((ROOT / "scenarios").glob("*.toml"))


def test_imports_keep_to_the_contracts():
    command = Path(sys.executable).with_name("lint-imports")
    if not command.exists():
        pytest.skip("lint-imports is not installed; it comes with the dev extra")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [command, "--no-cache"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


def test_the_floors_are_ten_at_most_and_hold_every_package():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    [floors] = [c["layers"] for c in settings["tool"]["importlinter"]["contracts"] if c["type"] == "layers"]
    assert len(floors) <= 10
    listed = {name for floor in floors for name in re.split(r" [|:] ", floor)}
    packages = {f"sim.{path.parent.name}" for path in (ROOT / "sim").glob("*/__init__.py")}
    assert listed == packages | {"sim.cli", "strategies", "clients"}


def test_every_package_is_typed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    shipped = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    assert sorted(shipped) == sorted([*PACKAGES, "suture_start.py"])
    for package in PACKAGES:
        assert (ROOT / package / "py.typed").is_file(), package
        for folder in {path.parent for path in (ROOT / package).rglob("*.py")}:
            assert (folder / "__init__.py").is_file(), folder


def test_there_are_scenario_files():
    assert "heart" in {path.stem for path in SCENARIOS}


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_bundled_scenarios_load_and_plan(path):
    scenario = load_scenario(path)
    first = [spec for spec in expand(scenario) if spec.seed == scenario.seeds[0]]
    assert len(expand(scenario)) == len(first) * len(scenario.seeds) > 0
    data = getattr(scenario.data, "path", None)
    if data is not None and not data.exists():  # the user brings the file; until then one line says so
        with pytest.raises(ScenarioError) as caught:
            list(plan_runs(first))
        assert caught.value.problems == (f"scenario: data.path: {data} does not exist; check the path",)
        assert data.parent == path.parent
        return
    assert len({spec.run_id for spec in first}) == len(first)
    plans = list(plan_runs(first))
    assert len(plans) == len(first)
    for plan in plans:
        columns = plan.columns()
        assert columns["study"] == scenario.name
        assert (columns["sim_seconds"] > 0) == (plan.spec.strategy.name != "prevalence")
        target = plan.spec.privacy.epsilon
        for clinic in plan.clinics:
            assert clinic.records > 0
            if target is not None and math.isfinite(target):
                of_labels = plan.spec.privacy.mechanism == "label-rr"
                spent = columns["epsilon_label"] if of_labels else clinic.epsilon["model-user"]
                assert spent <= target * (1 + 1e-9)


@pytest.mark.parametrize("study", ["attacks", "privacy", "rural"])
def test_published_runs_have_the_ids_of_their_scenario(study):
    """A key that is new, at the value that changes nothing, changes no id, and so no noise."""
    with (ROOT / "results" / "reference" / study / "runs.csv").open(encoding="utf-8", newline="") as file:
        published = {row["run_id"] for row in csv.DictReader(file)}
    now = {spec.run_id for spec in runs_of(load_scenario(ROOT / "scenarios" / f"{study}.toml"))}
    assert now == published != set()
