"""No text of an exception leaves a clinic: it may hold a patient's value."""

import json

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from sim.flower.messages import content
from support import DP_SGD, plan_of, run_spec

from sim.flower.client_app import ClinicError, app
from sim.flower.grid import InProcessGrid
from sim.flower.meter import Meter
from sim.flower.workplace import run_config
from sim.methods.node_group import node_groups_of
from sim.methods.replies import ExchangeError
from sim.study.runner import execute
from sim.study.train import train_run

QUOTED = "cholesterol 417.25 of patient Miller"
STRATEGIES = [("local", None), ("fedavg", None), ("splitfed-v1", "vanilla"), ("splitfed-v1", "u-shaped")]


class PatientError(KeyError):
    """An exception that renders its argument in a way of its own."""


def fail(*_, **__):
    patient = {"name": "Miller", "cholesterol": 417.25}
    try:
        float("417.25 mg")
    except ValueError as cause:
        raise PatientError(QUOTED, patient) from cause


def assert_silent(text):
    for piece in ("417.25", "Miller", "cholesterol"):
        assert piece not in text


# Where each strategy's clinics touch records: training, forward, backward, gathering a batch.
PLACES = ["methods.node_group.NodeGroup.batch", "tensor.trainer.Trainer.forward", "tensor.trainer.Trainer.loss"]
CASES = [(*s, place) for s in STRATEGIES for place in PLACES]
CASES.remove(("splitfed-v1", "vanilla", PLACES[2]))  # the loss is the server's there


@pytest.mark.parametrize(("strategy", "cut", "place"), CASES)
@pytest.mark.parametrize("privacy", [{"mechanism": "none"}, DP_SGD], ids=["plain", "dp-sgd"])
def test_the_server_learns_where_it_failed_but_no_value(ragged, monkeypatch, strategy, cut, privacy, place):
    plan, federation = plan_of(run_spec(ragged, strategy, cut, privacy))
    monkeypatch.setattr(f"sim.{place}", fail)
    with pytest.raises(ExchangeError) as caught:
        train_run(plan, federation)
    text = str(caught.value)
    assert_silent(text)
    assert "PatientError at test_shield.py:" in text
    assert "while handling 'train" in text


@pytest.mark.parametrize("message_type", ["query.hello", "train.records", "train", "train.alone", "train.begin"])
def test_every_handler_is_shielded(ragged, monkeypatch, message_type):
    plan, _ = plan_of(run_spec(ragged, "splitfed-v1", "vanilla"))
    grid = InProcessGrid(app, node_groups_of(4, 1), run_config(plan.spec, plan.noise_multipliers), Meter(4))
    [node] = grid.get_node_ids()
    monkeypatch.setattr("sim.flower.workplace._node_group", fail)
    message = grid.create_message(content({}, {"clinics": [0], "server-round": 1}), message_type, node, "")
    [reply] = grid.send_and_receive([message])
    assert reply.has_error()
    assert_silent(reply.error.reason)
    assert f"while handling '{message_type}'" in reply.error.reason


def test_the_exception_carries_no_chain_and_no_local_that_holds_the_value(ragged, monkeypatch):
    """Flower's own runtimes send the traceback, with every exception in its chain."""
    plan, _ = plan_of(run_spec(ragged))
    config = run_config(plan.spec, plan.noise_multipliers)
    InProcessGrid(app, [[0]], config, Meter(1))  # says who sends
    monkeypatch.setattr("sim.flower.workplace._node_group", fail)
    context = Context(1, 2, {"partition-id": 0, "num-partitions": 1}, RecordDict(), config)
    with pytest.raises(ClinicError) as caught:
        app(Message(RecordDict(), 2, "query.hello"), context)
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None
    assert_silent(str(caught.getrepr(style="short", chain=True)))


@pytest.mark.parametrize(("strategy", "cut"), STRATEGIES)
def test_a_failed_runs_row_and_files_hold_no_value(ragged, monkeypatch, tmp_path, strategy, cut):
    plan, _ = plan_of(run_spec(ragged, strategy, cut))
    monkeypatch.setattr("sim.methods.node_group.NodeGroup.batch", fail)
    row = execute(plan, tmp_path, {})
    assert row["status"] == "failed"
    assert "PatientError at test_shield.py:" in row["error"]
    assert_silent(json.dumps(row, default=str))
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert written
    for file in written:
        assert_silent(file.read_bytes().decode("latin-1"))


def test_a_failed_centralised_runs_row_holds_no_value(ragged, monkeypatch, tmp_path):
    """Here the server itself holds the records, and its exceptions may quote them."""
    plan, _ = plan_of(run_spec(ragged, "centralised"))
    monkeypatch.setattr("sim.tensor.trainer.Trainer.forward", fail)
    row = execute(plan, tmp_path, {})
    assert row["status"] == "failed"
    assert_silent(json.dumps(row, default=str))


def test_an_evaluation_that_fails_leaves_no_value_in_the_row(ragged, monkeypatch, tmp_path):
    plan, _ = plan_of(run_spec(ragged))
    monkeypatch.setattr("sim.tensor.evaluation.metrics_of", fail)
    row = execute(plan, tmp_path, {})
    assert row["status"] == "failed"
    assert_silent(json.dumps(row, default=str))


def test_without_a_fault_nothing_is_replaced(ragged, tmp_path):
    plan, _ = plan_of(run_spec(ragged))
    row = execute(plan, tmp_path, {})
    assert row["status"] == "ok"
    assert np.isfinite(row["auc"])
