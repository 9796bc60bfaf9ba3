"""BatchNorm, an explicit choice: statistics averaged with the part they belong to, or each clinic's own."""

from collections import OrderedDict
from itertools import pairwise

import pytest
import torch
from split_twins import (
    CUT,
    METHODS,
    OWN_MODELS,
    TWINS,
    Method,
    Place,
    SplitTwin,
    apart,
    batches_of,
    changed,
    train_batch,
)
from support import bitwise, plan_of, run_spec, train_spec, write_csv
from torch import nn
from twins import weighted_average
from wire import travelling

from sim.foundation.problems import ScenarioError
from sim.models import Block, Part
from sim.study.train import train_run
from sim.tensor.lane_rules import BatchStatistics
from sim.tensor.lanes import forward, gradients, leaves

CHOICES = ("average", "local")


def normalised(input_shape, outputs):
    """Return blocks with a BatchNorm in the head, the body and the tail of a u-shaped cut."""
    return [
        ("a", nn.Sequential(nn.Linear(*input_shape, 6), nn.BatchNorm1d(6), nn.ReLU())),
        ("b", nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5, momentum=0.3, affine=False), nn.Tanh())),
        ("c", nn.Sequential(nn.BatchNorm1d(5, eps=1e-3), nn.Linear(5, outputs))),
    ]


def in_images(input_shape, outputs):
    return [
        ("a", nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2, padding=1), nn.BatchNorm2d(3), nn.ReLU())),
        ("b", nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), nn.ReLU())),
        ("c", nn.Sequential(nn.Flatten(), nn.Linear(16, outputs))),
    ]


def plain(input_shape, outputs):
    return [("a", nn.Linear(*input_shape, 4)), ("b", nn.ReLU()), ("c", nn.Linear(4, outputs))]


FACTORIES = {"normalised": normalised, "in_images": in_images}


class NormTwin(SplitTwin):
    """A run seen by plain PyTorch modules in training mode."""

    def module(self, state):
        factory = FACTORIES[self.spec.model.factory.partition(":")[2]]
        blocks = OrderedDict(factory(self.federation.train.x.shape[1:], self.outputs))
        module = nn.Sequential(blocks)
        missing, unexpected = module.load_state_dict(state, strict=False)
        assert not unexpected
        assert all(name.endswith("num_batches_tracked") for name in missing)
        for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)):
            norm.num_batches_tracked = None
        return module


def statistics_of(state):
    return {name: value.clone() for name, value in state.items() if name.endswith(("running_mean", "running_var"))}


def with_own(state, own):
    models = [state | each for each in own]
    return {name: torch.stack([model[name] for model in models]) for name in state}


def local_whole(twin):
    """Federated averaging whose clinics put their own statistics back into the common model; V1 is the same."""
    state = twin.initial()
    own = [statistics_of(state) for _ in twin.records]
    for server_round in twin.rounds:
        models = []
        for k in twin.there(server_round):
            module = twin.module(state | own[k])
            twin.fit(module, [twin.optimizer(module)], server_round, k, *twin.records[k])
            own[k] = statistics_of(module.state_dict())
            models.append((len(twin.records[k][1]), module.state_dict()))
        state = weighted_average(models)
    return with_own(state, own)


def local_split(twin):
    state = twin.initial()
    server, last = Place.build(twin, state, ("body",)), Place.build(twin, state, twin.clinic_parts)
    own = [statistics_of(last.state()) for _ in twin.records]
    for server_round in twin.rounds:
        for turn in twin.turns(batches_of(twin, server_round, twin.order(server_round))):
            clinic = Place.build(twin, state, twin.clinic_parts)
            clinic.take_over(last)
            k = turn[0].clinic
            for part in clinic.parts.values():
                part.load_state_dict(own[k], strict=False)
            for batch in turn:
                train_batch(twin, clinic, server, batch)
            own[k], last = statistics_of(clinic.state()), clinic
    return with_own(last.state() | server.state(), own)


def local_splitfed_v2(twin):
    state = twin.initial()
    server = Place.build(twin, state, ("body",))
    own = [statistics_of(Place.build(twin, state, twin.clinic_parts).state()) for _ in twin.records]
    for server_round in twin.rounds:
        batches = batches_of(twin, server_round, twin.order(server_round))
        clinics = {k: Place.build(twin, state | own[k], twin.clinic_parts) for k in batches}
        for batch in (batch for turn in twin.turns(batches) for batch in turn):
            train_batch(twin, clinics[batch.clinic], server, batch)
        own = [statistics_of(clinics[k].state()) if k in clinics else each for k, each in enumerate(own)]
        averaged = weighted_average([(batches[k][0].size, clinic.state()) for k, clinic in clinics.items()])
        state = averaged | server.state()
    return with_own(state, own)


