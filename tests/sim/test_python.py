"""The door for Python: scenarios and data in memory, and results as frames and figures."""

import json
import re
import shutil
import sys
import tomllib
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from support import STUDY, TRADE_OFF, call_suture, write_csv
from torch.utils.data import TensorDataset

from sim import Scenario, Study, run
from sim.foundation.problems import ScenarioError
from sim.scenario import load_scenario, parse_scenario
from sim.scenario.in_memory import in_memory
from sim.study import runner
from sim.study.train import DivergedError

DOCS = Path(__file__).resolve().parents[2] / "docs"
PRIVATE = """
name = "small"
seeds = [0, 1]
data = { label = "label", clinic = "clinic", scaling = "none" }
model = { name = "mlp", hidden = [6, 5] }
train = { rounds = 3, batch-size = 8, learning-rate = 0.1 }
privacy = { mechanism = "dp-sgd", noise-multiplier = 1.0, delta = 1e-3 }
evaluation = { reference = false }
strategies = [{ name = "fedavg" }, { name = "splitfed-v1" }]
"""
WAYS = ("path", "dict", "Scenario")


def tables(text=PRIVATE):
    return tomllib.loads(text)


def given(way, text, folder):
    """Give a scenario in one of the ways in which it may be given."""
    path = folder / "given.toml"
    path.write_text(text, encoding="utf-8")
    return {"path": path, "dict": tables(text), "Scenario": text and parse_scenario_of(text, folder)}[way]


def parse_scenario_of(text, folder):
    whole = tables(text)
    whole["data"].setdefault("source", "csv")
    whole["data"].setdefault("path", "nowhere.csv")
    return parse_scenario(whole, folder)


def weights(folder):
    return {path.parent.name: load_file(path) for path in folder.glob("*/model.safetensors")}


def assert_same_runs(ours, theirs):
    """Hold two studies' folders equal bit for bit: ids, rows and weights."""
    one, other = (Study(folder).runs.drop(columns="wall_seconds") for folder in (ours, theirs))
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    ours, theirs = weights(ours), weights(theirs)
    assert ours.keys() == theirs.keys()
    for run_id, model in ours.items():
        assert all(torch.equal(value, theirs[run_id][name]) for name, value in model.items())


@pytest.fixture(scope="module")
def csv_study(tmp_path_factory):
    """Run a study with noise on a file, by command; return the frame and the study's folder."""
    folder = tmp_path_factory.mktemp("csv")
    frame = pd.read_csv(write_csv(folder / "made.csv"))
    frame.to_csv(folder / "clinics.csv", index=False)
    text = PRIVATE.replace("{ label", '{ source = "csv", path = "clinics.csv", label', 1)
    (folder / "small.toml").write_text(text, encoding="utf-8")
    run(folder / "small.toml", folder / "out")
    return frame, folder / "out" / "small"


@pytest.mark.parametrize("way", WAYS)
def test_a_run_on_a_frame_is_the_run_on_its_file_bit_for_bit(csv_study, tmp_path, way):
    frame, theirs = csv_study
    study = run(given(way, PRIVATE, tmp_path), tmp_path / "out", data=frame, progress=False)
    assert study.ok
    assert_same_runs(study.folder, theirs)


@pytest.mark.slow
def test_workers_get_data_in_memory_too(csv_study, tmp_path):
    frame, theirs = csv_study
    study = run(tables(), tmp_path / "out", jobs=2, data=frame)
    assert_same_runs(study.folder, theirs)


def test_a_cell_that_changes_makes_other_runs(csv_study, tmp_path):
    frame, theirs = csv_study
    changed = frame.copy()
    changed.loc[3, "x0"] += 1e-6
    study = run(tables(), tmp_path / "out", data=changed, progress=False)
    assert set(study.runs["run_id"]).isdisjoint(Study(theirs).runs["run_id"])


def test_finished_runs_on_a_frame_are_not_repeated(csv_study, tmp_path, monkeypatch):
    frame, _ = csv_study
    first = run(tables(), tmp_path / "out", data=frame, progress=False).runs
    monkeypatch.setattr("sim.study.runner.train_run", lambda *_, **__: pytest.fail("trained again"))
    pd.testing.assert_frame_equal(run(tables(), tmp_path / "out", data=frame, progress=False).runs, first)


