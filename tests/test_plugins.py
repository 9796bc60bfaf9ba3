"""Data sources, clinic profiles and models of a user's own: by import path, and by a registered name."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from support import call_suture

from sim import run
from sim.foundation import plugins
from sim.foundation.problems import ScenarioError
from sim.scenario import parse_scenario
from sim.scenario.clinics import assign_resources
from sim.scenario.spec import expand, imports

DOCS = Path(__file__).resolve().parents[1] / "docs"
OWN = """
import numpy as np
import pandas as pd

def load(records=60, scale=1.0):
    random = np.random.default_rng(0)
    y = np.arange(records) % 2
    x = scale * y + random.normal(size=records).round(3)
    return pd.DataFrame({"site": np.arange(records) % 3, "y": y, "x": x})

def images(n=20):
    return {"x": np.zeros((n, 1, 6, 6), np.uint8), "y": np.arange(n) % 2, "clinic": np.arange(n) // 2 % 2}

def broken():
    raise RuntimeError("patient 17 is 43 years old")

def in_a_library():
    return load()["age"]

def nothing():
    return 7

LINE = {"uplink": "2 Mbit/s", "downlink": "20 Mbit/s", "latency": "120 ms", "compute": "10 GFLOP/s"}
SHORT = {"uplink": "2 Mbit/s"}
ODD = {"uplink": "2 parsecs", "downlink": "1 Mbit/s", "latency": "1 ms", "compute": "laptop"}
LIST = [1]
FAST = {"uplink": "2 Mbit/s", "downlink": "1 Mbit/s", "latencies": "1 ms", "compute": "laptop"}

def build(shape, outputs):
    from torch import nn
    return [("first", nn.Sequential(nn.Linear(shape[0], 4), nn.Tanh())), ("output", nn.Linear(4, outputs))]
"""
CHANGED = OWN + "# changed\n"


@pytest.fixture
def module(tmp_path, monkeypatch, request):
    """Write a module of a name of its own on the import path; return its name."""
    name = f"own_{abs(hash(request.node.nodeid)):x}"
    (tmp_path / f"{name}.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.fixture
def installed(module, tmp_path):
    """Install a distribution that registers the module's parts; return the module's name."""
    info = tmp_path / f"{module}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1\n", encoding="utf-8")
    parts = {"sources": "wards = {}:load", "profiles": "island = {}:LINE", "models": "tanh = {}:build"}
    text = "".join(f"[suture.{group}]\n{entry.format(module)}\n" for group, entry in parts.items())
    (info / "entry_points.txt").write_text(text, encoding="utf-8")
    plugins.registered.cache_clear()
    plugins.loaded.cache_clear()
    yield module
    plugins.registered.cache_clear()
    plugins.loaded.cache_clear()


def scenario(path, profile="hospital", factory=None, **data):
    return {
        "name": "own",
        "seeds": [0],
        "data": {"source": "loader", "path": path, "label": "y", "clinic": "site", "scaling": "none", **data},
        "model": {"name": "factory", "factory": factory} if factory else {"name": "mlp", "hidden": [4]},
        "train": {"rounds": 2, "batch-size": 8, "learning-rate": 0.1},
        "evaluation": {"reference": False},
        "clinics": [{"profile": profile}],
        "strategies": [{"name": "fedavg"}],
    }


@pytest.mark.slow
@pytest.mark.parametrize("page", ["own-data-source", "own-clinic-profile"])
def test_a_page_runs_as_it_is_written(tmp_path, page):
    [block] = re.findall(r"^```sh\n(.*?)^```", (DOCS / f"{page}.md").read_text(encoding="utf-8"), re.M | re.S)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],  # noqa: S607
        cwd=tmp_path,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_run_on_a_loader_is_that_on_its_frame(module, tmp_path):
    ours = run(scenario(f"{module}:load", options={"records": 90}), tmp_path / "loader", progress=False).runs
    assert not list(tmp_path.rglob("*.csv")), "nothing that outlives the process"
    frame = importlib.import_module(module).load(records=90)
    columns = {"label": "y", "clinic": "site", "scaling": "none"}
    theirs = run(scenario("") | {"data": columns}, tmp_path / "frame", data=frame, progress=False).runs
    apart = ["run_id", "study", "wall_seconds"]
    pd.testing.assert_frame_equal(ours.drop(columns=apart), theirs.drop(columns=apart), check_exact=True)


@pytest.mark.slow
def test_workers_call_the_loader_themselves(module, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    written = scenario(f"{module}:load") | {"seeds": [0, 1]}
    one, two = (run(written, tmp_path / str(jobs), jobs=jobs, progress=False).runs for jobs in (1, 2))
    pd.testing.assert_frame_equal(one.drop(columns="wall_seconds"), two.drop(columns="wall_seconds"))


def test_images_of_a_loader(module, tmp_path):
    data = {"source": "loader", "path": f"{module}:images", "label": "y", "clinic": "clinic"}
    written = scenario("") | {"data": data, "model": {"name": "cnn", "channels": [2, 2], "hidden": [3]}}
    assert run(written, tmp_path, progress=False).ok
    with pytest.raises(ScenarioError, match=r"data\.ranges: has no effect on arrays"):
        run(written | {"data": data | {"ranges": {"x": [0, 1]}}}, tmp_path)


def run_id(written):
    [spec] = expand(parse_scenario(written, Path()))
    return spec.run_id


def test_code_and_records_belong_to_a_runs_id(module, tmp_path):
    assert run_id(scenario(f"{module}:load", options={"scale": 2.0})) != run_id(scenario(f"{module}:load"))
    made = scenario("") | {"data": {"source": "synthetic", "clinics": 2, "records": 40}}
    each = [
        scenario(f"{module}:load"),
        made | {"clinics": [{"profile": f"{module}:LINE"}]},
        made | {"clinics": [{"profile": {"hospital": 0.5, f"{module}:LINE": 0.5}}]},
        made | {"model": {"name": "factory", "factory": f"{module}:build"}},
    ]
    before = [run_id(own) for own in each]
    assert [run_id(own) for own in each] == before
    (tmp_path / f"{module}.py").write_text(CHANGED, encoding="utf-8")
    assert set(before).isdisjoint(run_id(own) for own in each)


def test_registered_names_are_known_hashed_and_need_no_trust(installed, tmp_path, suture):
    written = scenario("wards", profile="island", factory="tanh")
    study = run(written, tmp_path / "out", progress=False)
    checked = parse_scenario(written, tmp_path)
    assert imports(checked, checked.strategies) == []
    by_path = scenario(f"{installed}:load", profile=f"{installed}:LINE", factory=f"{installed}:build")
    same = run(by_path, tmp_path / "path", progress=False).runs
    assert same[["auc", "sim_seconds"]].equals(study.runs[["auc", "sim_seconds"]])
    folder = study.folder / study.runs["run_id"][0]
    assert suture("rerun", folder)[0] == 0
    for part in ({"path": "wards"}, {"path": f"{installed}:load", "profile": "island"}):
        before = run_id(scenario(**part))
        (tmp_path / f"{installed}.py").write_text(CHANGED, encoding="utf-8")
        assert run_id(scenario(**part)) != before
        (tmp_path / f"{installed}.py").write_text(OWN, encoding="utf-8")
    with pytest.raises(ScenarioError, match='did you mean "wards"'):
        parse_scenario(scenario("ward"), tmp_path)


def test_a_folder_runs_no_code_that_it_names_without_trust(module, tmp_path, suture):
    study = run(scenario(f"{module}:load", profile=f"{module}:LINE"), tmp_path / "out", progress=False)
    folder = study.folder / study.runs["run_id"][0]
    code, _, err = suture("rerun", folder)
    assert code == 2
    assert "loader" in err
    assert "profile" in err
    assert suture("rerun", folder, "--trust")[0] == 0
    assert call_suture("verify", folder) == 0


def test_a_profile_of_ones_own_has_its_rates(module):
    mixed = {"hospital": 0.5, f"{module}:LINE": 0.5}
    checked = parse_scenario(scenario("a:b") | {"clinics": [{"profile": mixed, "uplink": "3 Mbit/s"}]}, Path())
    found = assign_resources(checked.clinics, ["a", "b"], 0)
    assert sorted(own.downlink_bits_per_s for own in found) == [20e6, 1e9]
    assert {own.uplink_bits_per_s for own in found} == {3e6}
    [own] = [own for own in found if own.downlink_bits_per_s == 20e6]
    assert (own.latency_s, own.compute_flop_per_s, own.memory_bytes) == (0.12, 1e10, None)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"path": "{0}:absent"}, 'cannot be imported: {0} has no "absent"; check the path'),
        (
            {"path": "nowhere:load"},
            'cannot be imported: there is no module "nowhere"; install it, or put its folder into PYTHONPATH',
        ),
        ({"path": "{0}:broken"}, "failed: RuntimeError at"),
        ({"path": "{0}:in_a_library"}, "failed: KeyError at {0}.py:"),
        ({"path": "{0}:nothing"}, "is of type int"),
        ({"path": "wards.csv"}, "is no loader; give an import path"),
        ({"options": {"patients": 3}}, "cannot be called with data.options; give the arguments that it takes"),
        ({"label": "died"}, 'there is no column "died"'),
        ({"profile": "{0}:SHORT"}, "downlink, latency, compute not given"),
        ({"profile": "{0}:ODD"}, "parsecs"),
        ({"profile": "{0}:FAST"}, 'unknown key "latencies"; did you mean "latency"?'),
        ({"profile": "{0}:LIST"}, "is no mapping of uplink"),
        ({"profile": "{0}:absent"}, "cannot be imported"),
        ({"profile": "hospitals"}, 'did you mean "hospital"?'),
        ({"factory": "tanh"}, "is no import path"),
    ],
)
def test_a_mistake_is_one_line(module, tmp_path, change, told):
    filled = {key: value.format(module) if isinstance(value, str) else value for key, value in change.items()}
    with pytest.raises(ScenarioError) as caught:
        run(scenario(**{"path": f"{module}:load"} | filled), tmp_path)
    [line] = caught.value.problems
    assert told.format(module) in line
    assert "years" not in line
