"""The battery that every strategy passes with every cut, and the oracles that hold some of them to one another.

Each situation is a small federation with one thing that could go wrong. The simulator's model must be the one of the
plain PyTorch twin, and training itself holds every byte and every noised step against the plan.
"""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hostile import Opened
from situations import FILES, OPTIMIZERS, SITUATIONS
from split_twins import CUT, METHODS, PERSONAL, Method, SplitTwin, apart, batches_of, changed, expected, rounding, split
from support import (
    DP_SGD,
    bitwise,
    plan_of,
    run_spec,
    train_spec,
    write_amounts,
    write_csv,
    write_times,
)
from torch.nn import functional

from sim.data.federation import Records, load_federation
from sim.methods.feed import padded
from sim.methods.job import Job
from sim.methods.messages import Kind
from sim.methods.trainer import expand, trainer_for
from sim.plan.plan import make_plan
from sim.study.train import train_run

METHOD = pytest.mark.parametrize("method", METHODS, ids=str)
OPTIMIZER = pytest.mark.parametrize("optimizer", OPTIMIZERS)
SPLIT_CUTS = ("vanilla", "u-shaped")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("battery")
    written = {name: write_csv(folder / f"{name}.csv", **how) for name, how in FILES.items()}
    written["amounts"] = write_amounts(folder / "amounts.csv")
    written["times"] = write_times(folder / "times.csv")
    one_sided = written["one-sided"].read_text(encoding="utf-8")
    written["one-sided"].write_text(one_sided.replace("k1,class1", "k1,class0"), encoding="utf-8")
    return written


# Every strategy, every cut, every situation


SECOND_STAGE = {"dp-sgd, grades, clipped jointly", "dp-sgd, sparse rows, clipped jointly"}


@pytest.mark.parametrize(
    "situation", [pytest.param(name, marks=pytest.mark.slow if name in SECOND_STAGE else ()) for name in SITUATIONS]
)
@METHOD
def test_the_model_is_the_twins(files, method, situation):
    file, settings = SITUATIONS[situation]
    spec = method.spec(files[file], **{"rounds": 2, **settings})
    plan, federation = plan_of(spec)
    trained = train_run(plan, federation)
    start = {
        name: value[None].expand_as(trained.parameters[name])
        for name, value in SplitTwin(spec, federation).initial().items()
    }
    assert apart(trained.parameters, start) > 1e-2, "the run did not train; the test would be blind"
    assert apart(trained.parameters, expected(spec, plan, federation)) < rounding(spec)
    assert len(trained.evaluations) == spec.train.rounds + 1


def test_the_situations_are_what_they_are_called(files):
    def sizes(file, **settings):
        spec = run_spec(files[file], **settings)
        return np.diff(load_federation(spec.data, spec.seed).train.offsets).tolist()

    assert len(sizes("alone")) == 1
    first, second, *_, last = sizes("ragged")
    assert first < 8 < second < 30 < last
    assert max(sizes("uneven")) > 10 * min(sizes("uneven"))
    one_sided = Method("fedavg").spec(files["one-sided"])
    train = load_federation(one_sided.data, one_sided.seed).train
    assert [len(set(train.y[a:b])) for a, b in pairwise(train.offsets)] == [2, 1, 2]
    half = run_spec(files["ragged"], participation=0.5)
    drawn = [SplitTwin(half, load_federation(half.data, half.seed)).there(r) for r in (1, 2, 3)]
    assert [len(clinics) for clinics in drawn] == [2, 2, 2]
    assert len(set(map(tuple, drawn))) > 1, "the same clinics in all rounds"


@METHOD
def test_without_rounds_nothing_moves_and_nothing_crosses(files, method):
    for privacy in ({"mechanism": "none"}, DP_SGD):
        spec = method.spec(files["ragged"], privacy=privacy, rounds=0)
        plan, federation = plan_of(spec)
        trained = train_run(plan, federation)
        assert bitwise(trained.parameters, expected(spec, plan, federation))
        assert (len(trained.evaluations), trained.meter.traffic, trained.meter.noised_steps) == (1, {}, {})


@METHOD
def test_counted_releases_are_the_planned_ones_in_every_part(files, method):
    spec = method.spec(files["ragged"], privacy=DP_SGD, participation=0.5, rounds=3, local_epochs=2)
    plan, federation = plan_of(spec)
    counted = {part: tuple(steps.tolist()) for part, steps in train_run(plan, federation).meter.noised_steps.items()}
    assert counted == plan.noised_steps
    parts = {None: ["model"], "vanilla": ["head", "body"], "u-shaped": ["head", "body", "tail"]}[method.cut]
    steps = tuple(clinic.steps for clinic in plan.clinics)
    assert any(steps)
    assert counted == dict.fromkeys(parts, steps)