def test_records_name_no_machine_and_the_folder_can_move(csv_study, tmp_path):
    frame, _ = csv_study
    study = run(tables(), tmp_path / "out", data=frame, only="fedavg", set={"seeds": [0]}, progress=False)
    for path in study.folder.rglob("*.json*"):
        assert str(tmp_path) not in path.read_text(encoding="utf-8"), path
    [record] = study.folder.glob("*/run.json")
    kept = json.loads(record.read_text(encoding="utf-8"))["spec"]["data"]["path"]
    assert kept.startswith("data/")
    assert kept.endswith(".csv")
    assert (study.folder / kept).is_file()
    assert [path.suffix for path in (study.folder / "data").iterdir()] == [".csv"], "nothing else, and no pickle"
    moved = study.folder.rename(tmp_path / "elsewhere")
    assert call_suture("rerun", moved / record.parent.name) == 0
    assert call_suture("verify", moved / record.parent.name) == 0


# Arrays and Datasets

ARRAYS = """
name = "arrays"
seeds = [0]
data = { scaling = "none" }
model = { name = "mlp", hidden = [4] }
train = { rounds = 2, batch-size = 8, learning-rate = 0.1 }
evaluation = { reference = false }
strategies = [{ name = "fedavg" }]
"""


def test_arrays_of_two_axes_are_a_table(csv_study, tmp_path):
    frame, _ = csv_study
    x = frame[["x0", "x1", "x2", "x3"]].to_numpy()
    data = {"x": x, "y": frame["label"].to_numpy(), "clinic": frame["clinic"].tolist()}
    ours = run(tables(ARRAYS), tmp_path / "arrays", data=data, progress=False)
    same = frame.rename(columns={"label": "y"})[["y", "clinic", "x0", "x1", "x2", "x3"]]
    named = {"data.label": "y", "data.clinic": "clinic"}
    theirs = run(tables(ARRAYS), tmp_path / "frame", data=same, set=named, progress=False)
    assert_same_runs(ours.folder, theirs.folder)
    by_clinic = {
        name: TensorDataset(torch.tensor(own[["x0", "x1", "x2", "x3"]].to_numpy()), torch.tensor(codes))
        for name, own in frame.groupby("clinic")
        for codes in [own["label"].str.removeprefix("class").astype(int).to_numpy()]
    }
    coded = {**data, "y": frame["label"].str.removeprefix("class").astype(int)}
    ours = run(tables(ARRAYS), tmp_path / "datasets", data=by_clinic, progress=False)
    theirs = run(tables(ARRAYS), tmp_path / "coded", data=coded, progress=False)
    assert_same_runs(ours.folder, theirs.folder)


def test_images_of_datasets_are_the_archive_that_holds_them(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (24, 1, 8, 8), dtype=np.uint8), np.arange(24) % 2
    clinic = np.repeat(["a", "b"], 12)
    np.savez(tmp_path / "images.npz", x=x, y=y, clinic=clinic)
    whole = tables(ARRAYS) | {"data": {}, "model": {"name": "cnn", "channels": [2, 2], "hidden": [4]}}
    named = {"source": "npz", "path": "images.npz", "x": "x", "label": "y", "clinic": "clinic"}
    theirs = run(parse_scenario(whole | {"data": named}, tmp_path), tmp_path / "file", progress=False)
    data = {
        name: TensorDataset(torch.tensor(x[clinic == name]), torch.tensor(y[clinic == name])) for name in ("a", "b")
    }
    ours = run(whole, tmp_path / "memory", data=data, progress=False)
    assert_same_runs(ours.folder, theirs.folder)


class Uneven(torch.utils.data.Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, number):
        return np.zeros(number + 1), 0


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (7, ["data: is of type int"]),
        ({}, ["data: is of type dict"]),
        (
            {"x": np.zeros((4, 2)), "y": [0, 1, 0], "clinics": [0] * 4},
            ['there is no "clinics"', '"y" has shape [3] for 4 records'],
        ),
        ({"x": np.zeros((4, 2))}, ['"y" is missing']),
        ({"x": np.zeros(4), "y": [0] * 4}, ['"x" has shape [4]']),
        ({"x": np.zeros((2, 2)), "y": [object(), object()]}, ['"y" holds neither numbers nor text']),
        ({"x": [[1, 2], [3]], "y": [0, 1]}, ['"x" has records of different sizes']),
        ({"north": Uneven(), "south": 3}, ['clinic "north": record 1 has shape [2]', 'clinic "south": is of type int']),
        ({"north": TensorDataset(torch.zeros(3, 2))}, ['clinic "north": item 0 is no pair']),
    ],
)
def test_data_that_cannot_be_used_are_one_line_each(tmp_path, data, lines):
    with pytest.raises(ScenarioError) as caught:
        run(tables(ARRAYS), tmp_path, data=data)
    assert len(caught.value.problems) == len(lines)
    for told, said in zip(caught.value.problems, lines, strict=True):
        assert said in told
    assert not any(tmp_path.iterdir())