def local_splitfed_v3(twin):
    state = twin.initial()
    clinics = [Place.build(twin, state, twin.clinic_parts) for _ in twin.records]
    own = [statistics_of(Place.build(twin, state, ("body",)).state()) for _ in twin.records]
    for server_round in twin.rounds:
        bodies = []
        for k, batches in batches_of(twin, server_round, twin.there(server_round)).items():
            server = Place.build(twin, state | own[k], ("body",))
            for batch in batches:
                train_batch(twin, clinics[k], server, batch)
            own[k] = statistics_of(server.state())
            bodies.append((batches[0].size, server.state()))
        state = state | weighted_average(bodies)
    return with_own(state, [each | clinic.state() for each, clinic in zip(own, clinics, strict=True)])


LOCAL = {
    "fedavg": local_whole,
    "fedavg-finetuned": local_whole,
    "fedavg-own-head": local_whole,
    "splitfed-v1": local_whole,
    "split": local_split,
    "splitfed-v2": local_splitfed_v2,
    "splitfed-v3": local_splitfed_v3,
}


def spec_of(method, csv, choice="average", factory="normalised", **settings):
    model = {"name": "factory", "factory": f"test_batch_norm:{factory}", "hidden": [6]}
    if choice is not None:
        model["batch-norm"] = choice
    return method.spec(csv, model=model, **{"rounds": 2, "local_epochs": 2, "learning_rate": 0.05} | settings)


def by_twin(spec, plan, federation):
    twin = NormTwin(spec, federation, plan.noise_multipliers)
    name = spec.strategy.name
    if spec.model.batch_norm == "local" and name in LOCAL:
        return LOCAL[name](twin)
    state = TWINS[name](twin)
    return state if name in OWN_MODELS else {key: value[None] for key, value in state.items()}


CASES = [
    pytest.param(method, factory, choice, id=f"{method}-{factory}-{choice}")
    for method in METHODS
    for factory in FACTORIES
    for choice in CHOICES
    if method.strategy != "fedprox" or choice == "average"  # as fedavg
    if factory == "normalised" or (choice == "local") == (method.cut == "u-shaped")
]


@pytest.mark.parametrize(("method", "factory", "choice"), CASES)
def test_every_strategy_equals_plain_pytorch_with_batch_norm(ragged, method, factory, choice):
    """Ragged clinics, so that lanes are padded; the bytes that crossed are held against the plan by training itself."""
    spec = spec_of(method, ragged, choice, factory)
    plan, federation = plan_of(spec)
    assert apart(train_run(plan, federation).parameters, by_twin(spec, plan, federation)) < 2e-6


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("method", [Method("fedavg"), *CUT[4:6], *CUT[-2:]], ids=str)
def test_with_some_clinics_only_the_others_keep_what_they_have(ragged, method, choice):
    spec = spec_of(method, ragged, choice, participation=0.5, rounds=3)
    plan, federation = plan_of(spec)
    assert apart(train_run(plan, federation).parameters, by_twin(spec, plan, federation)) < 2e-6


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("method", [Method("fedavg"), *CUT[4:6]], ids=str)
def test_with_one_clinic_they_are_centralised(tmp_path, method, choice):
    csv = write_csv(tmp_path / "alone.csv", [61])
    pooled = train_spec(spec_of(Method("centralised"), csv, choice)).parameters
    assert apart(train_spec(spec_of(method, csv, choice)).parameters, pooled) < 1e-6


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("method", [Method("fedavg"), *CUT[:2], *CUT[-2:]], ids=str)
def test_node_groups_give_the_same_model(ragged, method, choice):
    spec = spec_of(method, ragged, choice)
    assert apart(train_spec(spec, 3).parameters, train_spec(spec).parameters) < 1e-6


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("method", [CUT[0], CUT[3], *CUT[4:6], *CUT[-2:]], ids=str)
def test_a_repeated_forward_pass_counts_the_batch_once(ragged, method, choice):
    """A turn that is rebuilt from the node's state runs the head's forward pass again."""
    spec = spec_of(method, ragged, choice, local_epochs=1)
    kept = train_spec(spec).parameters

    plan, federation = plan_of(spec)
    assert bitwise(train_run(plan, federation, through=travelling()).parameters, kept)


def test_statistics_that_stay_do_not_cross(ragged):
    """Two statistics of 6 + 5 + 5 channels, four bytes each, in every message that carries the model."""
    moved = [train_spec(spec_of(Method("fedavg"), ragged, choice)).meter.traffic for choice in CHOICES]
    for direction in ("up", "down"):
        saved = moved[0][direction, "model"] - moved[1][direction, "model"]
        assert saved.tolist() == [2 * 4 * 2 * (6 + 5 + 5)] * 4


