"""``import sim`` refuses foreign packages of the same names as Suture's, and pulls in nothing heavy."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def python(code, *first, folder):
    """Run code in a fresh interpreter that searches these folders first, and then Suture's own."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [*first, ROOT]))}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


def package(folder, name, content=""):
    """Make a package that leaves a trace when it is imported."""
    place = folder / name
    place.mkdir(parents=True)
    (place / "__init__.py").write_text(f"print('imported {name}')\n{content}", encoding="utf-8")
    return place


@pytest.mark.parametrize("name", ["strategies", "clients"])
@pytest.mark.parametrize("kind", ["package", "module"])
@pytest.mark.parametrize("entry", ["sim", "sim.cli", "sim.scenario"])
def test_refuses_a_foreign_package_by_name_and_place(tmp_path, name, kind, entry):
    foreign = tmp_path / "foreign"
    if kind == "package":
        place = package(foreign, name)
    else:
        foreign.mkdir()
        place = foreign / f"{name}.py"
        place.write_text(f"print('imported {name}')\n", encoding="utf-8")
    done = python(f"import {entry}", foreign, folder=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""  # the intruder was found, not run
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: Suture needs its own package '{name}' from {ROOT}")
    assert f"Python finds it at {place};" in last
    assert "rename or move that package" in last


@pytest.mark.parametrize("name", ["strategies", "clients"])
def test_refuses_a_foreign_package_that_was_imported_before(tmp_path, name):
    foreign = tmp_path / "foreign"
    place = package(foreign, name)
    code = f"import sys; sys.path.insert(0, {str(foreign)!r}); import {name}; sys.path.pop(0); import sim"
    done = python(code, folder=tmp_path)
    assert done.returncode == 1
    assert f"Python finds it at {place};" in done.stderr


@pytest.mark.parametrize("name", ["strategies", "clients"])
def test_refuses_when_its_own_package_is_absent(tmp_path, name):
    """A copy of ``sim`` without its companions says which one is missing."""
    alone = tmp_path / "alone"
    alone.mkdir()
    for own in {"sim", "strategies", "clients"} - {name}:
        (alone / own).mkdir()
        (alone / own / "__init__.py").touch()
    (alone / "sim" / "__init__.py").write_bytes((ROOT / "sim" / "__init__.py").read_bytes())
    code = f"import sys; sys.path.insert(0, {str(alone)!r}); import sim"
    bare = [sys.executable, "-I", "-S", "-c", code]  # the standard library only
    done = subprocess.run(bare, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"Suture needs its own package '{name}' from {alone}, but Python finds it at nowhere;" in done.stderr


def test_works_where_the_names_are_its_own(tmp_path):
    done = python("from sim import Scenario, run; import strategies, clients; print(run.__name__)", folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "run\n", "")


def test_other_names_and_later_places_do_not_matter(tmp_path):
    package(tmp_path / "before", "strategy")
    package(tmp_path / "after", "strategies")
    package(tmp_path / "after", "clients")
    code = f"import sys; sys.path.append({str(tmp_path / 'after')!r}); import sim; print('ok')"
    done = python(code, tmp_path / "before", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "ok\n")


def test_an_empty_folder_of_that_name_does_not_matter(tmp_path):
    (tmp_path / "clients").mkdir()  # no package: Python goes on to the one that is
    done = python("import sim; print('ok')", tmp_path, folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "ok\n")


def test_unknown_names_are_ordinary_errors(tmp_path):
    done = python("import sim; sim.nothing", folder=tmp_path)
    assert "AttributeError: module 'sim' has no attribute 'nothing'" in done.stderr


HEAVY = ("torch", "flwr", "pandas", "opacus", "dp_accounting", "altair", "scipy", "ray")
LOADED = f"print('heavy:', [name for name in {HEAVY} if name in sys.modules])"


def test_import_sim_is_light(tmp_path):
    done = python(f"import sys, sim; {LOADED}", folder=tmp_path)
    assert done.stdout == "heavy: []\n"


@pytest.mark.parametrize("arguments", [["--help"], ["plan", "--help"], ["run", "--help"], []], ids=" ".join)
def test_help_is_light(tmp_path, arguments):
    code = f"""
import sys
sys.argv = ["suture", *{arguments}]
from sim.cli import main
try:
    main()
except SystemExit:
    {LOADED}
"""
    done = python(code, folder=tmp_path)
    assert "Usage: suture" in done.stdout + done.stderr
    assert done.stdout.endswith("heavy: []\n")


def test_a_wrong_key_is_told_before_anything_heavy_is_loaded(tmp_path):
    (tmp_path / "bad.toml").write_text("name = 'bad'\nseeds = [0]\n", encoding="utf-8")
    code = f"""
import sys
from sim.scenario import load_scenario
try:
    load_scenario("bad.toml")
except ValueError:
    {LOADED}
"""
    done = python(code, folder=tmp_path)
    assert done.stdout == "heavy: []\n"
