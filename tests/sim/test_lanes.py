from collections import OrderedDict
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from sim.models import Block, Part
from sim.models.dense import dense_layers
from sim.tensor.dense import DensePass, product
from sim.tensor.lanes import SUMMED_AT_ONCE, forward, gradients, leaves, weighted_average
from sim.tensor.losses import CROSS_ENTROPY, loss_sum
from sim.tensor.passes import AutogradPass, pass_of

torch.set_num_threads(1)
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


class Scaled(nn.Module):
    """A module that no lane rule knows."""

    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(width))

    def forward(self, x):
        return torch.sin(x * self.scale)


class Renamed(nn.Linear):
    """A subclass may compute anything, so the rule of its parent must not be taken for it."""

    def forward(self, x):
        return -super().forward(x)


def mlp(inputs, outputs):
    return OrderedDict(a=nn.Sequential(nn.Linear(inputs, 5), nn.ReLU()), b=nn.Linear(5, outputs))


ARCHITECTURES = {
    "linear": lambda i, o: OrderedDict(only=nn.Linear(i, o)),
    "no-bias": lambda i, o: OrderedDict(a=nn.Linear(i, 4, bias=False), b=nn.Tanh(), c=nn.Linear(4, o, bias=False)),
    "mlp": mlp,
    "nested": lambda i, o: OrderedDict(
        a=nn.Sequential(nn.Sequential(nn.Linear(i, 4), nn.GELU(approximate="tanh")), nn.Identity()), b=nn.Linear(4, o)
    ),
    "layer-norm": lambda i, o: OrderedDict(a=nn.Linear(i, 4), n=nn.LayerNorm(4), b=nn.Linear(4, o)),
    "own-module": lambda i, o: OrderedDict(s=Scaled(i), a=nn.Sequential(nn.Linear(i, 4), Scaled(4)), b=nn.Linear(4, o)),
    "subclass": lambda i, o: OrderedDict(a=Renamed(i, 4), b=nn.ReLU(), c=nn.Linear(4, o)),
    "no-parameters": lambda i, o: OrderedDict(a=nn.Linear(i, 6), s=nn.Softplus(), b=nn.Linear(6, o)),
    "conv": lambda i, o: OrderedDict(
        u=nn.Unflatten(1, (1, i)), c=nn.Conv1d(1, 2, 3, padding=1), f=nn.Flatten(), b=nn.Linear(2 * i, o)
    ),
}


def stacked(modules):
    """Build the part of one module and stack the parameters of all."""
    part = Part("model", tuple(Block(name, child) for name, child in modules[0].named_children()))
    names = [name for name, _ in modules[0].named_parameters()]
    return part, {name: torch.stack([m.get_parameter(name).detach() for m in modules]) for name in names}


def plain_loss(logits, y):
    if logits.shape[1] == 1:
        return functional.binary_cross_entropy_with_logits(logits[:, 0], y.to(logits.dtype))
    return functional.cross_entropy(logits, y)


def close(found, expected, dtype):
    scale = max(float(expected.abs().max()), 0.1)  # a sum that cancels keeps the error of its terms
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE[dtype] * scale)


def by_functions(part, parameters, x, y, weights):
    """Return logits, gradients and input gradient by the functions of ``sim.tensor.lanes``."""
    leaf, x_leaf = leaves(parameters), x.clone().requires_grad_()
    logits = forward(part, leaf, x_leaf)
    return logits.detach(), *gradients(loss_sum(logits, y, weights), leaf, x_leaf)


def by_autograd(part, parameters, x, y, weights, chosen=AutogradPass):
    """The same by a pass, as trainers use it."""
    one = chosen(part)
    logits = one.forward(parameters, x, want_input_gradient=True).detach().clone()
    one.loss(CROSS_ENTROPY, y, weights)
    return logits, *one.backward(None, None, torch.empty(0))


def by_chosen_pass(part, parameters, x, y, weights):
    """The same by whatever pass the part gets where nothing is clipped."""
    return by_autograd(part, parameters, x, y, weights, lambda p: pass_of(p, per_sample=False))


