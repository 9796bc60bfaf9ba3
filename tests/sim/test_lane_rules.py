"""Every lane rule against a plain loop over lanes, and per-sample clipping against Opacus."""

import sys
from collections import OrderedDict

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from opacus import GradSampleModule
from torch import nn

from sim.models import Block, Part
from sim.models.clip import ClipRows
from sim.models.largest import KeepLargest
from sim.models.modules import Residual
from sim.tensor import lanes
from sim.tensor.clipping import clip_factors, per_sample_gradients
from sim.tensor.lane_rules import LANE_RULES, as_channels, as_lanes, max_pool_2d
from sim.tensor.lanes import forward, gradients, leaves, records_at_once
from sim.tensor.losses import loss_sum

torch.set_num_threads(1)
TOLERANCE = {torch.float32: 3e-5, torch.float64: 1e-10}


class Scaled(nn.Module):
    """A module that no lane rule knows, with a constant buffer."""

    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(width))
        self.register_buffer("shift", torch.arange(float(width)))

    def forward(self, x):
        return torch.sin(x * self.scale + self.shift)


class Wave(nn.Module):
    """Another, without a buffer, since Opacus refuses buffers."""

    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(width))

    def forward(self, x):
        return torch.sin(x * self.scale)


def clipped_gradients(outputs, tape, clip, normaliser, inputs=None, cotangent=None):
    squared, sums, input_gradient = per_sample_gradients(outputs, tape, inputs, cotangent)
    return sums(clip_factors(squared, clip, normaliser)), input_gradient


def twice_the_same():
    activation = nn.Tanh()
    return nn.Sequential(nn.Linear(5, 4), activation, nn.Linear(4, 3), activation)