@pytest.mark.parametrize("privacy", [{"mechanism": "none"}, DP_SGD], ids=["plain", "dp-sgd"])
@METHOD
def test_any_grouping_of_nodes_gives_the_same_model_and_bytes(files, method, privacy):
    spec = method.spec(files["ragged"], privacy=privacy, participation=0.75, rounds=2, **OPTIMIZERS["adam"])
    plan, federation = plan_of(spec)
    one = train_run(plan, federation)
    for node_groups in (2, 4):
        several = train_run(plan, federation, node_groups)
        assert apart(several.parameters, one.parameters) < rounding(spec)
        assert several.meter.traffic.keys() == one.meter.traffic.keys()
        assert all(np.array_equal(several.meter.traffic[key], sizes) for key, sizes in one.meter.traffic.items())


def test_all_methods_begin_with_the_same_network_and_are_judged_on_the_same_records(files):
    specs = [method.spec(files["ragged"], rounds=0) for method in METHODS if method not in PERSONAL]
    begun = [train_spec(spec) for spec in specs]
    assert all(bitwise(run.parameters, begun[0].parameters) for run in begun)
    assert all(run.evaluations == begun[0].evaluations for run in begun)


# U-shaped and vanilla


@OPTIMIZER
@pytest.mark.parametrize(
    "keys",
    [{"strategy": "split"}, {"strategy": "split", "keys": (("alternate", "mini-batch"),)}, {"strategy": "splitfed-v1"}],
)
def test_u_shaped_is_vanilla_bit_for_bit(files, keys, optimizer):
    """Relay and V1 treat all parts alike; V2 and V3 do not average body and tail alike."""
    vanilla, u_shaped = (Method(cut=cut, **keys).spec(files["ragged"], **OPTIMIZERS[optimizer]) for cut in SPLIT_CUTS)
    assert bitwise(train_spec(u_shaped).parameters, train_spec(vanilla).parameters)


@pytest.mark.parametrize("strategy", ["splitfed-v2", "splitfed-v3"])
@pytest.mark.parametrize(("file", "equal"), [("alone", True), ("ragged", False)])
def test_u_shaped_v2_and_v3_are_vanilla_with_one_clinic_only(files, strategy, file, equal):
    vanilla, u_shaped = (train_spec(Method(strategy, cut).spec(files[file])).parameters for cut in SPLIT_CUTS)
    assert bitwise(u_shaped, vanilla) == equal
    assert equal or apart(u_shaped, vanilla) > 1e-4


# The order of the clinics


def train_permuted(spec, order):
    """Train with the clinics, records and all, numbered otherwise."""

    def permuted(records):
        pieces = [slice(*records.offsets[k : k + 2]) for k in order]
        sizes = [piece.stop - piece.start for piece in pieces]
        x, y = (np.concatenate([array[piece] for piece in pieces]) for array in (records.x, records.y))
        return Records(x, y, np.cumsum([0, *sizes]))

    found = load_federation(spec.data, spec.seed)
    parts = {name: permuted(getattr(found, name)) for name in ("train", "test", "validation")}
    other = replace(found, names=tuple(found.names[k] for k in order), **parts)
    renamed = spec.model_copy(update={"study": "permuted"})  # nodes keep what they have read, by all that is stated
    return train_run(make_plan(renamed, other.facts), other).parameters


ORDER_FREE = (
    *("centralised", "local", "fedavg", "fedavg-finetuned", "fedavg-own-head", "fedprox"),
    *("splitfed-v1", "splitfed-v3"),
)
OWN_MODEL = ("local", "splitfed-v3")


@METHOD
def test_permuting_the_clinics_changes_sequential_strategies_only(files, method):
    """Every batch holds all of a clinic's records, so that the batches are the same ones under another number."""
    spec = method.spec(files["ragged"], batch_size=1000, local_epochs=3)
    if method.strategy not in ORDER_FREE:
        spec = changed(spec, "strategy", order="fixed")
    order = [2, 0, 3, 1]
    here = train_spec(spec).parameters
    there = train_permuted(spec, order)
    if method.strategy in OWN_MODEL:
        here = {name: value[order] for name, value in here.items()}
    if method.strategy in ORDER_FREE:
        assert apart(there, here) < 1e-6
    else:
        assert apart(there, here) > 1e-4


