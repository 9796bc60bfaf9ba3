"""Compressed updates: what is sent, what waits for the next round, and what it takes on the line."""

import math

import numpy as np
import pytest
import torch
from support import DP_SGD, bitwise, plan_of, run_spec, train_spec, write_csv

from sim.foundation.problems import ScenarioError
from sim.methods.compression import Compression
from sim.methods.messages import Kind
from sim.plan.statement import privacy_statement
from sim.scenario.study import ClinicGroup
from sim.study.train import train_run

CLINIC_LEVEL = {"mechanism": "clinic-level", "noise-multiplier": 1.0, "clip": 0.5, "delta": 1e-3}
SETTINGS = {
    "8 bits": {"update_dtype": "int8"},
    "the largest third": {"update_top_k": 1 / 3},
    "both": {"update_dtype": "int8", "update_top_k": 0.4},
}
METHODS = [
    ("fedavg", None),
    ("fedprox", None),
    ("splitfed-v1", "vanilla"),
    ("splitfed-v1", "u-shaped"),
    ("splitfed-v2", "vanilla"),
    ("splitfed-v2", "u-shaped"),
]


def largest_of(update, kept):
    """Keep the largest numbers of a vector, the first ones among equals."""
    chosen = sorted(sorted(range(len(update)), key=lambda i: (-abs(update[i]), i))[:kept])
    return chosen, update[chosen]


def in_8_bits(values):
    """Round each 32 numbers to multiples of the least power of two of which 127 reach the largest of them."""
    found = []
    for first in range(0, len(values), 32):
        block = np.asarray(values[first : first + 32], dtype=np.float64)
        largest = np.abs(block).max()
        step = 2.0 ** math.ceil(math.log2(largest / 127)) if largest else 1.0
        found += list(np.rint(block / step) * step)
    return np.array(found)


def by_hand(update, share, eight_bits):
    """Return what of a clinic's update is sent."""
    sent = np.zeros(len(update))
    chosen, values = largest_of(update, max(1, math.ceil(share * len(update))))
    sent[chosen] = in_8_bits(values) if eight_bits else values
    return sent


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.01])
def test_what_is_sent_is_what_is_counted_by_hand(share, dtype):
    compression = Compression.of({"a": (7, 5), "b": (9,)}, share, dtype)
    update = torch.randn(3, 44, generator=torch.Generator().manual_seed(1)) * 10.0 ** torch.arange(-2, 2).repeat(11)
    update[1, 3:9] = 2.5
    update[2] = 0
    sent = compression.packed(update)
    forms = {name: (tuple(value.shape[1:]), str(value.dtype)) for name, value in sent.items()}
    assert forms == {name: (shape, f"torch.{of}") for name, (shape, of) in compression.forms.items()}
    arrived = compression.unpacked(sent)
    for lane in range(3):
        expected = by_hand(update[lane].numpy(), share, dtype == "int8")
        assert np.array_equal(arrived[lane].numpy(), expected.astype(np.float32))
    assert compression.sent_bytes == sum(value[0].numel() * value.element_size() for value in sent.values())


def test_bytes_by_hand():
    assert Compression.of({"a": (100,)}, 1.0, "int8").sent_bytes == 4 * 33
    assert Compression.of({"a": (100,)}, 0.1, "float32").sent_bytes == 10 * (4 + 4)
    assert Compression.of({"a": (10, 10)}, 0.4, "int8").sent_bytes == 2 * 33 + 40 * 4


@pytest.fixture(scope="module")
def ragged(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("compressed") / "ragged.csv", (9, 14, 20))


def logistic(federation, weights, bias, rate):
    """Return how far each clinic moves in a step on all its records."""
    moves = []
    for k in range(len(federation.names)):
        own = slice(federation.train.offsets[k], federation.train.offsets[k + 1])
        x, y = federation.train.x[own].astype(np.float64), federation.train.y[own]
        error = 1 / (1 + np.exp(-(x @ weights + bias))) - y
        moves.append(-rate * np.concatenate([x.T @ error, [error.sum()]]) / len(y))
    return moves


@pytest.mark.parametrize("hostile", [None, "sign-flip", "scaled"])
@pytest.mark.parametrize("how", SETTINGS.values(), ids=SETTINGS)
def test_federated_averaging_with_memory_is_that_of_the_paper(ragged, how, hostile):
    """Stich et al. 2018 by hand, on logistic regression, a step of all records a round.

    What a hostile clinic sends instead of its update is compressed like one, and what is left of that waits.
    """
    spec = run_spec(ragged, model={"name": "logistic"}, rounds=6, batch_size=64, learning_rate=0.7, **how)
    if hostile is not None:
        bad = ClinicGroup(profile="hospital", sites=("k1",), hostile=hostile, hostile_strength=3.0)
        spec = spec.model_copy(update={"clinics": (bad, ClinicGroup(profile="hospital"))})
    factor = {None: 1.0, "sign-flip": -3.0, "scaled": 3.0}[hostile]
    plan, federation = plan_of(spec)
    initial = plan.job.network.initial_parameters(spec.seed)
    names = list(initial)
    w = np.concatenate([initial[name].double().numpy().ravel() for name in names])
    sizes = np.diff(federation.train.offsets)
    left = np.zeros((len(sizes), len(w)))
    for _ in range(6):
        moves = logistic(federation, w[:-1], w[-1], 0.7)
        sent = []
        for k, move in enumerate(moves):
            wanted = move * (factor if k == 1 else 1.0) + left[k]
            sent.append(by_hand(wanted, how.get("update_top_k", 1.0), "update_dtype" in how))
            left[k] = wanted - sent[k]
        w = w + sum(size * each for size, each in zip(sizes, sent, strict=True)) / sizes.sum()
    trained = train_run(plan, federation).parameters
    found = np.concatenate([trained[name].double().numpy().ravel() for name in names])
    assert np.abs(left).max() > 1e-3 if "update_top_k" in how else np.abs(left).max() > 0
    assert np.abs(found - w).max() < 2e-6


