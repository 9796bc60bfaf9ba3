"""The command from outside: what it prints, what it leaves behind, and its exit code."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from support import write_csv

from sim.cli import main

ROOT = Path(__file__).resolve().parents[2]
HEART = ROOT / "scenarios" / "heart.toml"
SCENARIO = """
name = "small"
seeds = [0, 1]
[data]
source = "csv"
path = "clinics.csv"
label = "label"
clinic = "clinic"
features = ["x0", "x1", "x2", "x3"]
scaling = "none"
[model]
name = "mlp"
hidden = [6, 5]
cut = [1, -1]
[train]
rounds = 2
batch-size = 8
learning-rate = 0.1
[[clinics]]
profile = "hospital"
sites = ["k0", "k1"]
[[clinics]]
profile = "rural-dsl"
[privacy]
mechanism = "dp-sgd"
delta = 1e-3
[[strategies]]
name = "fedavg"
[[strategies]]
name = "splitfed-v1"
cut = ["vanilla", "u-shaped"]
[sweep]
"privacy.epsilon" = [3, inf]
"""
RUNS = 3 * 2 * 2
KNOWN = {
    *("run_id", "study", "strategy", "cut", "seed", "rounds"),
    *("sim_seconds", "bytes_up", "bytes_down", "clinic_flops", "server_flops", "peak_clinic_bytes"),
    *("unit", "mechanism", "delta", "epsilon_model_user", "epsilon_peer", "epsilon_server", "epsilon_label"),
    "privacy.epsilon",
}
ADVERSARIES = {"model-user", "peer-clinic", "server"}


def write_scenario(folder, text=SCENARIO):
    write_csv(folder / "clinics.csv")
    path = folder / "small.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def file(tmp_path):
    return write_scenario(tmp_path)


@pytest.fixture
def suture(monkeypatch, capfd, tmp_path):
    """Call the command in this process; return its exit code, its output and what it wrote to stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["suture", *map(str, arguments)])
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        out, err = capfd.readouterr()
        return code, out, err

    return call