MODULES = {
    "linear": (lambda: nn.Linear(5, 3), (5,)),
    "linear-no-bias": (lambda: nn.Linear(5, 3, bias=False), (5,)),
    "linear-positions": (lambda: nn.Linear(5, 3), (4, 5)),
    "linear-two-axes": (lambda: nn.Linear(5, 3, bias=False), (2, 4, 5)),
    "conv1d": (lambda: nn.Conv1d(2, 4, 3, padding=1), (2, 9)),
    "conv1d-strided": (lambda: nn.Conv1d(2, 4, 5, stride=2, padding=2, dilation=2, bias=False), (2, 21)),
    "conv1d-grouped": (lambda: nn.Conv1d(4, 6, 3, groups=2), (4, 7)),
    "conv2d": (lambda: nn.Conv2d(2, 4, 3, padding=1), (2, 6, 5)),
    "conv2d-one-channel": (lambda: nn.Conv2d(1, 4, 3), (1, 6, 6)),
    "conv2d-strided": (lambda: nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), (2, 7, 6)),
    "conv2d-depthwise": (lambda: nn.Conv2d(3, 6, 3, groups=3, bias=False), (3, 5, 5)),
    "conv2d-same": (lambda: nn.Conv2d(2, 3, 3, padding="same"), (2, 5, 5)),
    "conv2d-reflect": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 5, 5)),
    # Few positions and many weights: their norms come from products over positions.
    "few-positions-linear": (lambda: nn.Linear(12, 8), (3, 12)),
    "few-positions-conv1d": (lambda: nn.Conv1d(6, 9, 3, padding=1), (6, 3)),
    "few-positions-conv1d-strided": (
        lambda: nn.Conv1d(6, 8, 3, stride=2, padding=2, dilation=2, bias=False),
        (6, 5),
    ),
    "few-positions-conv2d": (lambda: nn.Conv2d(6, 8, 3), (6, 4, 4)),
    "few-positions-conv2d-strided": (
        lambda: nn.Conv2d(6, 8, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
        (6, 3, 5),
    ),
    "few-positions-conv2d-same": (lambda: nn.Conv2d(6, 8, 3, padding="same"), (6, 2, 3)),
    "few-positions-conv2d-reflect": (lambda: nn.Conv2d(6, 8, 3, padding=1, padding_mode="reflect"), (6, 2, 3)),
    "group-norm-features": (lambda: nn.GroupNorm(2, 6), (6,)),
    "group-norm-signals": (lambda: nn.GroupNorm(3, 6), (6, 7)),
    "group-norm-images": (lambda: nn.GroupNorm(2, 4), (4, 5, 3)),
    "group-norm-plain": (lambda: nn.GroupNorm(2, 4, affine=False), (4, 5)),
    "layer-norm": (lambda: nn.LayerNorm(5), (5,)),
    "layer-norm-positions": (lambda: nn.LayerNorm(5, bias=False), (4, 5)),
    "layer-norm-all-axes": (lambda: nn.LayerNorm((2, 4, 3)), (2, 4, 3)),
    "layer-norm-plain": (lambda: nn.LayerNorm((4, 3), elementwise_affine=False), (2, 4, 3)),
    "keep-largest": (lambda: nn.Sequential(nn.Linear(5, 7), KeepLargest(0.4), nn.Linear(7, 2)), (5,)),
    "clip-rows": (lambda: nn.Sequential(nn.Linear(5, 7), ClipRows(0.8)), (5,)),
    "max-pool1d": (lambda: nn.MaxPool1d(2), (3, 7)),
    "max-pool1d-ceil": (lambda: nn.MaxPool1d(3, stride=2, padding=1, ceil_mode=True), (3, 8)),
    "max-pool2d": (lambda: nn.MaxPool2d(2), (3, 6, 5)),
    "max-pool2d-dilated": (lambda: nn.MaxPool2d((2, 3), stride=1, dilation=2), (3, 6, 7)),
    "avg-pool1d": (lambda: nn.AvgPool1d(3, padding=1, count_include_pad=False), (2, 9)),
    "avg-pool2d": (lambda: nn.AvgPool2d(2, divisor_override=3), (2, 5, 4)),
    "adaptive1d": (lambda: nn.AdaptiveAvgPool1d(3), (2, 8)),
    "adaptive2d": (lambda: nn.AdaptiveAvgPool2d((2, 1)), (2, 5, 6)),
    "flatten": (lambda: nn.Flatten(), (2, 3, 4)),
    "flatten-some": (lambda: nn.Flatten(2, -1), (2, 3, 4)),
    "flatten-first": (lambda: nn.Flatten(1, 2), (2, 3, 4)),
    "in-place": (lambda: nn.Sequential(nn.Linear(5, 4), nn.LeakyReLU(0.1, inplace=True)), (5,)),
    "repeated": (twice_the_same, (5,)),
    "unknown": (lambda: nn.Sequential(nn.Linear(5, 4), Scaled(4), nn.Softplus(), nn.Linear(4, 2)), (5,)),
    "chain1d": (
        lambda: nn.Sequential(nn.Conv1d(1, 4, 3), nn.GroupNorm(2, 4), nn.MaxPool1d(2), nn.ReLU(), nn.Conv1d(4, 3, 2)),
        (1, 12),
    ),
    "chain2d": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.GroupNorm(2, 4),
            nn.MaxPool2d(2),
            nn.ELU(),
            nn.Conv2d(4, 2, 2),
            nn.Flatten(),
        ),
        (2, 7, 6),
    ),
    "residual": (
        lambda: Residual(
            nn.Sequential(nn.Conv2d(2, 4, 3, 2, padding=1, bias=False), nn.GroupNorm(2, 4)), nn.Conv2d(2, 4, 1, 2)
        ),
        (2, 6, 6),
    ),
    "residual-identity": (lambda: Residual(nn.Conv1d(3, 3, 3, padding=1), nn.Identity()), (3, 6)),
}
CLIPPED = [name for name, (build, _) in MODULES.items() if list(build().parameters())]