def test_a_link_in_the_place_of_the_data_is_not_followed(tmp_path):
    records = in_memory(pd.DataFrame({"label": [0, 1], "clinic": ["a", "b"]}))
    elsewhere, folder = tmp_path / "diary.txt", tmp_path / "data"
    elsewhere.write_text("mine", encoding="utf-8")
    folder.mkdir()
    (folder / records.name).symlink_to(elsewhere)
    kept = records.keep(folder)
    assert elsewhere.read_text(encoding="utf-8") == "mine"
    assert kept.read_bytes() == records.content
    assert not kept.is_symlink()


@pytest.mark.parametrize("names", [(1, "1"), ("north", " north")])
def test_two_clinics_never_become_one(names):
    dataset = TensorDataset(torch.ones(3, 2), torch.tensor([0, 1, 0]))
    with pytest.raises(ScenarioError, match="two clinics are called"):
        in_memory(dict.fromkeys(names, dataset))


def test_what_is_wrong_with_a_frame_is_told_as_of_a_file(csv_study, tmp_path):
    frame, _ = csv_study
    wrong = frame.assign(x0=["seven", *frame["x0"][1:]], x2=[np.nan, *frame["x2"][1:]])
    with pytest.raises(ScenarioError) as caught:
        run(tables(), tmp_path, data=wrong)
    assert any('column "x0" has no number in row 2' in line for line in caught.value.problems)
    assert any('column "x2" has a missing value in row 2' in line for line in caught.value.problems)


# What is set and picked


def test_set_and_only_are_those_of_the_command(tmp_path):
    write_csv(tmp_path / "clinics.csv")
    (tmp_path / "small.toml").write_text(TRADE_OFF, encoding="utf-8")
    settings = ["train.rounds=1", "seeds=[3]", "privacy.epsilon=2.0", "model.hidden=[3, 2]"]
    asked = [word for setting in settings for word in ("--set", setting)]
    assert call_suture("run", tmp_path / "small.toml", "--out", tmp_path / "shell", "--only", "fedavg", *asked) == 0
    values = {"train.rounds": np.int64(1), "seeds": (3,), "privacy.epsilon": 2.0, "model.hidden": [3, 2]}
    ours = run(tmp_path / "small.toml", tmp_path / "python", set=values, only="fedavg", progress=False)
    assert len(ours.runs) == 1
    assert_same_runs(ours.folder, tmp_path / "shell" / "small")


def test_a_dict_may_hold_what_python_does(csv_study, tmp_path):
    frame, theirs = csv_study
    whole = tables()
    whole["train"] |= {"rounds": np.int64(3), "learning-rate": np.float64(0.1)}
    whole |= {"seeds": (np.int64(0), 1), "strategies": tuple(whole["strategies"])}
    assert_same_runs(run(whole, tmp_path, data=frame, progress=False).folder, theirs)


@pytest.mark.parametrize("way", WAYS)
def test_what_cannot_be_set_or_picked_is_a_line_each(tmp_path, way):
    scenario = given(way, PRIVATE, tmp_path)
    with pytest.raises(ScenarioError) as caught:
        run(scenario, tmp_path, set={"train.round": 1, "model.name.x": 2}, only=["fedprox"])
    text = str(caught.value)
    for told in ("train.round", "model.name.x: there is no table", '"fedprox" is not listed'):
        assert told in text


@pytest.mark.parametrize("path", sorted((DOCS.parent / "scenarios").glob("*.toml")), ids=lambda path: path.stem)
def test_a_scenario_that_is_taken_apart_is_the_same_again(path):
    scenario = load_scenario(path)
    tables = scenario.model_dump(mode="json", exclude_unset=True)
    again = parse_scenario(tables, Path())
    assert again == scenario
    assert again.privacy.model_fields_set == scenario.privacy.model_fields_set
    assert isinstance(again, Scenario)


