"""Bugs of published SplitFed code: the comparison with the twins passes, and fails where a twin has the bug."""

import copy

import numpy as np
import pytest
import torch
from split_twins import CUT, METHODS, OWN_MODELS, PERSONAL, TWINS, Method, SplitTwin, apart, changed, expected
from support import plan_of, train_spec, write_csv
from torch import nn
from torch.nn import functional

from sim.flower.wire import array_record, tensors_in
from sim.study.train import train_run

EQUAL, DIFFERENT = 1e-6, 1e-4
ADAM = {"optimizer": "adam", "learning_rate": 0.02}
MOMENTUM = {"optimizer": "momentum", "learning_rate": 0.03}
PARALLEL = [m for m in CUT if m.strategy in ("splitfed-v1", "splitfed-v3")]
SEQUENTIAL = [m for m in CUT if m.strategy in ("split", "splitfed-v2")]


class ServerOptimizerMadeAnewForEveryBatch(SplitTwin):
    def train_batch(self, clinic, server, batch):
        server.optimizers = {name: self.optimizer(part) for name, part in server.parts.items()}
        super().train_batch(clinic, server, batch)


class UnweightedAveraging(SplitTwin):
    def average(self, models):
        return super().average([(1, state) for _, state in models])


class ClientOptimizerStillHoldsTheOldHead(SplitTwin):
    """From the second round on it moves the tensors with which it was made, and the loaded head stays as it is."""

    def train_batch(self, clinic, server, batch):
        loaded = copy.deepcopy(clinic.parts["head"].state_dict())
        super().train_batch(clinic, server, batch)
        if batch.server_round > 1:
            clinic.parts["head"].load_state_dict(loaded)


class ByHand(SplitTwin):
    """One batch, written out without privacy; what bugs change are methods of their own."""

    def head_again(self, head, batch, smashed):
        return smashed

    def cut_gradient(self, at_server, again, server):
        return at_server.grad

    def step_clinic(self, clinic):
        for optimizer in clinic.optimizers.values():
            optimizer.step()

    def train_batch(self, clinic, server, batch):
        for optimizer in (*clinic.optimizers.values(), *server.optimizers.values()):
            optimizer.zero_grad()
        smashed = clinic.parts["head"](batch.x)
        at_server, body, tail = smashed.detach().requires_grad_(), server.parts["body"], clinic.parts.get("tail")
        outputs = body(at_server)
        if tail is None:
            (self.loss(outputs, batch.y) / len(batch.y)).backward()
        else:
            at_clinic = outputs.detach().requires_grad_()
            (self.loss(tail(at_clinic), batch.y) / len(batch.y)).backward()
            outputs.backward(at_clinic.grad)

        def again(x):
            if tail is None:
                return self.loss(body(x), batch.y) / len(batch.y)
            return (body(x) * at_clinic.grad).sum()

        for optimizer in server.optimizers.values():
            optimizer.step()
        gradient = self.cut_gradient(at_server, again, server)
        self.head_again(clinic.parts["head"], batch, smashed).backward(gradient)
        self.step_clinic(clinic)


class CutGradientsDividedByTheNumberOfClinics(ByHand):
    """What the mean loss over the clinics' joined activations does."""

    def cut_gradient(self, at_server, again, server):
        return at_server.grad / len(self.records)


class ForwardPassRecomputedWithAnotherDropout(ByHand):
    """The head runs a second time before its backward pass, with each input kept with a probability."""

    keep = 0.8

    def head_again(self, head, batch, smashed):
        masks = torch.Generator().manual_seed(batch.server_round)
        return head(batch.x * (torch.rand(batch.x.shape, generator=masks) < self.keep) / self.keep)


class ForwardPassRecomputedAsItWas(ForwardPassRecomputedWithAnotherDropout):
    keep = 1.0