@pytest.mark.parametrize("strategy", ["split", "splitfed-v2"])
def test_a_random_order_is_drawn_anew_each_round_and_a_fixed_one_is_not(files, strategy):
    spec = Method(strategy, "vanilla").spec(files["ragged"])
    _, federation = plan_of(spec)
    assert spec.strategy.order == "random"
    drawn = [SplitTwin(spec, federation).order(r) for r in range(1, 30)]
    assert all(sorted(order) == [0, 1, 2, 3] for order in drawn)
    assert {order[0] for order in drawn} == {0, 1, 2, 3}
    fixed = changed(spec, "strategy", order="fixed")
    assert [SplitTwin(fixed, federation).order(r) for r in (1, 2, 3)] == [[0, 1, 2, 3]] * 3


# The relay is training on the clinics' records one after another


def clinic_ordered_stream(twin):
    """Yield every batch of the run: round after round, clinic after clinic."""
    for server_round in twin.rounds:
        drawn = batches_of(twin, server_round, twin.order(server_round))
        for turn in twin.turns(drawn):
            yield from turn


def one_model_on_the_stream(twin):
    """Train the whole network, uncut, on the stream with the simulator's own step."""
    job = Job.build(twin.spec, twin.federation.facts)
    trainer = trainer_for(job, job.network.whole, [0], expand(job.network.initial_parameters(job.seed), 1))
    for batch in clinic_ordered_stream(twin):
        rows = len(batch.y)
        width = int(job.width(np.array(rows)))
        trainer.forward(padded(batch.x[None], width))
        trainer.loss(padded(batch.y[None], width), padded(torch.full((1, rows), 1 / rows), width))
        trainer.backward(batch.server_round, batch.step, np.array([rows]))
    return trainer.parameters


def one_module_on_the_stream(twin):
    """Train the whole network, uncut, on the stream in plain PyTorch."""
    module = twin.module(twin.initial())
    optimizer = twin.optimizer(module)
    for batch in clinic_ordered_stream(twin):
        optimizer.zero_grad()
        (twin.loss(module(batch.x), batch.y) / len(batch.y)).backward()
        optimizer.step()
    return {name: value[None] for name, value in module.state_dict().items()}


RELAYS = [method for method in CUT if method.strategy == "split"]


@OPTIMIZER
@pytest.mark.parametrize("order", ["random", "fixed"])
@pytest.mark.parametrize("method", RELAYS, ids=str)
def test_the_relay_is_centralised_training_on_the_clinic_ordered_stream(files, method, order, optimizer):
    settings = {"participation": 0.75, "local_epochs": 2, **OPTIMIZERS[optimizer]}
    spec = changed(method.spec(files["ragged"], **settings), "strategy", order=order)
    plan, federation = plan_of(spec)
    relay = train_run(plan, federation).parameters
    twin = SplitTwin(spec, federation)
    assert bitwise(relay, one_model_on_the_stream(twin))
    assert apart(relay, one_module_on_the_stream(twin)) < 1e-6


@OPTIMIZER
@pytest.mark.parametrize("method", RELAYS, ids=str)
def test_a_client_optimizer_made_anew_at_each_clinic_is_right_for_sgd_only(files, method, optimizer):
    spec = method.spec(files["ragged"], **OPTIMIZERS[optimizer])
    plan, federation = plan_of(spec)
    stream = one_model_on_the_stream(SplitTwin(spec, federation))
    assert bitwise(train_run(plan, federation).parameters, stream)

    def made_anew(app):
        def call(message, context):
            reply = app(message, context)
            if Kind.OPTIMIZER in reply.content:
                opened = Opened.of(reply.content)
                opened.kinds[Kind.OPTIMIZER] = {n: v * 0 for n, v in opened.kinds[Kind.OPTIMIZER].items()}
                opened.into(reply.content)
            return reply

        return call

    anew = train_run(plan, federation, through=made_anew).parameters
    assert apart(anew, expected(spec, plan, federation, lambda twin: split(twin, optimizer_state=False))) < 1e-6
    if optimizer == "sgd":
        assert bitwise(anew, stream)
    else:
        assert apart(anew, stream) > 1e-3


# One clinic