@pytest.mark.parametrize("factory", FACTORIES)
def test_evaluation_takes_the_running_statistics_of_each_clinic(ragged, factory):
    spec = spec_of(Method("fedavg"), ragged, "local", factory)
    plan, federation = plan_of(spec)
    trained = train_run(plan, federation)
    twin, test = NormTwin(spec, federation), federation.test
    for k, (first, last) in enumerate(pairwise(test.offsets)):
        module = twin.module({name: value[k] for name, value in trained.parameters.items()}).eval()
        with torch.no_grad():
            loss = twin.loss(module(torch.tensor(test.x[first:last])), torch.tensor(test.y[first:last])) / (
                last - first
            )
        assert trained.evaluations[-1].by_clinic["loss"][k] == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.parametrize(("module", "shape"), [(nn.BatchNorm1d(3), (3,)), (nn.BatchNorm2d(2), (2, 3, 2))])
def test_padding_does_not_count_whatever_it_holds(module, shape):
    torch.manual_seed(0)
    part, rows = Part("model", (Block("n", module),)), [4, 2]
    names = {name: torch.stack([value] * 2) for name, value in module.named_parameters()}
    parameters = {f"n.{name}": torch.randn_like(value) for name, value in names.items()}
    running = {f"n.{name}": torch.rand(2, shape[0]) for name in ("running_mean", "running_var")}
    x = torch.randn(2, 4, *shape)
    x[1, 2:] = 1e4
    x.requires_grad_()
    leaf, norms = leaves(parameters), BatchStatistics(torch.tensor(rows))
    y = forward(part, {**leaf, **running}, x, norms=norms)
    cotangent = torch.randn_like(y)
    cotangent[1, 2:] = 0
    grads, input_gradient = gradients(y, leaf, x, cotangent)
    assert not input_gradient[1, 2:].any()
    for lane, n in enumerate(rows):
        state = {key.removeprefix("n."): value[lane] for key, value in {**parameters, **running}.items()}
        module.load_state_dict(state, strict=False)
        own = x[lane, :n].detach().clone().requires_grad_()
        plain = module.train()(own)
        module.zero_grad()
        plain.backward(cotangent[lane, :n])
        torch.testing.assert_close(y[lane, :n], plain, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(input_gradient[lane, :n], own.grad, rtol=1e-4, atol=1e-5)
        for gradient, parameter in zip(grads, module.parameters(), strict=True):
            torch.testing.assert_close(gradient[lane], parameter.grad, rtol=1e-4, atol=1e-5)
        for name in running:
            updated = torch.cat(norms.updated[name])[lane]
            torch.testing.assert_close(updated, getattr(module, name.removeprefix("n.")), rtol=1e-5, atol=1e-6)


MECHANISMS = {
    "dp-sgd": {"mechanism": "dp-sgd", "noise-multiplier": 1.0, "clip": 1.0, "delta": 1e-3},
    "clinic-level": {"mechanism": "clinic-level", "noise-multiplier": 1.0, "clip": 1.0, "delta": 1e-3},
}


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_no_mechanism_goes_with_batch_norm(ragged, mechanism):
    spec = spec_of(Method("fedavg"), ragged, privacy=MECHANISMS[mechanism])
    with pytest.raises(ScenarioError, match=f"^model: holds BatchNorm, .* so that {mechanism} bounds no record's"):
        plan_of(spec)


def test_what_batch_norm_does_not_go_with_is_one_line(ragged, tmp_path):
    frozen = spec_of(CUT[4], ragged)
    frozen = changed(frozen, "model", freeze=("head",))
    one_left = write_csv(tmp_path / "one.csv", [12, 23])
    cases = [
        (frozen, "model.freeze: the head cannot be frozen in a model with BatchNorm; use GroupNorm"),
        (
            spec_of(Method("flwr.serverapp.strategy.FedAdam"), ragged),
            "model.batch-norm: flwr.serverapp.strategy.FedAdam",
        ),
        (spec_of(Method("fedavg"), one_left, batch_size=1), "train.batch-size: k0 has "),
        (
            spec_of(Method("fedavg"), ragged, factory="plain"),
            "holds no BatchNorm, so that model.batch-norm has no effect",
        ),
        (
            spec_of(Method("fedavg"), ragged, None),
            "holds BatchNorm: say whose running statistics count with model.batch",
        ),
    ]
    for spec, line in cases:
        with pytest.raises(ScenarioError) as caught:
            plan_of(spec)
        assert line in str(caught.value)
        assert "\n" not in str(caught.value)
    plan_of(spec_of(Method("fedavg"), one_left, factory="in_images", batch_size=1))


def test_a_built_in_model_takes_no_choice(ragged):
    with pytest.raises(ScenarioError, match=r'model\.batch-norm: has no effect on "mlp"'):
        run_spec(ragged, model={"batch-norm": "local"})