def stacked(build, dtype, count):
    """Return plain modules, the part of one, and the parameters of all."""
    modules = [nn.Sequential(OrderedDict(block=build())).to(dtype) for _ in range(count)]
    for parameter in (p for module in modules for p in module.parameters()):
        nn.init.normal_(parameter)  # unlike the defaults of the normalisations, different in every lane
    names = [name for name, _ in modules[0].named_parameters()]
    parameters = {name: torch.stack([m.get_parameter(name).detach() for m in modules]) for name in names}
    return modules, Part("model", (Block("block", modules[0].block),)), parameters


def close(found, expected, dtype):
    scale = max(float(expected.detach().abs().max()), 1e-2)
    torch.testing.assert_close(found.detach(), expected.detach(), rtol=0, atol=TOLERANCE[dtype] * scale)


def compare_with_loop(build, shape, dtype, count=3, rows=4):
    modules, part, parameters = stacked(build, dtype, count)
    x = torch.randn(count, rows, *shape, dtype=dtype, requires_grad=True)
    leaf = leaves(parameters)
    outputs = forward(part, leaf, x)
    cotangent = torch.randn_like(outputs)
    grads, input_gradient = gradients(outputs, leaf, x, cotangent)
    for lane, module in enumerate(modules):
        own = x[lane].detach().clone().requires_grad_()
        plain = module(own)
        assert outputs[lane].shape == plain.shape
        close(outputs[lane], plain, dtype)
        plain.backward(cotangent[lane])
        close(input_gradient[lane], own.grad, dtype)
        for name, gradient in zip(parameters, grads, strict=True):
            close(gradient[lane], module.get_parameter(name).grad, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", MODULES)
def test_a_rule_equals_the_loop_over_lanes(name, count, dtype):
    torch.manual_seed(len(name))
    compare_with_loop(*MODULES[name], dtype, count)


def test_every_rule_is_tried():
    tried = {type(m) for build, _ in MODULES.values() for m in build().modules()}
    elementwise = {nn.ReLU, nn.SiLU, nn.GELU, nn.Sigmoid, nn.Identity, nn.Dropout}
    of_batches = {nn.BatchNorm1d, nn.BatchNorm2d}  # test_batch_norm
    assert set(LANE_RULES) <= tried | elementwise | of_batches


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_any_convolution_equals_the_loop(data):
    axes = data.draw(st.sampled_from([1, 2]))
    each = {
        name: tuple(data.draw(st.integers(low, high)) for _ in range(axes))
        for name, low, high in [("kernel_size", 1, 3), ("stride", 1, 3), ("padding", 0, 2), ("dilation", 1, 2)]
    }
    groups = data.draw(st.integers(1, 2))
    inputs, outputs = groups * data.draw(st.integers(1, 2)), groups * data.draw(st.integers(1, 3))
    space = tuple(data.draw(st.integers(1, 7)) for _ in range(axes))
    reach = zip(space, *(each[k] for k in ("kernel_size", "padding", "dilation")), strict=True)
    assume(all(size + 2 * p >= d * (k - 1) + 1 for size, k, p, d in reach))
    layer = (nn.Conv1d, nn.Conv2d)[axes - 1]
    bias = data.draw(st.booleans())
    count, rows = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    torch.manual_seed(0)

    def build():
        return layer(inputs, outputs, groups=groups, bias=bias, **each)

    compare_with_loop(build, (inputs, *space), torch.float64, count, rows)
    compare_with_autograd(build, (inputs, *space), 0.4, count, rows)


def test_a_chain_of_convolutions_hands_on_views():
    x = torch.randn(3, 2, 4, 5, 6)
    inner = as_channels(x)
    assert inner.shape == (2, 12, 5, 6)
    assert inner.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(as_lanes(inner, 3), x)
    again = as_channels(as_lanes(inner, 3))
    assert again.data_ptr() == inner.data_ptr()
    assert as_channels(x[:1]).data_ptr() == x.data_ptr(), "one lane stays as it is"


@pytest.mark.parametrize(
    ("name", "shape", "at_once"),
    [
        ("chain1d", (1, 80_000), 2),
        ("chain1d", (1, 160_000), 1),
        ("residual", (2, 400, 400), 2),
        ("residual-identity", (3, 60_000), 4),
    ],
)
@pytest.mark.parametrize("per_sample", [False, True])
def test_lanes_in_groups_give_what_each_gives_alone(name, shape, at_once, per_sample):
    torch.manual_seed(0)
    build, _ = MODULES[name]
    _, part, parameters = stacked(build, torch.float64, 5)
    assert records_at_once(part, shape) == at_once
    x = torch.randn(5, 2, *shape, dtype=torch.float64)

    def found(lane):
        leaf, tape = leaves({name: value[lane] for name, value in parameters.items()}), []
        own = x[lane].clone().requires_grad_()
        outputs = forward(part, leaf, own, tape if per_sample else None)
        if per_sample:
            normaliser = torch.full((len(own),), 3.0).double()
            sums, input_gradient = clipped_gradients(outputs, tape, 0.3, normaliser, own, torch.ones_like(outputs))
            return [outputs.detach(), input_gradient, *(sums[key] for key in parameters)]
        grads, input_gradient = gradients(outputs, leaf, own, torch.ones_like(outputs))
        return [outputs.detach(), input_gradient, *grads]

    alone = zip(*(found(slice(lane, lane + 1)) for lane in range(5)), strict=True)
    for one, others in zip(found(slice(0, 5)), alone, strict=True):
        close(one, torch.cat(others), torch.float64)


@pytest.mark.parametrize(("name", "largest"), [("linear", None), ("layer-norm", None), ("chain1d", 4 * 10)])
def test_only_convolutions_run_in_groups(name, largest):
    build, shape = MODULES[name]
    _, part, _ = stacked(build, torch.float32, 1)
    assert records_at_once(part, shape) == (lanes.CACHE_BYTES // (4 * largest) if largest else sys.maxsize)


def per_record(module, x, cotangent):
    """Return each record's gradient in every parameter, formed by itself."""
    found = []
    for record, own in zip(x, cotangent, strict=True):
        found.append(torch.autograd.grad(module(record[None]), list(module.parameters()), own[None]))
    return [torch.stack(grads) for grads in zip(*found, strict=True)]


def by_opacus(module, x, cotangent):
    wrapped = GradSampleModule(module, loss_reduction="sum", strict=False)
    wrapped(x.clone().requires_grad_()).backward(cotangent)  # its hooks want an input with a gradient
    found = [p.grad_sample.detach() for p in wrapped.parameters()]
    wrapped.to_standard_module()
    return found


def compare_clipped(build, shape, clip, rows, normaliser, oracle, dtype=torch.float64):
    """Hold clipped sums over lanes with padding against clipping an oracle's per-sample gradients by hand."""
    modules, part, parameters = stacked(build, dtype, len(rows))
    width = max(1, *rows)
    x = torch.randn(len(rows), width, *shape, dtype=dtype)
    inside = torch.arange(width) < torch.tensor(rows)[:, None]
    x[~inside] *= 1e3
    divisor, tape = torch.tensor(normaliser, dtype=dtype), []
    outputs = forward(part, leaves(parameters), x, tape)
    cotangent = torch.randn_like(outputs)
    weights = (inside / divisor[:, None]).view(*inside.shape, *[1] * len(outputs.shape[2:]))
    sums, _ = clipped_gradients(outputs, tape, clip, divisor, cotangent=cotangent * weights)
    assert sums.keys() == parameters.keys()
    for lane, module in enumerate(modules):
        samples = oracle(module, x[lane, : rows[lane]], cotangent[lane, : rows[lane]])
        norms = torch.cat([g.flatten(1) for g in samples], 1).norm(dim=1)
        factors = torch.where(norms > clip, clip / norms, torch.ones_like(norms))
        for name, each in zip(parameters, samples, strict=True):
            expected = torch.einsum("n,n...->...", factors, each) / normaliser[lane]
            assert sums[name][lane].shape == expected.shape
            close(sums[name][lane], expected, dtype)


def compare_with_autograd(build, shape, clip, count, rows):
    compare_clipped(build, shape, clip, [rows] * count, [rows] * count, per_record)


@pytest.mark.parametrize("name", CLIPPED)
def test_clipped_sums_equal_clipping_record_by_record(name):
    torch.manual_seed(len(name))
    compare_clipped(*MODULES[name], 0.4, [4, 2, 1], [4, 4, 3], per_record)


@pytest.mark.parametrize("name", CLIPPED)
def test_a_tape_leaves_the_plain_gradient_as_it_is(name):
    torch.manual_seed(0)
    build, shape = MODULES[name]
    _, part, parameters = stacked(build, torch.float64, 2)
    x, leaf = torch.randn(2, 3, *shape, dtype=torch.float64), leaves(parameters)
    found = []
    for tape in (None, []):
        outputs = forward(part, leaf, x, tape)
        found.append([outputs.detach(), *gradients(outputs, leaf, cotangent=torch.ones_like(outputs))[0]])
    for one, other in zip(*found, strict=True):
        close(other, one, torch.float64)


def small_cnn():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.MaxPool2d(2),
        nn.ReLU(),
        Residual(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.GroupNorm(4, 4)), nn.Identity()),
        nn.Conv2d(4, 6, 3),
        nn.Flatten(),
        nn.LayerNorm(24),
        nn.Linear(24, 3),
    )