@pytest.mark.parametrize(("optimizer", "rounds"), [("sgd", 3), ("momentum", 1), ("adam", 1)])
@pytest.mark.parametrize("method", METHODS[2:], ids=str)
def test_with_one_clinic_every_strategy_is_centralised_bit_for_bit(files, method, optimizer, rounds):
    """With momentum or Adam for one round: averaged parts begin each round with a fresh optimiser."""
    settings = {"rounds": rounds, "local_epochs": 3, **OPTIMIZERS[optimizer]}
    if method.strategy == "fedprox":
        method = Method("fedprox")
    centralised = train_spec(Method("centralised").spec(files["alone"], **settings)).parameters
    assert bitwise(train_spec(method.spec(files["alone"], **settings)).parameters, centralised)


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
@pytest.mark.parametrize("method", [Method("local"), *RELAYS], ids=str)
def test_with_one_clinic_what_lives_on_is_centralised_over_rounds(files, method, optimizer):
    settings = {"rounds": 3, "local_epochs": 2, **OPTIMIZERS[optimizer]}
    centralised = train_spec(Method("centralised").spec(files["alone"], **settings)).parameters
    assert bitwise(train_spec(method.spec(files["alone"], **settings)).parameters, centralised)


# One local step; FedProx without a pull; any cut


def on_all_records(spec, federation):
    """Take one large-batch step a round, by hand."""
    twin = SplitTwin(spec, federation)
    x, y = torch.tensor(federation.train.x), torch.tensor(federation.train.y)
    module = twin.module(twin.initial())
    for _ in twin.rounds:
        loss = functional.binary_cross_entropy_with_logits(module(x)[:, 0], y.float())
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        with torch.no_grad():
            for value, gradient in zip(module.parameters(), gradients, strict=True):
                value -= spec.train.learning_rate * gradient
    return {name: value[None] for name, value in module.state_dict().items()}


@pytest.mark.parametrize("method", [m for m in METHODS if m.strategy in ("fedavg", "splitfed-v1")], ids=str)
def test_one_local_step_is_one_large_batch_step(files, method):
    spec = method.spec(files["ragged"], batch_size=64, learning_rate=0.4)
    plan, federation = plan_of(spec)
    assert all(clinic.records <= 64 for clinic in plan.clinics)
    assert apart(train_run(plan, federation).parameters, on_all_records(spec, federation)) < 1e-6


@pytest.mark.parametrize("participation", [1.0, 0.5])
@OPTIMIZER
def test_fedprox_without_a_pull_is_fedavg_bit_for_bit(files, optimizer, participation):
    settings = {"participation": participation, "local_epochs": 2, **OPTIMIZERS[optimizer]}
    fedavg = train_spec(Method("fedavg").spec(files["ragged"], **settings)).parameters
    assert bitwise(
        train_spec(Method("fedprox", None, (("proximal_mu", 0.0),)).spec(files["ragged"], **settings)).parameters,
        fedavg,
    )
    pulled = train_spec(Method("fedprox", None, (("proximal_mu", 1.0),)).spec(files["ragged"], **settings)).parameters
    assert apart(pulled, fedavg) > 1e-3


CUTS = {"vanilla": [1, 2, 3, -1], "u-shaped": [[1, 2], [1, 3], [2, 3], [1, -1]]}


@pytest.mark.parametrize("cut", SPLIT_CUTS)
@pytest.mark.parametrize("strategy", ["splitfed-v1", "split"])
def test_any_cut_of_a_network_of_four_blocks_gives_the_same_model(files, strategy, cut):
    def trained(where):
        model = {"hidden": [6, 5, 4], "cut": where}
        spec = run_spec(files["ragged"], strategy, cut, model=model, optimizer="adam", learning_rate=0.02)
        return train_spec(spec).parameters

    first, *others = map(trained, CUTS[cut])
    assert len(first) == 8
    assert all(bitwise(other, first) for other in others)


@pytest.mark.parametrize("strategy", ["splitfed-v2", "splitfed-v3"])
def test_where_v2_and_v3_are_cut_matters_and_every_cut_is_the_twins(files, strategy):
    found = []
    for where in (1, 2, 3):
        spec = run_spec(files["ragged"], strategy, "vanilla", model={"hidden": [6, 5, 4], "cut": where})
        plan, federation = plan_of(spec)
        found.append(train_run(plan, federation).parameters)
        assert apart(found[-1], expected(spec, plan, federation)) < 1e-6
    assert min(apart(a, b) for a, b in pairwise(found)) > 1e-4
