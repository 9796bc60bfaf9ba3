"""The order of a sweep, its forecast, its journal, and what another process reads of it."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from support import assert_same_results, call_suture, write_csv
from threadpoolctl import threadpool_info, threadpool_limits

from sim import run
from sim.api.preparing import prepare
from sim.foundation.problems import ScenarioError
from sim.results.store import LOGS, older_runs, read_rows, write_table
from sim.scenario import load_scenario
from sim.scenario.spec import RESULTS_VERSION, expand
from sim.study.engines import InProcess, Workers
from sim.study.forecast import Forecast, estimated_seconds
from sim.study.journal import remove_leftovers, statuses
from sim.study.planning import plan_runs
from sim.study.rerun import differences
from sim.study.runner import Progress, run_study

SCENARIO = """
name = "swept"
seeds = [0]
[data]
source = "csv"
path = "clinics.csv"
label = "label"
clinic = "clinic"
features = ["x0", "x1"]
scaling = "none"
[model]
name = "logistic"
[evaluation]
reference = false
[train]
rounds = 2
batch-size = 8
learning-rate = 0.1
[[strategies]]
name = "fedavg"
[[strategies]]
name = "centralised"
[[strategies]]
name = "broken_for_tests.Broken"
"""
BROKEN = """
from flwr.serverapp.strategy import FedAvg


class Broken(FedAvg):
    def aggregate_train(self, server_round, replies):
        raise RuntimeError("no")