def suture_process(*arguments, **options):
    """Call the installed command in a process of its own."""
    command = [str(Path(sys.executable).with_name("suture")), *map(str, arguments)]
    return subprocess.run(command, text=True, timeout=300, **{"capture_output": True, "check": False} | options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run the small study once, as a user would; return its scenario file, its results folder and the process."""
    folder = tmp_path_factory.mktemp("finished")
    path = write_scenario(folder)
    done = suture_process("run", path, "--out", folder / "out", "--jobs", 2)
    return path, folder / "out", done


def stamps(study):
    """Return when each file in each run folder was last written."""
    return {path: path.stat().st_mtime_ns for path in [*study.glob("*/*"), *study.iterdir()] if is_of_a_run(path)}


def is_of_a_run(path):
    return (path.parent if path.is_file() else path).joinpath("run.json").exists()


def plain(text):
    """Return text without line breaks, as a narrow terminal may break it anywhere."""
    return " ".join(text.split())


# plan


def test_plan_prints_a_table_and_leaves_nothing(suture, file, tmp_path):
    before = sorted(tmp_path.iterdir())
    code, out, err = suture("plan", file)
    assert (code, err) == (0, "")
    assert "small" in out
    assert [name in out for name in ("FedAvg", "SplitFed V1, vanilla", "SplitFed V1, U-shaped")] == [True] * 3
    assert "∞" in out
    assert "kB" in out
    assert sorted(tmp_path.iterdir()) == before


def test_plan_of_some_strategies_with_other_settings(suture, file):
    code, out, _ = suture("plan", file, "--json", "--only", "fedavg", "--set", "seeds=[7]", "--set", "train.rounds=3")
    assert code == 0
    assert [(p["strategy"], p["seed"], p["rounds"]) for p in json.loads(out)] == [("fedavg", 7, 3)] * 2


def test_planned_json_equals_the_finished_rows(suture, finished):
    path, out_folder, _ = finished
    code, out, err = suture("plan", path, "--json")
    assert (code, err) == (0, "")
    planned = json.loads(out, parse_constant=pytest.fail)  # neither NaN nor Infinity
    assert isinstance(planned, list)
    rows = pd.read_parquet(out_folder / "small" / "runs.parquet").set_index("run_id", drop=False)
    assert [run["run_id"] for run in planned] == rows["run_id"].tolist()
    assert len(planned) == RUNS
    for run in planned:
        assert set(run) >= KNOWN | {"clinics"}
        assert set(run) - KNOWN - {"clinics"} <= {"bytes", "phase_seconds", "server_busy_share"}
        row = rows.loc[run["run_id"]]
        for column in KNOWN:
            value = float(run[column]) if run[column] in ("inf", "-inf") else run[column]
            assert pd.isna(row[column]) if value is None else row[column] == value, column
        assert run["bytes_up"] == sum(clinic["bytes_up"] for clinic in run["clinics"]) > 0
        assert run["bytes_down"] == sum(clinic["bytes_down"] for clinic in run["clinics"]) > 0


def test_planned_clinics(suture, file):
    _, out, _ = suture("plan", file, "--json")
    for run in json.loads(out):
        private = run["mechanism"] == "dp-sgd"
        assert [clinic["name"] for clinic in run["clinics"]] == ["k0", "k1", "k2", "k3"]
        assert [clinic["records"] for clinic in run["clinics"]] == [5, 15, 26, 42]
        for clinic in run["clinics"]:
            assert set(clinic) == {
                *("name", "records", "sample_rate", "steps", "noise_multiplier"),
                *("epsilon", "bytes_up", "bytes_down", "seconds", "idle_share"),
            }
            assert clinic["sample_rate"] == min(1, 8 / clinic["records"])
            assert clinic["steps"] == 2 * math.ceil(clinic["records"] / 8)
            assert (clinic["noise_multiplier"] is not None) is private
            assert set(clinic["epsilon"]) == ADVERSARIES
            assert clinic["seconds"] > 0
            assert private is (clinic["epsilon"]["model-user"] != "inf")
            seen_by_server = clinic["epsilon"]["server"] == "inf"
            assert seen_by_server is (not private or run["strategy"] == "splitfed-v1")


# run


def test_run_makes_the_table_the_picture_and_the_report(finished):
    _, out, done = finished
    study = out / "small"
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert [name in done.stdout for name in ("FedAvg", "SplitFed V1, vanilla", "SplitFed V1, U-shaped")] == [True] * 3
    assert f"Table: {study / 'runs.parquet'}\n" in done.stdout
    assert f"Report: {study / 'report.html'}\n" in done.stdout
    table = pd.read_parquet(study / "runs.parquet")
    assert len(table) == RUNS
    assert set(table["status"]) == {"ok"}
    assert {path.parent.name for path in study.glob("*/run.json")} == set(table["run_id"])
    assert (study / "report.html").stat().st_size > 0
    assert (study / "figures" / "privacy_accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert not list(study.glob(".*"))


def test_a_second_run_does_nothing_anew(suture, finished):
    path, out_folder, first = finished
    study = out_folder / "small"
    before, table = stamps(study), pd.read_parquet(study / "runs.parquet")
    code, out, err = suture("run", path, "--out", out_folder, "--jobs", 1)
    assert code == 0
    assert stamps(study) == before
    assert len(before) >= RUNS * 5
    pd.testing.assert_frame_equal(pd.read_parquet(study / "runs.parquet"), table)
    assert out == first.stdout  # the same table, and the same places
    assert f"{RUNS} runs are there already; 0 to do" in plain(err)


def test_only_does_less_and_keeps_the_whole_table(suture, finished, tmp_path):
    path, out_folder, _ = finished
    study = out_folder / "small"
    before, table = stamps(study), pd.read_parquet(study / "runs.parquet")
    code, out, _ = suture("run", path, "--out", out_folder, "--only", "splitfed-v1")
    assert code == 0
    assert stamps(study) == before
    pd.testing.assert_frame_equal(pd.read_parquet(study / "runs.parquet"), table)
    assert "FedAvg" in out

    # In another folder only the picked runs are made, and the rest can follow.
    settings = ("--out", tmp_path / "new", "--jobs", 1, "--set", "seeds=[0]", "--set", "train.rounds=1")
    code, out, _ = suture("run", path, *settings, "--only", "fedavg")
    assert (code, "SplitFed" in out) == (0, False)
    table = pd.read_parquet(tmp_path / "new" / "small" / "runs.parquet")
    assert set(zip(table["strategy"], table["seed"], table["rounds"], strict=True)) == {("fedavg", 0, 1)}
    assert len(table) == 2
    code, out, err = suture("run", path, *settings)
    assert (code, "SplitFed" in out) == (0, True)
    assert "2 runs are there already; 4 to do" in plain(err)
    assert len(pd.read_parquet(tmp_path / "new" / "small" / "runs.parquet")) == 6


FAULTY = '''
from pathlib import Path

from flwr.serverapp.strategy import FedAvg


class Faulty(FedAvg):
    """Fails as long as there is a file of that name beside this one."""

    def aggregate_train(self, server_round, replies):
        if Path(__file__).with_name("faulty").exists():
            raise RuntimeError("the record of Jane Roe, 1956")
        return super().aggregate_train(server_round, replies)


class Witness(FedAvg):
    """Writes down what the command has printed to stderr when its own run begins."""

    def configure_train(self, server_round, arrays, config, grid):
        here = Path(__file__)
        if server_round == 1:
            seen = here.with_name("stderr").read_text(encoding="utf-8")
            here.with_name("seen").write_text(seen, encoding="utf-8")
        return super().configure_train(server_round, arrays, config, grid)
'''
WITH_FAULTY = (
    SCENARIO.replace("seeds = [0, 1]", "seeds = [0]")
    .replace("[3, inf]", "[inf]")
    .replace(
        '[[strategies]]\nname = "fedavg"\n',
        "".join(
            f'[[strategies]]\nname = "{name}"\n' for name in ("faulty_for_tests.Faulty", "faulty_for_tests.Witness")
        ),
    )
)


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    """Make the two strategies importable; return the scenario file and the marker that lets one of them fail."""
    (tmp_path / "faulty_for_tests.py").write_text(FAULTY, encoding="utf-8")
    (tmp_path / "faulty").touch()
    (tmp_path / "stderr").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield write_scenario(tmp_path, WITH_FAULTY), tmp_path / "faulty"
    sys.modules.pop("faulty_for_tests", None)


def test_a_failed_run_is_told_at_once_recorded_and_tried_again(suture, faulty, tmp_path, monkeypatch):
    path, marker = faulty
    study = tmp_path / "out" / "small"
    with (tmp_path / "stderr").open("w", encoding="utf-8") as stderr, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        code, out, _ = suture("run", path, "--out", tmp_path / "out", "--jobs", 1)
    err = (tmp_path / "stderr").read_text(encoding="utf-8")
    table = pd.read_parquet(study / "runs.parquet")
    failed = table.iloc[0]
    assert code == 1
    assert table["status"].tolist() == ["failed", "ok", "ok", "ok"]
    assert failed["strategy"] == "faulty_for_tests.Faulty"
    assert "RuntimeError" in failed["error"]
    assert "faulty_for_tests.py" in failed["error"]
    assert "Roe" not in failed["error"]  # the text of an error that is not ours may quote a record
    assert table["error"].tolist()[1:] == ["", "", ""]
    assert failed[["auc", "accuracy", "loss"]].isna().all()
    told = f"failed {failed['run_id']} faulty_for_tests.Faulty seed 0: {failed['error']}"
    assert plain(err).count(told) == 1
    assert ("Traceback" in err, "Roe" in err) == (False, False)
    assert told in plain((tmp_path / "seen").read_text(encoding="utf-8"))  # before the next run began
    assert "1 of 4 runs did not succeed" in plain(out)
    assert f"Report: {study / 'report.html'}\n" in out
    assert {item.name for item in (study / failed["run_id"]).iterdir()} == {"run.json"}
    before = stamps(study)

    marker.unlink()
    code, _, err = suture("run", path, "--out", tmp_path / "out", "--jobs", 1)
    again = pd.read_parquet(study / "runs.parquet")
    assert code == 0
    assert again["status"].tolist() == ["ok"] * 4
    assert again["error"].tolist() == [""] * 4
    assert again["run_id"].tolist() == table["run_id"].tolist()
    changed = {item for item, time in stamps(study).items() if before.get(item) != time}
    assert {study / failed["run_id"], *(study / failed["run_id"]).iterdir()} == changed
    assert "3 runs are there already; 1 to do" in plain(err)


def test_a_study_of_which_every_run_fails(suture, faulty, tmp_path):
    code, out, err = suture("run", faulty[0], "--out", tmp_path / "out", "--only", "faulty_for_tests.Faulty")
    assert code == 1
    assert "faulty_for_tests.Faulty seed 0: StrategyError" in plain(err)
    assert "RuntimeError at faulty_for_tests.py" in plain(err)
    assert "1 of 1 runs did not succeed" in plain(out)
    assert (tmp_path / "out" / "small" / "report.html").exists()


def test_a_failure_outside_the_picked_runs_is_not_theirs(suture, faulty, tmp_path):
    settings = ("--out", tmp_path / "out", "--jobs", 1)
    suture("run", faulty[0], *settings, "--only", "faulty_for_tests.Faulty")
    code, out, _ = suture("run", faulty[0], *settings, "--only", "splitfed-v1")
    assert code == 0
    assert "1 of 3 runs did not succeed" in plain(out)  # it stays in the table all the same


# Bad input: one line a problem, exit code 2, nothing left behind


def lines_of(suture, *arguments, out):
    """Run a study that cannot be; return the lines on stderr."""
    code, printed, err = suture("run", *arguments, "--out", out)
    assert code == 2
    assert printed == ""
    assert "Traceback" not in err
    assert not out.exists()
    assert err.endswith("\n")
    return err.splitlines()


@pytest.mark.parametrize(
    ("override", "fragments"),
    [
        ("train.roundz=1", ["small.toml: train.roundz: unknown key", '"rounds"']),
        ('clinics.0.uplink="10 ms"', ["small.toml: clinics.0.uplink:", "10 ms", "wrong kind"]),
        ('clinics.0.uplink="10 Mbaud"', ["small.toml: clinics.0.uplink:", "unknown unit"]),
        ('server.compute="5"', ["small.toml: server.compute:", "not a number with a unit"]),
        ('strategies.0.name="fedavgg"', ['small.toml: strategies.0.name: unknown strategy "fedavgg"', '"fedavg"']),
        ('clinics.0.sites=["k0", "kk"]', ['clinics.0.sites: unknown site "kk"']),
        ('data.sites=["k1", "k2", "k9"]', ['data.sites: unknown site "k9"']),
        ('data.path="nowhere.csv"', ["data.path:", "nowhere.csv does not exist"]),
        ("sweep.privacy.epsilon=[0]", ["small.toml: sweep.privacy.epsilon: 0 is out of range"]),
        ("privacy.epsilon=0", ["small.toml: privacy.epsilon: 0 is out of range"]),
        ("model.hidden=[16]", ["model.cut:", "[1, -1] lies outside the model", "u-shaped", "hidden1, output"]),
        ("privacy.delta=0.5", ["privacy.delta: 0.5", "1 / 42", '"k3"']),
        ("privacy.delta=0.024", ["privacy.delta: 0.024", "1 / 42", '"k3"']),  # below 1 / 26 only
        ("privacy.delta=1", ["small.toml: privacy.delta: 1 is out of range"]),
        ('data.features=["x0", "x9"]', ["data.features:", '"x9"']),
        ('data.label="diagnosis"', ["data.label:", '"diagnosis"']),
        ("train.rounds", ['small.toml: train.rounds: has no "="']),
    ],
)
def test_each_problem_is_one_line(suture, file, tmp_path, override, fragments):
    [line] = lines_of(suture, file, "--set", override, out=tmp_path / "out")
    assert [fragment for fragment in fragments if fragment not in line] == []


def test_a_logistic_model_cannot_be_split(suture, file, tmp_path):
    lines = lines_of(suture, file, "--set", 'model={name="logistic"}', out=tmp_path / "out")
    assert len(lines) == 2  # one for each cut
    for line, cut in zip(lines, ("vanilla", "u-shaped"), strict=True):
        assert "model.cut:" in line
        assert cut in line
        assert "output" in line


def test_delta_too_large_for_the_largest_real_clinic(suture, tmp_path):
    """Cleveland has 200 training records, so that 0.01 would let a mechanism publish two of them."""
    for delta in (0.01, 0.5, 0.005):
        [line] = lines_of(suture, HEART, "--set", "seeds=[0]", "--set", f"privacy.delta={delta}", out=tmp_path / "out")
        assert f"privacy.delta: {delta}" in line
        assert "1 / 200" in line
        assert '"cleveland"' in line


def test_delta_of_centralised_training_is_held_against_all_records_together(suture, tmp_path):
    arguments = ("--set", "seeds=[0]", "--set", "privacy.delta=0.003")
    [line] = lines_of(suture, HEART, *arguments, out=tmp_path / "out")
    assert "1 / 490, one over the training records of all clinics together" in line


def edited(file, change):
    """Rewrite the rows of the clinics' file: each is a list of cells, clinic and label first."""
    csv = file.with_name("clinics.csv")
    header, *rows = csv.read_text(encoding="utf-8").splitlines()
    changed = [row for row in (change(i, row.split(",")) for i, row in enumerate(rows)) if row]
    csv.write_text("\n".join([header, *map(",".join, changed)]) + "\n", encoding="utf-8")


def with_cell(row, column, text):
    """Return an edit that writes a text into one cell; rows count from 0."""
    return lambda i, cells: [*cells[:column], text, *cells[column + 1 :]] if i == row else cells


def of_one_class(*clinics):
    """Return an edit that gives all records of these clinics the same label."""
    return lambda i, cells: [cells[0], "class0", *cells[2:]] if cells[0] in clinics else cells


CSV_PROBLEMS = {
    "one record": (lambda i, cells: cells if i == 0 or cells[0] != "k0" else None, ['"k0" has 1 record,']),
    "one class": (of_one_class("k1"), ['"k1"', "one class"]),
    "all one class": (of_one_class("k0", "k1", "k2", "k3"), ["one class"]),
    "no clinic": (with_cell(3, 0, ""), ["data.clinic:", "row 5"]),
    "no label": (with_cell(3, 1, ""), ["data.label:", "row 5"]),
    "NaN": (with_cell(8, 3, "NaN"), ["data.missing:", '"x1"', "row 10"]),
    "empty cell": (with_cell(8, 3, ""), ["data.missing:", '"x1"', "row 10"]),
    "infinite": (with_cell(8, 4, "inf"), ["data.features:", '"x2"', "row 10"]),
    "words": (with_cell(8, 5, "high"), ["data.features:", '"x3"', "row 10"]),
    "no rows": (lambda i, cells: None, ["data.path:", "no rows"]),
}


@pytest.mark.parametrize("fault", CSV_PROBLEMS)
def test_each_problem_in_the_data_is_a_line_without_values(suture, file, tmp_path, fault):
    change, fragments = CSV_PROBLEMS[fault]
    edited(file, change)
    lines = lines_of(suture, file, out=tmp_path / "out")
    assert len(lines) == (4 if fault == "all one class" else 1)
    for line in lines:
        assert line.startswith(f"{file}: data")
        assert [fragment for fragment in fragments if fragment not in line] == []
        assert "high" not in line  # no record's value may be printed


def test_one_class_may_be_kept_where_it_is_wanted(suture, file):
    edited(file, CSV_PROBLEMS["one class"][0])
    assert suture("plan", file, "--set", 'data.one-class="keep"')[0] == 0
    edited(file, CSV_PROBLEMS["all one class"][0])
    code, _, err = suture("plan", file, "--set", 'data.one-class="keep"')
    assert code == 2
    assert "the same label" in err


def test_a_missing_or_broken_scenario_file(suture, tmp_path):
    [line] = lines_of(suture, tmp_path / "nowhere.toml", out=tmp_path / "out")
    assert line == f"{tmp_path / 'nowhere.toml'}: does not exist; check the path"
    broken = tmp_path / "broken.toml"
    broken.write_text("name = [\n", encoding="utf-8")
    [line] = lines_of(suture, broken, out=tmp_path / "out")
    assert line.startswith(f"{broken}: ")


def test_problems_come_out_together(suture, file, tmp_path):
    overrides = ("train.roundz=1", 'server.compute="40 ms"', 'strategies.0.name="fedavgg"', "privacy.epsilon=0")
    arguments = [word for override in overrides for word in ("--set", override)]
    lines = lines_of(suture, file, *arguments, "--only", "fedprox2", out=tmp_path / "out")
    for place in ("train.roundz", "server.compute", "strategies.0.name", "privacy.epsilon", "strategies:"):
        assert sum(f"small.toml: {place}" in line for line in lines) == 1, place
    assert len(lines) == 5


def test_problems_of_the_data_come_out_together(suture, file, tmp_path):
    def change(i, cells):
        return with_cell(0, 2, "NaN")(i, with_cell(9, 4, "high")(i, of_one_class("k2")(i, cells)))

    edited(file, change)
    lines = lines_of(suture, file, "--set", "data.missing={x9=1}", out=tmp_path / "out")
    assert len(lines) == 4
    for fragment in ('missing: column "x0"', 'features: column "x2"', 'clinic "k2"', 'missing: "x9"'):
        assert sum(fragment in line for line in lines) == 1, fragment


def test_problems_of_different_runs_come_out_together(suture, file, tmp_path):
    lines = lines_of(suture, file, "--set", "model.hidden=[16]", "--set", "privacy.delta=0.5", out=tmp_path / "out")
    assert len(lines) == 2
    assert sum("privacy.delta" in line for line in lines) == 1
    assert sum("model.cut" in line for line in lines) == 1


@pytest.mark.parametrize("place", ["out", "out/small"])
def test_a_results_folder_that_cannot_be_written(suture, file, tmp_path, place):
    blocked = tmp_path / place
    blocked.parent.mkdir(exist_ok=True)
    blocked.write_text("mine", encoding="utf-8")
    code, out, err = suture("run", file, "--out", tmp_path / "out", "--set", "seeds=[0]", "--jobs", 1)
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert str(tmp_path / "out") in err.splitlines()[-1]
    assert blocked.read_text(encoding="utf-8") == "mine"
    assert list(blocked.parent.glob("**/run.json")) == []


def test_bad_input_from_a_shell(tmp_path):
    """The installed script, too, ends with code 2 and one line."""
    path = write_scenario(tmp_path)
    done = suture_process("plan", path, "--set", "train.roundz=1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f'{path}: train.roundz: unknown key; did you mean "rounds"?\n'


def test_a_wrong_option_is_bad_input_too(suture, file):
    code, _, err = suture("run", file, "--jbos", "2")
    assert code == 2
    assert "--jbos" in err
    assert suture("run", file, "--jobs", "0")[0] == 2
    assert suture("frobnicate")[0] == 2


def test_help_names_the_commands(suture):
    code, out, _ = suture("--help")
    assert code == 0
    assert [command in out for command in ("plan", "run")] == [True, True]