def one_by_one(part, parameters, x, y, weights):
    """The same lane by lane, by the pass of one copy."""
    found = []
    for lane in range(len(x)):
        one, own = AutogradPass(part, per_sample=False, alone=True), slice(lane, lane + 1)
        logits = one.forward({n: v[own] for n, v in parameters.items()}, x[own], want_input_gradient=True).clone()
        one.loss(CROSS_ENTROPY, y[own], weights[own])
        grads, input_gradient = one.backward(None, None, torch.empty(0))
        found.append([logits, *(gradient.unsqueeze(0) for gradient in grads), input_gradient])
    logits, *grads, input_gradient = (torch.cat(pieces) for pieces in zip(*found, strict=True))
    return logits, grads, input_gradient


def compare_with_loop(by, architecture, outputs, rows, dtype, inputs=4):
    """Hold stacked forward, gradients and input gradients against a loop over lanes without padding."""
    torch.manual_seed(len(rows) + outputs)
    modules = [nn.Sequential(architecture(inputs, outputs)).to(dtype) for _ in rows]
    part, parameters = stacked(modules)
    width = max(1, *rows)
    x = torch.randn(len(rows), width, inputs, dtype=dtype)
    y = torch.randint(max(2, outputs), (len(rows), width))
    weights = torch.tensor([[1 / max(1, n)] * n + [0.0] * (width - n) for n in rows], dtype=dtype)
    outside = weights == 0
    x[outside] = 1e3 * torch.randn(int(outside.sum()), inputs, dtype=dtype)

    logits, grads, input_gradient = by(part, parameters, x, y, weights)
    for lane, (module, n) in enumerate(zip(modules, rows, strict=True)):
        own = x[lane, :n].clone().requires_grad_()
        each = module(own)
        close(logits[lane, :n], each.detach(), dtype)
        plain_loss(each, y[lane, :n]).backward()
        close(input_gradient[lane, :n], own.grad, dtype)
        assert not input_gradient[lane, n:].any()
        for name, grad in zip(parameters, grads, strict=True):
            close(grad[lane], module.get_parameter(name).grad, dtype)


WAYS = pytest.mark.parametrize("by", [by_functions, by_autograd, by_chosen_pass, one_by_one])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("outputs", [1, 3], ids=["binary", "softmax"])
@pytest.mark.parametrize("name", ARCHITECTURES)
@WAYS
def test_stacked_lanes_equal_a_loop_over_clinics(by, name, outputs, dtype):
    compare_with_loop(by, ARCHITECTURES[name], outputs, [5, 3, 1], dtype)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.sampled_from([1, 2, 4]), st.integers(1, 6))
@settings(deadline=None, max_examples=30)
@pytest.mark.parametrize("by", [by_autograd, by_chosen_pass, one_by_one])
def test_any_ragged_batches_equal_the_loop(by, rows, outputs, inputs):
    compare_with_loop(by, mlp, outputs, rows, torch.float64, inputs)


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_loss_is_the_sum_of_the_lanes_mean_losses(outputs):
    torch.manual_seed(0)
    logits, y = torch.randn(3, 5, outputs).double(), torch.randint(max(2, outputs), (3, 5))
    rows = [5, 2, 1]
    weights = torch.tensor([[1 / n] * n + [0.0] * (5 - n) for n in rows]).double()
    expected = sum(plain_loss(logits[lane, :n], y[lane, :n]) for lane, n in enumerate(rows))
    torch.testing.assert_close(loss_sum(logits, y, weights), expected, rtol=1e-7, atol=0)


def test_the_models_of_the_scenario_take_the_fast_pass_and_others_do_not():
    """Otherwise the tests of the chosen pass would test one pass only."""
    chosen = {name: type(pass_of(stacked([nn.Sequential(a(4, 1))])[0])) for name, a in ARCHITECTURES.items()}
    assert {name for name, kind in chosen.items() if kind is DensePass} == {"linear", "mlp"}