"""


@pytest.fixture
def scenario(tmp_path, monkeypatch):
    write_csv(tmp_path / "clinics.csv")
    (tmp_path / "swept.toml").write_text(SCENARIO, encoding="utf-8")
    (tmp_path / "broken_for_tests.py").write_text(BROKEN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "swept.toml"
    sys.modules.pop("broken_for_tests", None)


def planned(path, *overrides):
    return list(plan_runs(expand(load_scenario(path, overrides))))


def ids(plans):
    return [plan.spec.run_id for plan in plans]


def silent(rows=None):
    return Progress(lambda *_: None, lambda row, left: rows.append(row) if rows is not None else None)


def test_the_forecast_corrects_itself_by_hand(scenario):
    plans = planned(scenario)
    forecast = Forecast(plans, jobs=1)
    one, two, three = (estimated_seconds(plan) for plan in plans)
    assert forecast.seconds_left() == pytest.approx(one + two + three)
    forecast.finished(plans[0].spec.run_id, 3 * one)  # nothing else is known: the others are taken to be as slow
    assert forecast.seconds_left() == pytest.approx(3 * (two + three))
    forecast.finished(plans[1].spec.run_id, two)
    assert forecast.seconds_left() == pytest.approx(three * (3 * one + two) / (one + two))
    forecast.finished(plans[2].spec.run_id, 1.0)
    assert forecast.seconds_left() == 0


def test_a_method_is_corrected_by_its_own_runs_and_work_is_shared_out(scenario):
    plans = planned(scenario, "seeds=[0, 1, 2]")
    forecast = Forecast(plans, jobs=2)
    first = next(plan for plan in plans if plan.spec.strategy.name == "centralised")
    forecast.finished(first.spec.run_id, 10 * estimated_seconds(first))
    other = next(plan for plan in plans if plan.spec.strategy.name == "fedavg")
    forecast.finished(other.spec.run_id, 2 * estimated_seconds(other))
    a, b = estimated_seconds(first), estimated_seconds(other)
    overall = (10 * a + 2 * b) / (a + b)
    rest = [p for p in plans if "." in p.spec.strategy.name]
    expected = 2 * 10 * a + 2 * 2 * b + overall * sum(map(estimated_seconds, rest))
    assert forecast.seconds_left() == pytest.approx(expected / 2)


def test_sequential_methods_are_forecast_by_all_their_steps(tmp_path):
    write_csv(tmp_path / "clinics.csv")
    text = SCENARIO.replace('name = "logistic"', 'name = "mlp"\nhidden = [4]\ncut = 1')
    text = text.replace('name = "centralised"', 'name = "split"').split('[[strategies]]\nname = "broken')[0]
    (tmp_path / "swept.toml").write_text(text, encoding="utf-8")
    fedavg, split = planned(tmp_path / "swept.toml")
    assert estimated_seconds(split) > estimated_seconds(fedavg)


def blas_threads(group):
    import scipy.linalg  # noqa: F401 - its own library may come only when training has begun

    threads = [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]
    yield from ({"run_id": plan, "threads": threads} for plan in group)


@pytest.mark.parametrize("engine", [InProcess(), Workers(1)])
def test_a_process_that_trains_has_one_thread_for_linear_algebra_too(engine, monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    with threadpool_limits(2):
        rows = list(engine.run(blas_threads, [["one"], ["two"]]))
    assert {row["run_id"] for row in rows} == {"one", "two"}
    assert all(row["threads"] and set(row["threads"]) == {1} for row in rows)


def test_studies_of_two_threads_come_one_after_the_other(scenario, tmp_path, monkeypatch):
    on, at_once = set(), []

    def watched(*given):
        on.add(threading.get_ident())
        time.sleep(0.3)  # long enough for the other to come in
        at_once.append(len(on))
        return prepare(*given)

    def folder_of(name):
        found = run(scenario, tmp_path / name, only="fedavg", progress=False)
        on.discard(threading.get_ident())
        return found.folder

    monkeypatch.setattr("sim.api.running.prepare", watched)
    alone = folder_of("alone")
    with ThreadPoolExecutor(2) as threads:
        for found in threads.map(folder_of, ("one", "other")):
            assert_same_results(found, alone)
    assert at_once == [1, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("engine", [InProcess(), Workers(1)])
def test_fail_fast_ends_the_study_and_leaves_the_rest(scenario, engine, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(scenario.parent))
    plans = planned(scenario, "seeds=[0, 1, 2, 3, 4, 5]")
    longer = planned(scenario, "seeds=[0, 1, 2, 3, 4, 5]", "train.rounds=8")
    # The failing runs are the quickest by far, so that they are begun first.
    plans = [long if "." not in long.spec.strategy.name else short for short, long in zip(plans, longer, strict=True)]
    rows = []
    run_study(plans, ids(plans), scenario.parent / "out", engine, silent(rows), fail_fast=True)
    assert rows[-1]["status"] == "failed"
    assert len(rows) < len(plans)
    states = [status.state for status in statuses(scenario.parent / "out" / "swept")]
    assert states.count("failed") >= 1
    assert states.count("ok") + states.count("failed") < len(plans)


def test_a_failed_run_is_kept_and_does_not_stop_the_others(scenario, capsys):
    plans = planned(scenario)
    run_study(plans, ids(plans), scenario.parent / "out", InProcess(), silent())
    folder = scenario.parent / "out" / "swept"
    found = {status.run["strategy"]: status for status in statuses(folder)}
    assert {name: status.state for name, status in found.items()} == {
        "fedavg": "ok",
        "centralised": "ok",
        "broken_for_tests.Broken": "failed",
    }
    assert "RuntimeError" in found["broken_for_tests.Broken"].error
    code = call_suture("status", str(folder))
    out = capsys.readouterr().out
    assert code == 0
    assert "2 of 3 runs finished, 1 failed" in out
    assert "RuntimeError" in out


def test_each_run_has_one_log_with_its_rounds(scenario):
    plans = planned(scenario)[:1]
    run_study(plans, ids(plans), scenario.parent / "out", InProcess(), silent())
    folder = scenario.parent / "out" / "swept"
    [log] = (folder / LOGS).iterdir()
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert [line["event"] for line in lines] == ["start", "round", "round", "round", "end"]
    rounds = pd.read_parquet(folder / plans[0].spec.run_id / "rounds.parquet")
    assert [line["auc"] for line in lines[1:-1]] == rounds["auc"].tolist()
    assert lines[0]["pid"] == os.getpid()


def test_the_status_of_a_run_follows_from_its_log(scenario):
    plans = planned(scenario)[:2]
    run_study(plans, ids(plans), scenario.parent / "out", InProcess(), silent())
    folder = scenario.parent / "out" / "swept"
    for plan in plans:
        shutil.rmtree(folder / plan.spec.run_id)
    here, gone = ((folder / LOGS / f"{run_id}.log") for run_id in ids(plans))
    text = here.read_text(encoding="utf-8").splitlines(keepends=True)
    here.write_text("".join(text[:3]) + text[3][:9], encoding="utf-8")  # a line that is just being written
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    start = json.loads(text[0]) | {"pid": process.pid}
    gone.write_text(json.dumps(start) + "\n", encoding="utf-8")
    found = {status.run["run_id"]: status for status in statuses(folder)}
    assert [(found[i].state, found[i].round) for i in ids(plans)] == [("running", 1), ("interrupted", 0)]
    gone.unlink()
    assert {s.run["run_id"]: s.state for s in statuses(folder)}[ids(plans)[1]] == "waiting"


def test_leftovers_of_dead_processes_are_removed_and_those_of_living_ones_kept(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    names = [f".{'a' * 16}.{process.pid}", f".{'a' * 16}.{os.getpid()}", ".mine", "b" * 16]
    for name in names:
        (tmp_path / name).mkdir()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])


def test_runs_of_another_results_version_are_named_and_not_mixed_in(scenario, capsys):
    plans = planned(scenario)[:2]
    run_study(plans, ids(plans), scenario.parent / "out", InProcess(), silent())
    folder = scenario.parent / "out" / "swept"
    file = folder / ids(plans)[0] / "run.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(record | {"results-version": RESULTS_VERSION - 1}), encoding="utf-8")
    assert older_runs(folder) == [ids(plans)[0]]
    assert write_table(folder)["run_id"].tolist() == [ids(plans)[1]]
    assert [row["run_id"] for row in read_rows(folder)] == [ids(plans)[1]]
    call_suture("status", str(folder))
    assert f"1 runs of another results version are ignored: {ids(plans)[0]}" in capsys.readouterr().out
    with pytest.raises(ScenarioError, match="results version"):
        differences(file.parent)


def test_rebuilt_from_its_folders_the_table_is_the_same(scenario):
    plans = planned(scenario)
    table = run_study(plans, ids(plans), scenario.parent / "out", InProcess(), silent())
    folder = scenario.parent / "out" / "swept"
    (folder / "runs.parquet").unlink()
    assert call_suture("status", "--rebuild", str(folder)) == 0
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "runs.parquet"), table)


def test_a_run_folder_is_enough_to_repeat_the_run(scenario, capsys):
    plans = planned(scenario, 'privacy={mechanism="dp-sgd", epsilon=3.0, delta=0.001}')[:1]
    run_study(plans, ids(plans), scenario.parent / "out", InProcess(), silent())
    folder = scenario.parent / "out" / "swept" / ids(plans)[0]
    scenario.unlink()
    assert differences(folder) == []
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    auc = record["row"]["auc"]
    record["row"]["auc"] = auc + 1e-9
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert call_suture("rerun", str(folder)) == 1
    told = capsys.readouterr().out
    assert "auc:" in told
    assert "model.safetensors: the weights differ" in told


@pytest.mark.parametrize("command", ["rerun", "status"])
def test_a_folder_that_holds_nothing_is_one_line(tmp_path, capsys, command):
    assert call_suture(command, str(tmp_path)) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_changed_data_is_told_before_it_is_trained_on(scenario):
    plans = planned(scenario)[:1]
    run_study(plans, ids(plans), scenario.parent / "out", InProcess(), silent())
    folder = scenario.parent / "out" / "swept" / ids(plans)[0]
    csv = scenario.parent / "clinics.csv"
    lines = csv.read_text(encoding="utf-8").splitlines()
    csv.write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    with pytest.raises(ScenarioError, match="same data file"):
        differences(folder)


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_ray_gives_the_same_bits(scenario):
    pytest.importorskip("ray")
    env = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(scenario.parent)}
    program = str(Path(sys.executable).with_name("suture"))
    for out, engine in (("one", ["--jobs", "1"]), ("two", ["--engine", "ray", "--jobs", "2"])):
        arguments = [program, "run", str(scenario), "--out", str(scenario.parent / out), *engine]
        arguments += ["--only", "fedavg", "--only", "centralised"]
        done = subprocess.run(arguments, capture_output=True, text=True, env=env, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
    tables = [pd.read_parquet(scenario.parent / out / "swept" / "runs.parquet") for out in ("one", "two")]
    pd.testing.assert_frame_equal(*(t.drop(columns="wall_seconds") for t in tables), check_exact=True)
    for run_id in tables[0]["run_id"]:
        one, two = (scenario.parent / out / "swept" / run_id / "model.safetensors" for out in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, of the libraries under it
def test_exported_to_mlflow_a_run_can_be_read_back_and_is_there_once(scenario):
    mlflow = pytest.importorskip("mlflow")
    from sim.study.mlflow_export import export

    plans = planned(scenario)[:2]
    run_study(plans, ids(plans), scenario.parent / "out", InProcess(), silent())
    folder = scenario.parent / "out" / "swept"
    uri = f"sqlite:///{scenario.parent / 'mlflow.db'}"
    assert export(folder, uri) == export(folder, uri) == 2
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("swept")
    runs = {run.data.tags["suture.run_id"]: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == set(ids(plans))
    for row in read_rows(folder):
        found = runs[row["run_id"]]
        assert found.data.metrics["auc"] == row["auc"]
        assert found.data.tags["epsilon_server"] == "inf"
        assert found.data.params["train.rounds"] == "2"
        rounds = pd.read_parquet(folder / row["run_id"] / "rounds.parquet")
        history = client.get_metric_history(found.info.run_id, "round/auc")
        assert [metric.value for metric in sorted(history, key=lambda m: m.step)] == rounds["auc"].tolist()