def signal_net():
    return nn.Sequential(nn.Conv1d(2, 6, 3, stride=2), nn.GroupNorm(3, 6), nn.Tanh(), nn.Flatten(), nn.Linear(30, 3))


def sequence_net():
    return nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.GELU(), Wave(6), nn.Linear(6, 4), nn.Flatten())


OPACUS = {small_cnn: (1, 8, 8), signal_net: (2, 11), sequence_net: (5, 3)}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("clip", [0.5, 20.0, 1e9])
@pytest.mark.parametrize("build", OPACUS)
def test_clipped_sums_equal_opacus_on_lanes_with_padding(build, clip, dtype):
    torch.manual_seed(3)
    compare_clipped(build, OPACUS[build], clip, [5, 3, 1], [4, 4, 2], by_opacus, dtype)


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_lane_without_a_record_gets_zero_and_no_nan(per_sample):
    torch.manual_seed(0)
    _, part, parameters = stacked(small_cnn, torch.float32, 2)
    leaf, tape = leaves(parameters), []
    weights = torch.tensor([[0.5, 0.5], [0.0, 0.0]])
    logits = forward(part, leaf, torch.randn(2, 2, 1, 8, 8), tape if per_sample else None)
    loss = loss_sum(logits, torch.zeros(2, 2, dtype=torch.int64), weights)
    if per_sample:
        grads = list(clipped_gradients(loss, tape, 1.0, torch.full((2,), 2.0))[0].values())
    else:
        grads = gradients(loss, leaf)[0]
    assert all(not grad[1].any() for grad in grads)
    assert all(bool(grad[0].isfinite().all()) for grad in grads)


def test_an_in_place_activation_leaves_its_input_alone():
    _, part, parameters = stacked(lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 2)), torch.float32, 2)
    x = torch.randn(2, 4, 3)
    before = x.clone()
    forward(part, leaves(parameters), x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    "pool",
    [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d((2, 3), (2, 1), ceil_mode=True), nn.MaxPool2d(2, 1, 0, 2)],
    ids=str,
)
def test_pooling_one_copy_gives_the_very_bits_of_pytorch(pool):
    # Half of the entries are zero, so that windows hold ties.
    x = torch.randn(4, 3, 9, 8, generator=torch.Generator().manual_seed(0)).relu()
    results = []
    for run in (pool, lambda x: max_pool_2d(pool, x)):
        at = x.clone().requires_grad_()
        y = run(at)
        along = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        results.append((y, torch.autograd.grad(y, at, along)[0]))
    for plain, ours in zip(*results, strict=True):
        assert torch.equal(plain, ours)
        assert ours.is_contiguous()