def test_the_fallback_hands_a_module_its_lanes_whole_batch():
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append(tuple(x.shape))
            return x

    part, parameters = stacked([nn.Sequential(OrderedDict(s=Spy(), b=nn.Linear(3, 1))) for _ in range(2)])
    forward(part, parameters, torch.randn(2, 4, 3))
    assert seen == [(4, 3)]


@pytest.mark.parametrize("outputs", [1, 3])
@WAYS
def test_padding_has_no_effect_whatever_it_holds(by, outputs):
    torch.manual_seed(0)
    part, parameters = stacked([nn.Sequential(mlp(4, outputs)) for _ in range(2)])
    x, y = torch.randn(2, 3, 4), torch.randint(max(2, outputs), (2, 3))
    weights = torch.full((2, 3), 1 / 3)
    _, plain, _ = by(part, parameters, x, y, weights)
    wide_x = torch.cat([x, 1e4 * torch.randn(2, 5, 4)], 1)
    wide_y = torch.cat([y, torch.ones(2, 5, dtype=torch.int64)], 1)
    _, padded, _ = by(part, parameters, wide_x, wide_y, torch.cat([weights, torch.zeros(2, 5)], 1))
    for a, b in zip(padded, plain, strict=True):
        close(a, b, torch.float32)


@WAYS
def test_a_lane_without_a_record_gets_a_zero_gradient(by):
    part, parameters = stacked([nn.Sequential(mlp(4, 1)) for _ in range(2)])
    weights = torch.tensor([[0.5, 0.5], [0.0, 0.0]])
    _, grads, _ = by(part, parameters, torch.randn(2, 2, 4), torch.ones(2, 2), weights)
    assert all(not grad[1].any() for grad in grads)
    assert any(grad[0].any() for grad in grads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("last", [nn.ReLU, nn.Tanh, nn.Identity])
@pytest.mark.parametrize("chosen", [AutogradPass, pass_of])
def test_a_cotangent_drives_a_part_as_the_rest_of_the_network_would(chosen, last, dtype):
    torch.manual_seed(1)
    heads = [
        nn.Sequential(OrderedDict(a=nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 5), last()))).to(dtype)
        for _ in range(3)
    ]
    part, parameters = stacked(heads)
    x, cotangent = torch.randn(3, 6, 4, dtype=dtype), torch.randn(3, 6, 5, dtype=dtype)
    before = cotangent.clone()
    one = chosen(part)
    one.forward(parameters, x, want_input_gradient=True)
    grads, input_gradient = one.backward(cotangent, None, torch.empty(0))
    assert torch.equal(cotangent, before), "the sender's tensor must stay as it is"
    for lane, head in enumerate(heads):
        own = x[lane].clone().requires_grad_()
        head(own).backward(cotangent[lane])
        close(input_gradient[lane], own.grad, dtype)
        for name, grad in zip(parameters, grads, strict=True):
            close(grad[lane], head.get_parameter(name).grad, dtype)


@pytest.mark.parametrize("clip", [None, 0.3])
@pytest.mark.parametrize("rows", [1, 16, 40])
@pytest.mark.parametrize("widths", [(30, 64, 32, 2), (13, 32, 16, 1), (300, 12, 9)])
def test_a_lane_of_dense_layers_has_its_bits_beside_any_number_of_others(widths, rows, clip):
    torch.manual_seed(0)
    lanes, layers = 40, [nn.Sequential(nn.Linear(*sizes), nn.ReLU()) for sizes in pairwise(widths)]
    part, parameters = stacked([nn.Sequential(*(nn.Sequential(*layer) for layer in layers)) for _ in range(lanes)])
    parameters = {name: torch.randn_like(value) for name, value in parameters.items()}
    x, cotangent = torch.randn(lanes, rows, widths[0]), torch.randn(lanes, rows, widths[-1])

    def gradients_of(some):
        one = DensePass(dense_layers(part))
        one.forward({name: value[some] for name, value in parameters.items()}, x[some], want_input_gradient=True)
        return one.backward(cotangent[some], clip, torch.ones(len(x[some])))

    x[39] = torch.inf  # a lane that diverges disturbs no other, and warns of nothing
    in_all, at_entry = gradients_of(slice(None))
    for some in (slice(0, 1), slice(7, 9), slice(11, 39)):
        grads, input_gradient = gradients_of(some)
        assert torch.equal(input_gradient, at_entry[some])
        assert all(torch.equal(own, of_all[some]) for own, of_all in zip(grads, in_all, strict=True))