class ClientStepBeforeTheCutGradientHasCome(ByHand):
    """The head's optimiser finds the gradient of the batch before, and none at the first."""

    def step_clinic(self, clinic):
        own = list(clinic.parts["head"].parameters())
        before, clinic.left_over = getattr(clinic, "left_over", None), [value.grad.clone() for value in own]
        for value, grad in zip(own, before or [None] * len(own), strict=True):
            value.grad = grad
        super().step_clinic(clinic)


class CutGradientComputedAfterTheServersStep(ByHand):
    """The body's new parameters make the gradient that goes down."""

    def cut_gradient(self, at_server, again, server):
        x = at_server.detach().requires_grad_()
        return torch.autograd.grad(again(x), x)[0]


BUGS = {
    ServerOptimizerMadeAnewForEveryBatch: [(m, o) for m in CUT for o in (ADAM, MOMENTUM)],
    UnweightedAveraging: [(m, {}) for m in METHODS if m.strategy not in ("centralised", "local", "split")],
    ClientOptimizerStillHoldsTheOldHead: [(m, {}) for m in CUT if m.strategy != "splitfed-v3"],
    CutGradientsDividedByTheNumberOfClinics: [(m, {}) for m in PARALLEL],
    ForwardPassRecomputedWithAnotherDropout: [(m, {}) for m in CUT],
    ClientStepBeforeTheCutGradientHasCome: [(m, {}) for m in CUT],
    CutGradientComputedAfterTheServersStep: [(m, {"learning_rate": 0.3}) for m in CUT],
}


@pytest.mark.parametrize(
    ("bug", "method", "settings"),
    [
        pytest.param(bug, method, settings, id=" ".join([bug.__name__, str(method), settings.get("optimizer", "")]))
        for bug, cases in BUGS.items()
        for method, settings in cases
    ],
)
def test_the_twin_tells(ragged, bug, method, settings):
    spec = method.spec(ragged, rounds=2, **settings)
    plan, federation = plan_of(spec)
    trained = train_run(plan, federation).parameters
    assert apart(trained, expected(spec, plan, federation)) < EQUAL
    assert apart(trained, expected(spec, plan, federation, made_by=bug)) > DIFFERENT


@pytest.mark.parametrize("twin", [ByHand, ForwardPassRecomputedAsItWas])
@pytest.mark.parametrize("method", CUT, ids=str)
def test_without_the_bug_the_same_lines_agree(ragged, method, twin):
    """So that the test above sees the bug, and not the second pass or the batch written out."""
    spec = method.spec(ragged, rounds=2)
    plan, federation = plan_of(spec)
    assert apart(train_run(plan, federation).parameters, expected(spec, plan, federation, made_by=twin)) < EQUAL


@pytest.mark.parametrize("method", PARALLEL, ids=str)
def test_the_twin_tells_that_every_clinic_gets_the_mean_cut_gradient(ragged, method):
    """Put in on the wire: one node hosts all clinics, and what comes down is averaged over them."""

    def averaging(app):
        def averaged(message, context):
            if "cut-gradient" in message.content:
                rows = tensors_in(message.content["cut-gradient"])["cut-gradient"]
                mean = rows.mean(0, keepdim=True).expand_as(rows).clone()
                message.content["cut-gradient"] = array_record({"cut-gradient": mean})
            return app(message, context)

        return averaged

    spec = method.spec(ragged, rounds=2)
    plan, federation = plan_of(spec)
    by_twin = expected(spec, plan, federation)
    assert apart(train_run(plan, federation).parameters, by_twin) < EQUAL
    assert apart(train_run(plan, federation, through=averaging).parameters, by_twin) > DIFFERENT


# Evaluation


