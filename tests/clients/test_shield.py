"""No text of an exception leaves a clinic: it may hold a patient's value."""

import json

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict
from support import DP_SGD, NO_PRIVACY, plan_of, run_spec
from torch import nn

from sim.flower.client_app import ClinicError, client_app
from sim.flower.grid import InProcessGrid
from sim.flower.meter import Meter
from sim.methods.messages import INSTRUCTIONS
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


ARMED: set[str] = set()
"""Where the network below fails: in training or evaluation, at its beginning or at its end."""


class Breaks(nn.Module):
    def __init__(self, place):
        super().__init__()
        self.place = place

    def forward(self, x):
        if not x.is_meta and f"{'training' if torch.is_grad_enabled() else 'evaluation'} {self.place}" in ARMED:
            fail()
        return x


def breaking(input_shape, outputs):
    """Return a user's network that quotes a patient where it fails."""
    return [
        ("hidden1", nn.Sequential(Breaks("head"), nn.Linear(*input_shape, 6), nn.ReLU())),
        ("hidden2", nn.Sequential(nn.Linear(6, 5), nn.ReLU())),
        ("output", nn.Sequential(Breaks("tail"), nn.Linear(5, outputs))),
    ]


@pytest.fixture
def armed():
    yield ARMED.add
    ARMED.clear()


def planned(csv, strategy="fedavg", cut=None, privacy=NO_PRIVACY):
    model = {"name": "factory", "factory": f"{__name__}:breaking", "cut": [1, -1] if cut == "u-shaped" else 1}
    return plan_of(run_spec(csv, strategy, cut, privacy, model))


CASES = [(*s, place) for s in STRATEGIES for place in ("head", "tail")]
CASES.remove(("splitfed-v1", "vanilla", "tail"))  # it is the server's there


@pytest.mark.parametrize(("strategy", "cut", "place"), CASES)
@pytest.mark.parametrize("privacy", [NO_PRIVACY, DP_SGD], ids=["plain", "dp-sgd"])
def test_the_server_is_told_where_it_failed_but_no_value(ragged, armed, strategy, cut, privacy, place):
    plan, federation = planned(ragged, strategy, cut, privacy)
    armed(f"training {place}")
    with pytest.raises(ExchangeError) as caught:
        train_run(plan, federation)
    text = str(caught.value)
    assert_silent(text)
    assert "PatientError at test_shield.py:" in text
    assert "while handling 'train" in text


@pytest.mark.parametrize("message_type", list(INSTRUCTIONS))
def test_every_handler_is_shielded(message_type):
    grid = InProcessGrid(client_app(fail), node_groups_of(4, 1), {}, Meter(4))
    [node] = grid.get_node_ids()
    message = grid.create_message(RecordDict(), message_type, node, "")
    [reply] = grid.send_and_receive([message])
    assert reply.has_error()
    assert_silent(reply.error.reason)
    assert f"while handling '{message_type}'" in reply.error.reason


def test_the_exception_carries_no_chain_and_no_local_that_holds_the_value():
    """Flower's own runtimes send the traceback, with every exception in its chain."""
    app = client_app(fail)
    InProcessGrid(app, [[0]], {}, Meter(1))  # says who sends
    context = Context(1, 2, {"partition-id": 0, "num-partitions": 1}, RecordDict(), {})
    with pytest.raises(ClinicError) as caught:
        app(Message(RecordDict(), 2, "query.hello"), context)
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None
    assert_silent(str(caught.getrepr(style="short", chain=True)))


@pytest.mark.parametrize(("strategy", "cut"), STRATEGIES)
def test_a_failed_runs_row_and_files_hold_no_value(ragged, armed, tmp_path, strategy, cut):
    plan, _ = planned(ragged, strategy, cut)
    armed("training head")
    row = execute(plan, tmp_path, {})
    assert row["status"] == "failed"
    assert "PatientError at test_shield.py:" in row["error"]
    assert_silent(json.dumps(row, default=str))
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert written
    for file in written:
        assert_silent(file.read_bytes().decode("latin-1"))


def test_a_failed_centralised_runs_row_holds_no_value(ragged, armed, tmp_path):
    """Here the server itself holds the records, and its exceptions may quote them."""
    plan, _ = planned(ragged, "centralised")
    armed("training head")
    row = execute(plan, tmp_path, {})
    assert row["status"] == "failed"
    assert_silent(json.dumps(row, default=str))


def test_an_evaluation_that_fails_leaves_no_value_in_the_row(ragged, armed, tmp_path):
    plan, _ = planned(ragged)
    armed("evaluation head")
    row = execute(plan, tmp_path, {})
    assert row["status"] == "failed"
    assert_silent(json.dumps(row, default=str))


def test_without_a_fault_nothing_is_replaced(ragged, tmp_path):
    plan, _ = planned(ragged)
    row = execute(plan, tmp_path, {})
    assert row["status"] == "ok"
    assert np.isfinite(row["auc"])