@pytest.mark.parametrize("how", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize(("strategy", "cut"), METHODS)
def test_planned_updates_take_fewer_bytes_and_training_counts_the_same(ragged, strategy, cut, how):
    """Training ends with an error where a counted byte differs from the plan."""
    full, small = (plan_of(run_spec(ragged, strategy, cut, rounds=2, **settings))[0] for settings in ({}, how))
    parts = small.job.protocol.clinic_parts
    numbers = sum(small.job.part(part).parameter_count() for part in parts)
    kept = max(1, math.ceil(how.get("update_top_k", 1.0) * numbers))
    a_clinic = math.ceil(kept / 32) * 33 if "update_dtype" in how else 4 * kept
    a_clinic += 4 * kept if kept < numbers else 0
    assert small.traffic["up", Kind.UPDATE].tolist() == [2 * a_clinic] * 3
    assert ("up", Kind.MODEL) not in small.traffic
    assert small.traffic["down", Kind.MODEL].tolist() == full.traffic["down", Kind.MODEL].tolist()
    assert full.traffic["up", Kind.MODEL].tolist() == [2 * 4 * numbers] * 3
    assert small.round_seconds[0] < full.round_seconds[0]
    assert small.columns()["peak_clinic_bytes"] == full.columns()["peak_clinic_bytes"] + 4 * numbers
    train_spec(run_spec(ragged, strategy, cut, rounds=2, **how))


@pytest.mark.parametrize(
    ("strategy", "cut"), [("fedavg", None), ("splitfed-v1", "u-shaped"), ("splitfed-v2", "vanilla")]
)
def test_neither_messages_nor_nodes_change_what_is_trained(ragged, strategy, cut):
    plan, federation = plan_of(run_spec(ragged, strategy, cut, update_dtype="int8", update_top_k=0.4))
    short = train_run(plan, federation).parameters
    heard = train_run(plan, federation, overheard=lambda asked, reply: None).parameters
    apart = train_run(plan, federation, 2).parameters
    assert bitwise(short, heard)
    assert bitwise(short, apart) or max(float((short[n] - apart[n]).abs().max()) for n in short) < 1e-6


def test_who_listens_hears_what_the_server_makes_of_an_update(ragged):
    heard = []

    def listen(asked, reply):
        if Kind.MODEL in reply.parts:
            heard.append((asked, reply))

    plan, federation = plan_of(run_spec(ragged, "fedavg", update_top_k=0.2, rounds=1))
    trained = train_run(plan, federation, overheard=listen).parameters
    [(asked, reply)] = heard
    sizes = np.array([plan.job.sizes[k] for k in reply.clinics])
    for name, value in reply.model.items():
        mean = np.tensordot(sizes / sizes.sum(), value.double().numpy(), 1)
        assert np.allclose(trained[name][0].numpy(), mean, atol=1e-6)
    moved = sum(int((value != asked.model[name]).flatten(1).sum(1).max()) for name, value in reply.model.items())
    numbers = sum(value[0].numel() for value in reply.model.values())
    assert 0 < moved <= len(reply.model) + math.ceil(0.2 * numbers) * len(reply.clinics)


@pytest.mark.parametrize("privacy", [DP_SGD, CLINIC_LEVEL], ids=["dp-sgd", "clinic-level"])
def test_epsilon_is_what_it_is_without(ragged, privacy):
    without, plan = (plan_of(run_spec(ragged, "fedavg", privacy=privacy, **how))[0] for how in ({}, SETTINGS["both"]))
    epsilons = [name for name in plan.columns() if name.startswith("epsilon_")]
    assert [plan.columns()[name] for name in epsilons] == [without.columns()[name] for name in epsilons]
    train_spec(run_spec(ragged, "fedavg", privacy=privacy, **SETTINGS["both"]))


@pytest.mark.parametrize(
    ("strategy", "cut", "how", "said"),
    [
        ("split", "vanilla", {}, "nothing that clinics send is averaged"),
        ("splitfed-v3", "vanilla", {}, "nothing that clinics send is averaged"),
        ("local", None, {}, "nothing that clinics send is averaged"),
        ("flwr.serverapp.strategy.FedAvg", None, {}, "is sent whole models"),
        ("fedavg", None, {"privacy": {"secure-aggregation": True}}, "masked updates"),
    ],
)
def test_it_is_refused_where_nothing_is_compressed(ragged, strategy, cut, how, said):
    with pytest.raises(ScenarioError, match=rf"train.update-dtype, train.update-top-k: .*{said}"):
        plan_of(run_spec(ragged, strategy, cut, update_dtype="int8", update_top_k=0.5, **how))


def test_the_statement_says_that_it_promises_nothing(ragged):
    plan, _ = plan_of(run_spec(ragged, "fedavg", update_dtype="int8"))
    outside = {row["what"]: row["note"] for row in privacy_statement(plan, {}, finished=False)["outside"]}
    assert "promises nothing" in outside["compressed updates"]
