"""Vertical split learning: parties with different columns of the same patients."""

import math

import numpy as np
import pytest
import torch
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from sklearn.metrics import roc_auc_score
from support import DP_SGD, JOINT, bitwise, distance, plan_of, write_csv
from torch.nn import functional
from vertical import PARTIES, TWO, Twin, batches, scenario_of, spec_of, train_plainly
from wire import again, differences, record, travelling, unlisted, with_record

from sim.attacks.observation import Findings
from sim.foundation.problems import ScenarioError
from sim.methods.attendance import available
from sim.methods.node_group import NodeGroup
from sim.plan.plan import make_plan
from sim.scenario import parse_scenario
from sim.scenario.clinics import Behaviour
from sim.scenario.spec import expand
from sim.study.tables import clinics_table
from sim.study.train import train_run

COLUMNS = [[0, 1], [2], [3, 4]]
CUTS = pytest.mark.parametrize("cut", ["vanilla", "u-shaped"])
OPTIMIZERS = {
    "sgd": {"optimizer": "sgd", "learning-rate": 0.1},
    "momentum": {"optimizer": "momentum", "learning-rate": 0.03},
    "adam": {"optimizer": "adam", "learning-rate": 0.02, "local-epochs": 2},
}


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("vertical") / "patients.csv", sizes=[50], features=5)


def tensors(federation):
    return torch.tensor(federation.train.x), torch.tensor(federation.train.y)


# The model


