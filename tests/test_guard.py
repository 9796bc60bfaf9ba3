"""``import sim`` refuses foreign packages of the same names as Suture's, and pulls in nothing heavy."""

import os
import subprocess
import sys
import sysconfig
import venv
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
    assert last.startswith(f"suture_start.ForeignPackageError: Suture needs its own package '{name}' from {ROOT}")
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
    for own in ("sim/__init__.py", "suture_start.py"):
        (alone / own).write_bytes((ROOT / own).read_bytes())
    code = f"import sys; sys.path.insert(0, {str(alone)!r}); import sim"
    bare = [sys.executable, "-I", "-S", "-c", code]  # the standard library only
    done = subprocess.run(bare, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"Suture needs its own package '{name}' from {alone}, but Python finds it at nowhere;" in done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Lay out an environment in which Suture is installed as pip does it, editable or from a wheel."""

    def make(kind):
        home = tmp_path_factory.mktemp(kind)
        venv.create(home, symlinks=True, with_pip=False)
        site = next(home.glob("lib/python*/site-packages"))
        (site / "suture_start.pth").write_bytes((ROOT / "suture_start.pth").read_bytes())
        if kind == "editable":
            (site / "_suture.pth").write_text(f"{ROOT}\n", encoding="utf-8")
        else:
            (site / "suture_start.py").write_bytes((ROOT / "suture_start.py").read_bytes())
            for name in ("sim", "strategies", "clients"):
                (site / name).symlink_to(ROOT / name)
        (site / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
        script = "import sys\nfrom suture_start import main\nsys.exit(main())\n"
        (home / "bin" / "suture").write_text(f"#!{home / 'bin' / 'python'}\n{script}", encoding="utf-8")
        (home / "bin" / "suture").chmod(0o755)
        return home / "bin"

    return {kind: make(kind) for kind in ("editable", "wheel")}


def started(command, folder, **environment):
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        command, cwd=folder, env=kept | environment, capture_output=True, text=True, timeout=60, check=False
    )


STARTS = {
    "from sim import run": ["python", "-c", "from sim import run"],
    "import sim": ["python", "-c", "import sim"],
    "a module of it": ["python", "-c", "from sim.scenario import load_scenario"],
    "strategies first": ["python", "-c", "import strategies, sim"],
    "clients first": ["python", "-c", "import clients; from sim import run"],
    "-m": ["python", "-m", "sim.cli", "--help"],
    "a script beside it": ["python", "study.py"],
    "the file itself": ["python", "sim.py"],
    "command": ["suture", "--help"],
}


@pytest.mark.parametrize("kind", ["editable", "wheel"])
@pytest.mark.parametrize(
    ("name", "start"),
    [(name, start) for name in ("strategies", "clients") for start in STARTS if start != "the file itself"]
    + [("sim", start) for start in STARTS],
)
def test_a_file_beside_the_scenario_is_named_however_suture_is_started(tmp_path, installed, kind, name, start):
    place = tmp_path / f"{name}.py"
    place.write_text("from sim import run\n" if name == "sim" else "", encoding="utf-8")
    (tmp_path / "study.py").write_text("from sim import run\n", encoding="utf-8")
    program, *rest = STARTS[start]
    more = {"PYTHONPATH": "."} if start == "command" else {}
    done = started([installed[kind] / program, *rest], tmp_path, **more)
    assert done.returncode != 0
    assert f"Suture needs its own package '{name}'" in done.stderr
    assert f"Python finds it at {place};" in done.stderr
    if start == "command":
        assert (done.returncode, done.stderr.count("\n"), done.stdout) == (2, 1, "")


@pytest.mark.parametrize("kind", ["editable", "wheel"])
def test_other_programs_of_the_environment_notice_nothing(tmp_path, installed, kind):
    for name in ("strategies", "clients", "suture"):
        (tmp_path / f"{name}.py").write_text(f"print({name!r})\n", encoding="utf-8")
    code = "import sys; loaded = set(sys.modules); import strategies, clients, suture; print('torch' in loaded)"
    done = started([installed[kind] / "python", "-c", code], tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "strategies\nclients\nsuture\nFalse\n", "")


@pytest.mark.slow
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