# Results


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("done")
    write_csv(folder / "clinics.csv")
    text = (
        STUDY.replace("rounds = 10", "rounds = 2")
        + '[tune]\nvalidation-share = 0.3\n"train.learning-rate" = [0.1, 0.3]\n'
    )
    text += '[[attacks]]\nname = "rmia"\noptions = { shadows = 2, rounds = 2 }\n'
    (folder / "small.toml").write_text(text, encoding="utf-8")
    return run(folder / "small.toml", folder / "out", only=["fedavg", "splitfed-v1"], progress=False)


def test_results_are_frames(done):
    assert len(done.runs) == len(done.runs["run_id"].unique()) == 8
    assert set(done.rounds["round"]) == {0, 1, 2}
    assert set(done.clinics["name"]) == {"k0", "k1", "k2", "k3"}
    assert len(done.trials) == 16
    assert set(done.predictions["run_id"]) == set(done.runs["run_id"])
    assert isinstance(done.attacks, pd.DataFrame)


def test_a_notebook_shows_table_and_figures(done):
    page = done._repr_html_()
    assert "FedAvg" in page
    bundle = done.figures["privacy_accuracy"]._repr_mimebundle_()
    assert bundle["application/vnd.vegalite.v6+json"]["$schema"].endswith("v6.json")
    assert bundle["image/png"].startswith(b"\x89PNG")
    alt = pytest.importorskip("altair")
    assert alt.Chart.from_dict(done.figures["learning"].spec).to_dict()["$schema"].endswith("v6.json")


def test_a_notebook_gets_no_markup_from_data(csv_study, tmp_path):
    frame, _ = csv_study
    whole = tables() | {"strategies": [{"name": "fedavg", "label": "<b>own</b>"}], "seeds": [0]}
    page = run(whole, tmp_path, data=frame, progress=False)._repr_html_()
    assert "&lt;b&gt;own&lt;/b&gt;" in page
    assert "<b>" not in page


@pytest.mark.usefixtures("no_vega")
def test_a_report_is_written_and_a_study_opened_again(done, tmp_path):
    path = done.report(figures=True)
    assert path == done.folder / "report.html"
    assert (done.folder / "figures" / "privacy_accuracy.svg").is_file()
    again = Study(done.folder)
    pd.testing.assert_frame_equal(again.runs, done.runs)
    assert again.figures.keys() <= done.figures.keys()
    done.figures["learning"].save(tmp_path / "learning.svg")
    assert (tmp_path / "learning.svg").read_text(encoding="utf-8").startswith("<svg")


class Cell:
    """A notebook's cell: what is displayed, each with what it was changed into."""

    def __init__(self):
        self.shown = []

    def display(self, bundle, *, raw, display_id=False):
        assert raw
        self.shown.append([bundle["text/plain"]])
        return Handle(self.shown[-1]) if display_id else None


class Handle:
    def __init__(self, shown):
        self.shown = shown

    def update(self, bundle, *, raw):
        assert raw
        self.shown.append(bundle["text/plain"])


def test_a_notebook_shows_how_far_it_is_in_one_line_and_failed_runs_in_others(csv_study, tmp_path, monkeypatch):
    cell, display = Cell(), types.ModuleType("IPython.display")
    display.display = cell.display
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    frame, _ = csv_study
    real = runner.train_run

    def sometimes(plan, *arguments, **ways):
        if plan.spec.strategy.name == "fedavg":
            raise DivergedError("the model diverged")
        return real(plan, *arguments, **ways)

    monkeypatch.setattr(runner, "train_run", sometimes)
    study = run(tables() | {"seeds": [0]}, tmp_path, data=frame)
    line, *failed = cell.shown
    assert line[0] == "planned"
    assert line[1].startswith("0 of 2 runs, about ")
    assert line[-1] == "2 of 2 runs, about 0 left"
    assert not study.ok
    [[told]] = failed
    assert told.endswith("fedavg seed 0: DivergedError: the model diverged")
    assert "SplitFed V1" in study._repr_html_()


def test_the_page_runs_as_it_is_written(tmp_path, monkeypatch, capsys, no_vega):
    shutil.copy(DOCS / "tutorial" / "patients.csv", tmp_path)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / "python.md").read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) >= 5
    names = {}
    for block in blocks:
        exec(block, names)  # noqa: S102 (our own page)
    said = capsys.readouterr().out
    assert "train.batch-size" in said
    assert "train.round: unknown key" in said
    assert (tmp_path / "results" / "triage" / "report.html").is_file()