@CUTS
@pytest.mark.parametrize("join", ["concatenation", "sum", "mean"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_is_a_block_diagonal_model_trained_in_one_place(csv, cut, join, optimizer):
    spec = spec_of(csv, cut=cut, options={"join": join}, train=OPTIMIZERS[optimizer])
    plan, federation = plan_of(spec)
    start = plan.job.network.initial_parameters(spec.seed)
    twin = Twin(COLUMNS, start, join)
    train_plainly(spec, twin.forward, twin.parameters, *tensors(federation))
    trained = train_run(plan, federation)
    assert distance(start, twin.by_name()) > 1e-2, "the twin did not train; the test would be blind"
    assert distance(trained.parameters, twin.by_name()) < 1e-5
    logits = twin.forward(torch.tensor(federation.test.x)).detach().double().sigmoid().numpy()
    assert trained.evaluations[-1].predicted[:, 1] == pytest.approx(logits, abs=1e-5)


@CUTS
def test_with_equal_draws_both_cuts_are_one_model(csv, cut):
    one, other = (train_run(*plan_of(spec_of(csv, cut=each))) for each in ("vanilla", cut))
    assert distance(one.parameters, other.parameters) < 1e-6


@CUTS
@pytest.mark.parametrize("privacy", [{"mechanism": "none"}, JOINT], ids=["plain", "joint"])
def test_nodes_and_travelling_states_change_nothing(csv, cut, privacy):
    plan, federation = plan_of(spec_of(csv, cut=cut, privacy=privacy))
    alone = train_run(plan, federation)
    assert bitwise(alone.parameters, train_run(plan, federation, 3).parameters)
    assert bitwise(alone.parameters, train_run(plan, federation, 2, through=travelling()).parameters)


@CUTS
@pytest.mark.parametrize("join", ["concatenation", "sum", "mean"])
def test_zeros_stand_for_a_party_that_is_away(csv, cut, join):
    parties = [{**PARTIES[0], "availability": 0.5}, PARTIES[1], {**PARTIES[2], "availability": 0.6}]
    spec = spec_of(csv, cut=cut, parties=parties, options={"join": join}, train={"rounds": 6})
    plan, federation = plan_of(spec)
    there = available(spec.seed, [Behaviour(availability=share) for share in (0.5, 1.0, 0.6)], 6)
    present = [np.flatnonzero(row).tolist() for row in there]
    assert {tuple(each) for each in present} == {(0, 1, 2), (0, 1), (1, 2)}, "nobody is away; the test would be blind"
    twin = Twin(COLUMNS, plan.job.network.initial_parameters(spec.seed), join)
    x, y = tensors(federation)
    for number, rows in enumerate(batches(spec, len(y))):
        logits = twin.forward(x[rows], present=present[number // 5])
        loss = functional.binary_cross_entropy_with_logits(logits, y[rows].float())
        with torch.no_grad():
            for value, slope in zip(twin.parameters, torch.autograd.grad(loss, twin.parameters), strict=True):
                value -= 0.1 * slope
    trained = train_run(plan, federation)
    assert distance(trained.parameters, twin.by_name()) < 1e-5
    assert [clinic.rounds for clinic in plan.clinics] == there.sum(0).tolist()
    assert trained.meter.traffic["up", "smashed"].tolist() == (there.sum(0) * len(y) * 12).tolist()


@pytest.mark.parametrize("join", ["concatenation", "sum", "mean"])
def test_a_party_may_be_missing_at_prediction(csv, join):
    spec = spec_of(csv, options={"join": join})
    plan, federation = plan_of(spec)
    trained = train_run(plan, federation)
    table = clinics_table(plan, trained, Findings([], []), federation)
    twin = Twin(COLUMNS, trained.parameters, join)
    for party, name in enumerate(("doctor", "laboratory", "imaging")):
        logits = twin.forward(torch.tensor(federation.test.x), present=[k for k in range(3) if k != party])
        expected = roc_auc_score(federation.test.y, logits.detach())
        assert table["absent_auc"][table["name"].index(name)] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("party", [0, 1, 2])
def test_a_party_alone_is_a_model_on_its_columns(csv, party):
    named = {} if PARTIES[party].get("label") else {"options": {"party": PARTIES[party]["name"]}}
    spec = spec_of(csv, "vertical-alone", **named)
    plan, federation = plan_of(spec)
    start = plan.job.network.initial_parameters(spec.seed)
    layers = [value[0].clone().requires_grad_() for value in start.values()]
    assert [tuple(value.shape) for value in layers] == [(3, len(COLUMNS[party])), (3,), (4, 3), (4,), (1, 4), (1,)]

    def forward(x):
        w1, b1, w2, b2, w3, b3 = layers
        hidden = functional.linear(functional.linear(x[:, COLUMNS[party]], w1, b1).relu(), w2, b2).relu()
        return functional.linear(hidden, w3, b3).squeeze(-1)

    train_plainly(spec, forward, layers, *tensors(federation))
    trained = train_run(plan, federation)
    assert distance(trained.parameters, {n: v.detach()[None] for n, v in zip(start, layers, strict=True)}) < 1e-5
    assert trained.meter.traffic == {}
    assert [clinic.rounds for clinic in plan.clinics] == [3 * (k == party) for k in range(3)]


def test_all_columns_together_are_one_dense_model_and_cross_once(csv):
    spec = spec_of(csv, "centralised")
    plan, federation = plan_of(spec)
    start = plan.job.network.initial_parameters(spec.seed)
    layers = [value[0].clone().requires_grad_() for value in start.values()]

    def forward(x):
        for weight, bias in zip(layers[::2], layers[1::2], strict=True):
            x = functional.linear(x.relu() if weight is not layers[0] else x, weight, bias)
        return x.squeeze(-1)

    train_plainly(spec, forward, layers, *tensors(federation))
    trained = train_run(plan, federation, 2)
    assert distance(trained.parameters, {n: v.detach()[None] for n, v in zip(start, layers, strict=True)}) < 1e-5
    patients = len(federation.train.y)
    assert trained.meter.traffic["up", "records"].tolist() == [4 * patients * width for width in (2, 1, 2)]
    assert trained.meter.traffic["up", "labels"].tolist() == [0, patients, 0]


# What it costs, by hand


PARTS = {"latency": "10 ms", "profile": None}


def two_batches(csv, cut, **tables):
    train = {"rounds": 1, "batch-size": 20}
    return plan_of(spec_of(csv, cut=cut, parties=TWO, train=train, server={"compute": "1 MFLOP/s"}, **tables))


@CUTS
def test_bytes_of_two_parties_and_two_batches(csv, cut):
    plan, _ = two_batches(csv, cut)
    rows, row, header = 40, 4 * 3, 512
    expected = {
        ("up", "smashed"): [rows * row] * 2,
        ("down", "cut-gradient"): [rows * row] * 2,
        ("up", "headers"): [2 * header] * 2,
        ("down", "headers"): [2 * header] * 2,
    }
    if cut == "vanilla":
        expected["up", "labels"] = [0, rows]
    else:  # the body's last layer here is the second, of 4
        expected["up", "tail-gradient"] = expected["down", "body-output"] = [0, rows * 4 * 4]
        expected["up", "headers"] = expected["down", "headers"] = [2 * header, 4 * header]
    assert {key: value.tolist() for key, value in plan.traffic.items()} == expected


@CUTS
def test_seconds_of_two_parties_and_two_batches(csv, cut):
    plan, _ = two_batches(csv, cut)
    batch, header, row = 20, 512, 12
    head = [batch * 2 * 2 * 3 / 1e6, batch * 2 * 3 * 3 / 1e5]  # forward; backward, of the weights alone, is as much
    second, third = 2 * 6 * 4, 2 * 4 * 1
    extra = 1 if cut == "vanilla" else 0
    up = [0.010 + 8 * (batch * row + header) / 1e6, 0.001 + 8 * (batch * (row + extra) + header) / 8e6]
    down = [0.010 + 8 * (batch * row + header) / 2e6, 0.001 + 8 * (batch * row + header) / 8e6]
    now = [0.0, 0.0]
    for _ in range(2):
        together = max(now[k] + head[k] + up[k] for k in range(2))
        if cut == "vanilla":
            together += batch * 3 * (second + third) / 1e6
        else:
            wide = 0.001 + 8 * (batch * 16 + header) / 8e6
            together += batch * 3 * second / 1e6 + 2 * wide + batch * 3 * third / 1e5
        now = [together + down[k] + head[k] for k in range(2)]
    assert plan.round_seconds == pytest.approx([max(now)], rel=1e-12)
    assert sum(clinic.flops for clinic in plan.clinics) == 40 * (
        2 * 12 + 2 * 18 + (0 if cut == "vanilla" else 3 * third)
    )
    assert plan.server_flops == 40 * 3 * (second + third if cut == "vanilla" else second)


@CUTS
@pytest.mark.parametrize("clipping", ["per-part", "joint"])
def test_epsilon_of_two_parties_and_two_batches(csv, cut, clipping):
    privacy = {"mechanism": "dp-sgd", "noise-multiplier": 1.5, "clip": 0.5, "delta": 1e-3, "clipping": clipping}
    plan, _ = two_batches(csv, cut, privacy=privacy)
    accountant = PLDAccountant()
    accountant.compose(SelfComposedDpEvent(PoissonSampledDpEvent(0.5, GaussianDpEvent(1.5)), 2))
    for clinic in plan.clinics:
        assert clinic.epsilon["model-user"] == pytest.approx(accountant.get_epsilon(1e-3), rel=1e-2)
        assert clinic.epsilon["server"] == clinic.epsilon["peer-clinic"] == math.inf
    seen = {release.what for release in plan.ledger.releases if "peer-clinic" in release.adversaries}
    assert seen >= {"cut-gradient"} | ({"clip-factors"} if clipping == "joint" else set())


# The wire


def test_a_party_has_its_own_columns_and_only_the_holder_has_labels(csv):
    plan, federation = plan_of(spec_of(csv))
    for party, columns in enumerate(COLUMNS):
        group = NodeGroup.build(plan.job, federation.train, [party])
        others = [place for place in range(5) if place not in columns]
        assert group.x[:, columns].equal(torch.tensor(federation.train.x[:, columns]))
        assert not group.x[:, others].any()
        assert bool(group.y.any()) == (party == 1)


@pytest.mark.parametrize("nodes", [1, 3])
@pytest.mark.parametrize("privacy", [{"mechanism": "none"}, DP_SGD, JOINT], ids=["none", "dp-sgd", "joint"])
@CUTS
def test_each_byte_is_listed_and_labels_stay_with_their_holder(csv, one_key, cut, privacy, nodes):
    spec = spec_of(csv, cut=cut, privacy=privacy, train={"rounds": 1})
    plan, federation = plan_of(spec)
    run = record(plan, federation, nodes)
    assert not unlisted(run)
    replaced = with_record(csv, spec, 0, [3.0, -2.5, 4.0, -1.5, 2.0])
    other = spec.model_copy(update={"data": spec.data.model_copy(update={"path": replaced})})
    changed = again(run, other, nodes)
    assert not unlisted(changed)
    assert not differences(run, changed, 0)
    for reply in (each for each in run.replies if each.what != "query.hello"):
        assert len(reply.clinics) == 1
        if reply.clinics != [1]:
            assert reply.kinds <= {"smashed", "norms"}
        assert ("labels" in reply.kinds) <= (cut == "vanilla")


def test_u_shaped_no_label_moves_what_leaves_before_the_gradient_does(csv):
    """With every label flipped, what parties send first is the same; the holder's gradient is not."""
    spec = spec_of(csv, cut="u-shaped", train={"rounds": 1})
    plan, federation = plan_of(spec)
    flipped = csv.with_name("flipped.csv")
    words = {"class0": "class1", "class1": "class0"}
    lines = csv.read_text(encoding="utf-8").splitlines()
    told = [",".join([a, words[b], *rest]) for a, b, *rest in (line.split(",") for line in lines[1:])]
    flipped.write_text("\n".join([lines[0], *told]) + "\n", encoding="utf-8")
    other = spec.model_copy(update={"data": spec.data.model_copy(update={"path": flipped})})
    one, two = record(plan, federation), again(record(plan, federation), other)
    first = {k: (one.rows_of("smashed", k)[0], two.rows_of("smashed", k)[0]) for k in range(3)}
    assert all(np.array_equal(a, b) for a, b in first.values())
    assert not np.array_equal(one.rows_of("tail-gradient", 1)[0], two.rows_of("tail-gradient", 1)[0])


# What is refused


@pytest.mark.parametrize(
    ("tables", "what"),
    [
        ({"strategy": "fedavg"}, "fedavg is not for a vertical layout"),
        ({"train": {"participation": 0.5}}, "train.participation"),
        ({"train": {"deadline": "1 min"}}, "train.deadline"),
        (
            {"parties": [PARTIES[0], {**PARTIES[1], "availability": 0.5}, PARTIES[2]]},
            "without the label's holder nothing trains",
        ),
        ({"parties": [{**PARTIES[0], "drop-out": 0.5}, *PARTIES[1:]]}, "drop-out"),
        ({"server": {"uplink": "1 Gbit/s"}}, "a link that parties share"),
        (
            {"privacy": {"mechanism": "clinic-level", "noise-multiplier": 1.0, "clip": 1.0, "delta": 1e-3}},
            "clinic-level",
        ),
        ({"privacy": {"trust": "active"}}, "active server"),
        ({"model": {"name": "logistic"}}, "no heads for parties"),
        ({"model": {"name": "mlp", "hidden": [3], "cut": 5}}, "lies outside the model"),
        ({"options": {"join": "product"}}, "strategies.options.join"),
        ({"strategy": "vertical-alone", "options": {"party": "nobody"}}, "strategies.options.party"),
        ({"parties": [{**PARTIES[0], "columns": ["x9"]}, *PARTIES[1:]]}, "is no feature"),
        ({"parties": [{**PARTIES[0], "columns": ["x1"]}, *PARTIES[1:]]}, 'parties: no party holds "x0"; name it in'),
    ],
)
def test_what_is_not_covered_is_refused_in_one_line(csv, tables, what):
    with pytest.raises(ScenarioError) as error:
        plan_of(spec_of(csv, **tables))
    assert len(error.value.problems) == 1
    assert what in error.value.problems[0]


@pytest.mark.parametrize(
    ("tables", "what"),
    [
        ({"parties": PARTIES[:1]}, "at least two"),
        ({"parties": [PARTIES[0], PARTIES[2]]}, "none has label = true"),
        ({"parties": [{**PARTIES[0], "label": True}, *PARTIES[1:]]}, "doctor, laboratory have label = true"),
        ({"parties": [PARTIES[0], {**PARTIES[1], "columns": ["x1"]}]}, "\"x1\" is doctor's and laboratory's"),
        ({"clinics": [{"profile": "rural-dsl"}]}, "remove [[clinics]]"),
        ({"attacks": [{"name": "rmia"}]}, "rmia is not made on a vertical layout yet"),
        ({"parties": [{**PARTIES[0], "profile": {"hospital": 1.0}}, *PARTIES[1:]]}, "name one profile"),
    ],
)
def test_parties_that_do_not_fit_are_told(csv, tables, what):
    with pytest.raises(ScenarioError) as error:
        expand(parse_scenario(scenario_of(csv, **tables), csv.parent))
    assert any(what in line for line in error.value.problems)


def test_vertical_learning_needs_a_vertical_layout(csv):
    tables = scenario_of(csv)
    tables["data"] |= {"layout": "horizontal", "clinic": "clinic", "exclude": []}
    [spec] = expand(parse_scenario({**tables, "parties": []}, csv.parent))
    with pytest.raises(ScenarioError, match="vertical is not for a horizontal layout"):
        make_plan(spec, plan_of(spec.model_copy(update={"strategy": spec.strategy}))[1].facts)


# The battery: what else may be set


SITUATIONS = {
    "three classes": ({"classes": 3}, {}),
    "two classes by softmax, weighted": ({}, {"model": {"head": "softmax"}, "train": {"class-weights": [0.5, 3.0]}}),
    "momentum, weight decay, cosine": (
        {},
        {"train": {"optimizer": "momentum", "learning-rate": 0.03, "weight-decay": 0.2, "schedule": "cosine"}},
    ),
    "fewer patients than a batch, two epochs": ({"sizes": [14]}, {"train": {"batch-size": 30, "local-epochs": 2}}),
}


@CUTS
@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_model_is_the_twins_in_every_situation(tmp_path, cut, situation):
    file, tables = SITUATIONS[situation]
    path = write_csv(tmp_path / "patients.csv", **{"sizes": [50], "features": 5, **file})
    tables = dict(tables)
    model = {"name": "mlp", "hidden": [3, 4], "cut": [1, -1] if cut == "u-shaped" else 1, **tables.pop("model", {})}
    spec = spec_of(path, cut=cut, model=model, **tables)
    plan, federation = plan_of(spec)
    start = plan.job.network.initial_parameters(spec.seed)
    twin = Twin(COLUMNS, start)
    x, y = tensors(federation)
    train = spec.train
    momentum = 0.9 if train.optimizer == "momentum" else 0.0
    optimizer = torch.optim.SGD(
        twin.parameters, lr=train.learning_rate, momentum=momentum, weight_decay=train.weight_decay
    )
    weights = torch.tensor(train.class_weights or [1.0] * 3)
    steps = plan.job.steps(1)
    for number, rows in enumerate(batches(spec, len(y))):
        server_round = number // steps
        if train.schedule == "cosine":
            share = (1 + math.cos(math.pi * server_round / train.rounds)) / 2
            optimizer.param_groups[0]["lr"] = train.learning_rate * share
        outputs = twin.forward(x[rows])
        if outputs.dim() == 1:
            losses = functional.binary_cross_entropy_with_logits(outputs, y[rows].float(), reduction="none")
        else:
            losses = functional.cross_entropy(outputs, y[rows], reduction="none")
        optimizer.zero_grad()
        (losses * weights[y[rows]]).mean().backward()
        optimizer.step()
    trained = train_run(plan, federation)
    assert distance(start, trained.parameters) > 1e-2, "the run did not train; the test would be blind"
    assert distance(trained.parameters, twin.by_name()) < 2e-5