@pytest.mark.parametrize("columns", [12, 16, 64])
@pytest.mark.parametrize("inner", [32, 65, 100])
def test_products_of_matrices_that_lie_otherwise_in_memory_are_those_of_few_lanes(inner, columns):
    torch.manual_seed(0)
    x, weight = torch.randn(32, 17, inner), torch.randn(32, inner, columns)
    lain = [
        (x, weight.mT.contiguous().mT),
        (x[:, :1].expand_as(x), weight),
        (x.repeat_interleave(2, 2)[..., ::2], weight),
    ]
    for left, right in lain:
        few = torch.cat([product(left[some : some + 8], right[some : some + 8]) for some in range(0, 32, 8)])
        assert torch.equal(product(left, right), few)


def test_leaves_share_memory():
    parameters = {"w": torch.arange(6.0).view(3, 2)}
    leaf = leaves(parameters)["w"]
    assert leaf.requires_grad
    assert leaf.is_leaf
    parameters["w"][0] = 7.0
    assert leaf.tolist() == [[7.0, 7.0], [2.0, 3.0], [4.0, 5.0]]


def test_weighted_average_by_hand():
    stacked_values = {"w": torch.tensor([[1.0, 2.0], [3.0, 6.0]]), "s": torch.tensor([8.0, 0.0])}
    averaged = weighted_average(stacked_values, [0.25, 0.75])
    assert averaged["w"].tolist() == [[2.5, 5.0]]
    assert averaged["s"].tolist() == [2.0]


@pytest.mark.parametrize("more", [-1, 0, 1, SUMMED_AT_ONCE - 1, SUMMED_AT_ONCE, SUMMED_AT_ONCE + 17])
@pytest.mark.parametrize("lanes", [2, 17])
def test_an_average_in_pieces_has_the_bits_of_the_whole_one(lanes, more):
    values = torch.randn(lanes, SUMMED_AT_ONCE + more)
    w = torch.rand(lanes)
    averaged = weighted_average({"w": values}, w.tolist())["w"]
    assert torch.equal(averaged, (w[:, None] * values).sum(0, keepdim=True))


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("clip", [0.3, 1e9])
def test_clipped_gradients_of_any_module_equal_a_loop_over_records(name, clip):
    torch.manual_seed(4)
    rows, width, normaliser = [4, 2], 4, torch.tensor([3.0, 5.0]).double()
    modules = [nn.Sequential(ARCHITECTURES[name](4, 3)).double() for _ in rows]
    part, parameters = stacked(modules)
    x, y = torch.randn(2, width, 4).double(), torch.randint(3, (2, width))
    inside = torch.arange(width) < torch.tensor(rows)[:, None]
    one = pass_of(part)
    one.forward(parameters, x, want_input_gradient=False)
    one.loss(CROSS_ENTROPY, y, inside / normaliser[:, None])
    found, _ = one.backward(None, clip, normaliser)
    for lane, module in enumerate(modules):
        sums = [torch.zeros_like(p) for p in module.parameters()]
        for record in range(rows[lane]):
            loss = functional.cross_entropy(module(x[lane, record : record + 1]), y[lane, record : record + 1])
            grads = torch.autograd.grad(loss, list(module.parameters()))
            factor = min(1.0, clip / float(torch.cat([g.flatten() for g in grads]).norm()))
            sums = [total + factor * grad for total, grad in zip(sums, grads, strict=True)]
        for grad, expected in zip(found, sums, strict=True):
            close(grad[lane], expected / normaliser[lane], torch.float64)
