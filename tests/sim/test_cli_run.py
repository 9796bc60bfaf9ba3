"""``suture run`` from outside: what it prints, what it leaves behind, and its exit code."""

import contextlib
import json
import sys

import pandas as pd
import pytest
from support import TRADE_OFF, assert_same_results, executed, plain, write_scenario

RUNS = 3 * 2 * 2
QUICK = pytest.mark.usefixtures("no_vega", "no_pictures")
KNOWN = {
    *("run_id", "study", "strategy", "method", "cut", "seed", "held_out", "rounds"),
    *("sim_seconds", "bytes_up", "bytes_down", "clinic_flops", "server_flops", "peak_clinic_bytes"),
    *("clinic_joules", "idle_share", "server_busy_share"),
    *("unit", "mechanism", "adjacency", "delta", "epsilon_model_user", "epsilon_peer", "epsilon_server"),
    *("epsilon_peers", "epsilon_server_and_peers", "epsilon_label"),
    *("epsilon_model_user_replace", "epsilon_peer_replace", "epsilon_server_replace"),
    *("epsilon_peers_replace", "epsilon_server_and_peers_replace"),
    "privacy.epsilon",
}


def stamps(study):
    """Return when each file in each run folder was last written."""
    return {path: path.stat().st_mtime_ns for path in [*study.glob("*/*"), *study.iterdir()] if is_of_a_run(path)}


def is_of_a_run(path):
    return (path.parent if path.is_file() else path).joinpath("run.json").exists()


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


def test_workers_lose_the_same_clinics_and_give_the_same_bits_as_one_process(finished, tmp_path):
    path, out, _ = finished
    lost = pd.read_parquet(out / "small" / "runs.parquet").groupby("strategy")["lost_clinic_rounds"].max()
    assert lost[["fedavg", "splitfed-v1"]].min() > 0
    assert_same_results(executed(path, tmp_path), out / "small")


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
        assert set(run) - KNOWN - {"clinics"} <= {"bytes", "phase_seconds", "mean_participants", "lost_clinic_rounds"}
        row = rows.loc[run["run_id"]]
        for column in KNOWN:
            value = float(run[column]) if run[column] in ("inf", "-inf") else run[column]
            assert pd.isna(row[column]) if value is None else row[column] == value, column
        assert run["bytes_up"] == sum(clinic["bytes_up"] for clinic in run["clinics"]) > 0
        assert run["bytes_down"] == sum(clinic["bytes_down"] for clinic in run["clinics"]) > 0


@QUICK
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
    assert f"{RUNS} runs are already finished; 0 to do" in plain(err)


@QUICK
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
    assert "2 runs are already finished; 4 to do" in plain(err)
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
    TRADE_OFF.replace("seeds = [0, 1]", "seeds = [0]")
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


@QUICK
def test_a_failed_run_is_told_at_once_recorded_and_tried_again(suture, faulty, tmp_path):
    path, marker = faulty
    study = tmp_path / "out" / "small"
    with (tmp_path / "stderr").open("w", encoding="utf-8") as stderr, contextlib.redirect_stderr(stderr):
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
    assert "1 of 4 runs failed" in plain(out)
    assert f"Report: {study / 'report.html'}\n" in out
    assert {item.name for item in (study / failed["run_id"]).iterdir()} == {"run.json", "privacy.md"}
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
    assert "3 runs are already finished; 1 to do" in plain(err)


@QUICK
def test_a_study_of_which_every_run_fails(suture, faulty, tmp_path):
    code, out, err = suture(
        "run", faulty[0], "--out", tmp_path / "out", "--jobs", 1, "--only", "faulty_for_tests.Faulty"
    )
    assert code == 1
    assert "faulty_for_tests.Faulty seed 0: StrategyError" in plain(err)
    assert "RuntimeError at faulty_for_tests.py" in plain(err)
    assert "1 of 1 runs failed" in plain(out)
    assert (tmp_path / "out" / "small" / "report.html").exists()


@QUICK
def test_a_failure_outside_the_picked_runs_is_not_theirs(suture, faulty, tmp_path):
    settings = ("--out", tmp_path / "out", "--jobs", 1)
    suture("run", faulty[0], *settings, "--only", "faulty_for_tests.Faulty")
    code, out, _ = suture("run", faulty[0], *settings, "--only", "splitfed-v1")
    assert code == 0
    assert "1 of 3 runs failed" in plain(out)  # it stays in the table all the same