def losses_by_twin(spec, federation, stale=False):
    """Return the held-out loss before the first round and after each, pooled and clinic by clinic, in plain PyTorch."""
    test, clinics = federation.test, len(federation.names)
    found, last = [], None
    for rounds in range(spec.train.rounds + 1):
        twin = SplitTwin(changed(spec, "train", rounds=rounds), federation)
        state = twin.initial() if rounds == 0 else TWINS[spec.strategy.name](twin)
        own = spec.strategy.name in OWN_MODELS and rounds > 0
        now, last = state, state if last is None else last
        if stale:
            state = {
                name: value if name.startswith("hidden1") else last[name].expand_as(value)
                for name, value in state.items()
            }
        last = now
        each = []
        for k in range(clinics):
            rows = slice(*test.offsets[k : k + 2])
            module = twin.module({name: value[k] if own else value for name, value in state.items()})
            logits, y = module(torch.tensor(test.x[rows]))[:, 0], torch.tensor(test.y[rows])
            each.append(functional.binary_cross_entropy_with_logits(logits, y.float(), reduction="none").detach())
        found.append([float(torch.cat(each).mean()), *(float(loss.mean()) for loss in each)])
    return np.array(found)


def losses_by_simulator(spec):
    plan, federation = plan_of(spec)
    evaluations = train_run(plan, federation).evaluations
    return np.array([[e.pooled["loss"], *e.by_clinic["loss"]] for e in evaluations]), federation


@pytest.mark.parametrize("method", [m for m in METHODS if m not in PERSONAL], ids=str)
def test_every_round_is_judged_with_all_parts_of_that_round(ragged, method):
    """And not a new head with the last round's body."""
    spec = method.spec(ragged, rounds=3, **ADAM)
    found, federation = losses_by_simulator(spec)
    np.testing.assert_allclose(found, losses_by_twin(spec, federation), rtol=1e-5)
    stale = losses_by_twin(spec, federation, stale=True)
    assert np.abs(stale - found)[1:].max(1).min() > DIFFERENT


# One half in evaluation mode


def dropping(input_shape, outputs):
    """Return a network that drops in the head and in the body."""
    return [
        ("hidden1", nn.Sequential(nn.Linear(*input_shape, 8), nn.ReLU(), nn.Dropout(0.4))),
        ("hidden2", nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Dropout(0.4))),
        ("output", nn.Linear(6, outputs)),
    ]


DROPPING = {"name": "factory", "factory": f"{__name__}:dropping"}


def dropping_in_the_body(input_shape, outputs):
    """Return the same network with a head that drops nothing."""
    head, *rest = dropping(input_shape, outputs)
    return [("hidden1", head[1][:2]), *rest]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("alone") / "one.csv", [61])


@pytest.mark.parametrize("method", CUT, ids=str)
def test_both_halves_drop_while_they_train(alone, method):
    """With one clinic a network that drops is trained as it would be uncut, mask by mask."""
    model = {**DROPPING, "cut": [1, -1] if method.cut == "u-shaped" else 1}
    spec = method.spec(alone, model=model, rounds=2)
    trained = train_spec(spec).parameters
    whole = train_spec(Method("centralised").spec(alone, model=model, rounds=2)).parameters
    assert apart(trained, whole) < 1e-6
    half = model | {"factory": f"{__name__}:dropping_in_the_body"}
    assert apart(train_spec(method.spec(alone, model=half, rounds=2)).parameters, whole) > DIFFERENT


def test_neither_half_drops_while_it_is_judged(ragged):
    spec = Method("fedavg").spec(ragged, model=DROPPING, rounds=2)
    plan, federation = plan_of(spec)
    trained = train_run(plan, federation)
    module = nn.Sequential(*(block for _, block in dropping(federation.train.x.shape[1:], 1))).eval()
    for parameter, value in zip(module.parameters(), trained.parameters.values(), strict=True):
        parameter.data = value[0]
    logits, y = module(torch.tensor(federation.test.x))[:, 0], torch.tensor(federation.test.y)
    expected = float(functional.binary_cross_entropy_with_logits(logits, y.float()).detach())
    assert trained.evaluations[-1].pooled["loss"] == pytest.approx(expected, rel=1e-5)
    module[0].train()
    logits = module(torch.tensor(federation.test.x))[:, 0]
    half = float(functional.binary_cross_entropy_with_logits(logits, y.float()).detach())
    assert abs(trained.evaluations[-1].pooled["loss"] - half) > DIFFERENT
