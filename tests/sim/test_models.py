"""Built-in models, user factories, and what one record costs in them."""

from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sim.foundation.problems import ScenarioError
from sim.models import Block, Part, UnknownLayerError, build_network, passage
from sim.models.layers import (
    JOINS,
    ClipRows,
    Columns,
    Dropout,
    Heads,
    KeepLargest,
    Known,
    Linear,
    ReLU,
    chain,
)
from sim.plan.costs import counted_cost, part_costs
from sim.scenario import parse_scenario
from sim.scenario.model import Model
from sim.tensor.evaluation import Evaluator
from sim.tensor.lanes import forward, records_at_once

torch.set_num_threads(1)

# name, settings, shape of a record, classes
BUILT_IN = {
    "logistic": ({}, (5,), 2),
    "logistic-images": ({}, (1, 4, 3), 3),
    "mlp": ({"hidden": [6, 4]}, (5,), 2),
    "mlp-signals": ({"hidden": [6]}, (2, 9), 4),
    "cnn1d": ({"channels": [4, 8]}, (2, 33), 5),
    "cnn": ({"channels": [4, 6], "hidden": [7]}, (1, 12, 12), 3),
    "cnn-wide": ({"channels": [4]}, (3, 20, 16), 2),
    "resnet18": ({"channels": [4, 4, 6, 8]}, (1, 8, 8), 3),
}


def settings(name, **keys):
    return Model.model_validate({"name": name.partition("-")[0], **keys})


def network(name):
    keys, shape, classes = BUILT_IN[name]
    return build_network(settings(name, **keys), shape, classes)


def plain(net):
    """Return the network as one plain module, with the parameters of a seed."""
    module = nn.Sequential(OrderedDict((block.name, block.module) for block in net.build()))
    module.load_state_dict({name: value[0] for name, value in net.initial_parameters(3).items()})
    return module


@pytest.mark.parametrize(
    ("name", "shape", "blocks"),
    [
        ("cnn1d", (1, 187), "conv1 conv2 conv3 output"),
        ("cnn", (1, 28, 28), "conv1 conv2 hidden output"),
        ("cnn", (3, 64, 64), "conv1 conv2 hidden output"),
        ("cnn", (1, 8, 8), "conv1 conv2 hidden output"),
        ("resnet18", (1, 28, 28), "stem layer1 layer2 layer3 layer4 output"),
        ("resnet18", (3, 64, 64), "stem layer1 layer2 layer3 layer4 output"),
        ("mlp", (13,), "hidden1 hidden2 output"),
        ("logistic", (13,), "output"),
    ],
)
def test_each_model_has_its_blocks(name, shape, blocks):
    net = build_network(settings(name), shape, 10)
    assert " ".join(block.name for block in net.blocks) == blocks
    assert (net.input_shape, net.outputs) == (shape, 10)


def conv(inputs, outputs, window, bias=True):
    return inputs * outputs * window + (outputs if bias else 0)


def test_parameter_counts_by_hand():
    cnn = build_network(settings("cnn"), (1, 28, 28), 2).whole
    hidden = 16 * 7 * 7 * 32 + 32
    assert cnn.parameter_count() == conv(1, 8, 9) + 2 * 8 + conv(8, 16, 9) + 2 * 16 + hidden + 32 + 1
    larger = build_network(settings("cnn"), (3, 64, 64), 2).whole
    assert larger.parameter_count() == cnn.parameter_count() + 2 * 8 * 9, "seen through at most 7 x 7"
    signals = build_network(settings("cnn1d", channels=[16, 32]), (1, 187), 5).whole
    assert signals.parameter_count() == conv(1, 16, 5) + 32 + conv(16, 32, 5) + 64 + 32 * 5 + 5


def test_a_norm_has_at_most_32_groups_of_at_least_two_channels():
    def groups(name, shape, **keys):
        net = build_network(settings(name, **keys), shape, 2)
        return [m.num_groups for block in net.blocks for m in block.module.modules() if isinstance(m, nn.GroupNorm)]

    assert groups("cnn", (1, 28, 28)) == [4, 8]
    assert groups("cnn1d", (1, 64), channels=[1, 6, 12, 9]) == [1, 1, 2, 1]
    assert set(groups("resnet18", (1, 28, 28))) == {32}


def test_resnet18_has_the_parameters_of_the_paper():
    """He et al. 2016, Table 1, with a 3x3 stem: two blocks of two 3x3 convolutions a layer, each with a norm."""
    total = conv(3, 64, 9, bias=False) + 2 * 64
    inputs = 64
    for width in (64, 128, 256, 512):
        first = conv(inputs, width, 9, bias=False) + conv(width, width, 9, bias=False)
        total += first + 2 * conv(width, width, 9, bias=False) + 4 * 2 * width
        if inputs != width:
            total += conv(inputs, width, 1, bias=False) + 2 * width
        inputs = width
    total += 512 * 10 + 10
    assert total == 11_173_962
    assert build_network(settings("resnet18"), (3, 32, 32), 10).whole.parameter_count() == total


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_cut_gives_the_whole_model(name):
    net = network(name)
    parameters = {key: value.double() for key, value in net.initial_parameters(3).items()}
    x = torch.randn(1, 3, *net.input_shape, dtype=torch.float64)
    expected = plain(net).double()(x[0])
    torch.testing.assert_close(forward(net.whole, parameters, x)[0], expected, rtol=0, atol=1e-12)
    count = len(net.blocks)
    cuts = [("vanilla", cut) for cut in range(1, count)]
    cuts += [("u-shaped", (a, b)) for a in range(1, count) for b in range(a + 1, count)]
    shapes = net.whole.shapes()
    for topology, cut in cuts:
        value, names = x, []
        for part in net.split(topology, cut):
            value = forward(part, part.select(parameters), value)
            names += part.shapes()
        torch.testing.assert_close(value[0], expected, rtol=0, atol=1e-12)
        assert names == list(shapes)


def test_a_cut_may_leave_no_part_without_parameters():
    blocks = (Block("flat", nn.Flatten()), Block("a", nn.Linear(4, 3)), Block("b", nn.Linear(3, 1)))
    net = build_network(settings("mlp", hidden=[3]), (4,), 2)
    with pytest.raises(ValueError, match=r"cut \[1\] leaves the head without a parameter to train; .* flat, a, b"):
        type(net)(blocks=blocks, input_shape=(4,), outputs=1).split("vanilla", 1)


@pytest.mark.parametrize("name", BUILT_IN)
def test_initial_parameters_depend_on_the_seed_alone(name):
    state = torch.random.get_rng_state()
    one, two, other = network(name), network(name), network(name).initial_parameters(4)
    first = one.initial_parameters(3)
    assert torch.equal(torch.random.get_rng_state(), state)
    for key, value in two.initial_parameters(3).items():
        assert torch.equal(first[key], value)
        assert value.shape == (1, *one.whole.shapes()[key])
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_evaluation_in_pieces_is_what_pytorch_says_of_all_records_at_once():
    net = network("cnn")
    parameters = net.initial_parameters(3)
    count = 2 * records_at_once(net.whole, net.input_shape) + 9
    x = np.random.default_rng(0).normal(size=(count, *net.input_shape)).astype(np.float32)
    records = SimpleNamespace(x=x, y=np.arange(count) % 3, offsets=np.array([0, count - 4, count - 4, count]))
    own = {key: value.repeat(3, *[1] * (value.dim() - 1)) for key, value in parameters.items()}
    with torch.no_grad():
        whole = plain(net)(torch.from_numpy(x)).softmax(1)
    for some in (parameters, own):
        np.testing.assert_allclose(Evaluator(net, records).predictions(some), whole, rtol=1e-4, atol=1e-6)


# What a scenario may say


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"name": "cnn2"}, 'model.name: "cnn2" does not exist; did you mean "cnn"?'),
        (
            {"name": "factory"},
            'model.factory: is missing; give the import path of your function, such as "package.module:function"',
        ),
        (
            {"name": "mlp", "factory": "a:b"},
            'model.factory: has no effect on "mlp"; remove it, or take name = "factory"',
        ),
        (
            {"name": "factory", "factory": "a.b"},
            'model.factory: "a.b" is no import path; give one such as "package.module:function"',
        ),
        ({"name": "mlp", "channels": [4]}, 'model.channels: has no effect on "mlp"; remove it'),
        (
            {"name": "resnet18", "channels": [4, 8]},
            'model.channels: "resnet18" has 4 layers, here are 2 widths; give one a layer',
        ),
        ({"name": "cnn", "channels": []}, "model.channels: is empty; give at least one value"),
        ({"name": "cnn", "channels": [0]}, "model.channels.0: 0 is out of range; give a number greater than 0"),
    ],
)
def test_a_wrong_setting_is_one_line(keys, line):
    mapping = {
        "name": "m",
        "seeds": [0],
        "data": {"source": "heart-disease"},
        "model": keys,
        "train": {"rounds": 1, "batch-size": 8, "learning-rate": 0.1},
        "evaluation": {"reference": False},
        "strategies": [{"name": "fedavg"}],
    }
    with pytest.raises(ScenarioError) as caught:
        parse_scenario(mapping, Path())
    assert caught.value.problems == (f"scenario: {line}",)


@pytest.mark.parametrize(
    ("name", "shape", "line"),
    [
        ("cnn", (28, 28), 'model "cnn" takes records of shape [channel, height, width]; these are of shape [28, 28]'),
        ("cnn1d", (13,), 'model "cnn1d" takes records of shape [channel, length]; these are of shape [13]'),
        ("resnet18", (1, 187), 'model "resnet18" takes records of shape [channel, height, width]; these are of shape'),
        ("cnn", (1, 3, 28), 'model "cnn" cannot run block "conv2" on a batch of shape [1, 8, 1, 14]: RuntimeError: '),
        ("cnn1d", (1, 4), 'model "cnn1d" cannot run block "conv3" on a batch of shape [1, 32, 1]: RuntimeError: '),
    ],
)
def test_records_that_do_not_fit_are_one_line(name, shape, line):
    with pytest.raises(ValueError, match=r"^model") as caught:
        build_network(settings(name), shape, 10)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


# What one record costs


def test_the_flops_and_activations_of_a_convolution_by_hand():
    part = Part("model", (Block("conv", nn.Conv2d(3, 8, 3, padding=1)),))
    cost = part_costs((part,), (3, 10, 12))["model"]
    forward_flops = 2 * 10 * 12 * 8 * 3 * 9  # each output of each channel: 27 products and as many sums
    assert cost.output_shape == (8, 10, 12)
    assert cost.output_bytes == 4 * 8 * 10 * 12
    assert cost.forward_flops == forward_flops
    assert cost.backward_flops == forward_flops, "the first part needs no gradient in its inputs"
    assert cost.activations == 3 * 10 * 12
    head = Part("head", (Block("conv0", nn.Conv2d(3, 3, 1)),))
    body = part_costs((head, part), (3, 10, 12))["model"]
    assert body.backward_flops == 2 * forward_flops


@pytest.mark.parametrize("name", BUILT_IN)
def test_costs_equal_those_of_the_plain_module(name):
    net = network(name)
    cost = part_costs((net.whole,), net.input_shape)["model"]
    module = plain(net).to("meta")
    owned = {id(p) for p in module.parameters()}
    saved = {}

    def pack(value):
        base = value if value._base is None else value._base
        if id(base) not in owned:
            saved[id(base)] = value.nbytes
        return value

    ahead, back = FlopCounterMode(display=False), FlopCounterMode(display=False)
    with ahead, torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        outputs = module(torch.empty(1, *net.input_shape, device="meta"))
    with back:
        outputs.sum().backward()
    assert cost.forward_flops == ahead.get_total_flops() > 0
    assert cost.backward_flops == back.get_total_flops()
    assert cost.activations == sum(saved.values()) // 4
    assert cost.parameters == sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", BUILT_IN)
def test_closed_forms_equal_pytorchs_counter_at_every_cut(name, frozen):
    net, stretches = network(name), 0
    for first in range(len(net.blocks)):
        shape = passage(Part("", net.blocks[:first]), net.input_shape).output_shape
        for last in range(first + 1, len(net.blocks) + 1):
            part = Part("model", net.blocks[first:last])
            counted = counted_cost(part, shape, first=first == 0, frozen=frozen)
            frozen_parts = frozenset({"model"} if frozen else ())
            if first == 0:
                assert part_costs((part,), shape, frozen_parts)["model"] == counted
            passed = passage(part, shape, trained=not frozen, differentiable=first > 0)
            assert passed.output_shape == counted.output_shape
            assert (passed.forward_flops, passed.backward_flops) == (counted.forward_flops, counted.backward_flops)
            assert sum(passed.kept.values()) == 4 * counted.activations
            stretches += 1
    assert stretches == len(net.blocks) * (len(net.blocks) + 1) // 2


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.GELU(), (4,)),
        (nn.Linear(4, 2), (3,)),
        (nn.Linear(4, 2), (3, 4)),
        (nn.Conv2d(2, 4, 3, groups=2), (2, 5, 5)),
        (nn.Conv1d(2, 4, 3, padding="same"), (2, 5)),
        (nn.Conv1d(2, 4, 3, padding_mode="circular", padding=1), (2, 5)),
        (nn.Conv1d(2, 4, 3), (2, 2)),
        (nn.GroupNorm(1, 3), (2, 5)),
        (nn.MaxPool1d(2, ceil_mode=True), (2, 5)),
        (nn.AdaptiveAvgPool2d((None, 2)), (2, 5, 5)),
        (nn.Flatten(2), (2, 5, 5)),
    ],
)
def test_what_has_no_closed_form_is_not_guessed(layer, shape):
    with pytest.raises(UnknownLayerError):
        passage(Part("model", (Block("only", layer),)), shape)


HEADS = [chain(Linear(2, 5), ReLU(), ClipRows(1.0)), chain(Linear(1, 5), ClipRows(1.0, 1))]


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    "layers",
    [
        [Linear(3, 6), KeepLargest(0.5), Linear(6, 2)],
        [Linear(3, 6), ClipRows(1.0), Linear(6, 2)],
        [chain(Linear(3, 6), ReLU(), ClipRows(1.0, 1)), chain(Dropout(0.5), KeepLargest(0.1)), Linear(6, 2)],
        [Columns((2, 0)), Linear(2, 2)],
        [Known(), Linear(3, 2)],
        *([Heads(HEADS, ((0, 2), (1,)), how, everywhere)] for how in JOINS for everywhere in (True, False)),
    ],
)
def test_layers_at_a_cut_and_of_parties_cost_what_pytorch_counts(layers, frozen):
    part = Part("model", tuple(Block(f"b{place}", layer) for place, layer in enumerate(layers)))
    counted, passed = counted_cost(part, (3,), first=True, frozen=frozen), passage(part, (3,), trained=not frozen)
    assert passed.output_shape == counted.output_shape
    assert (passed.forward_flops, passed.backward_flops) == (counted.forward_flops, counted.backward_flops)
    assert sum(passed.kept.values()) // 4 == counted.activations


def test_what_is_kept_of_clipped_rows_is_the_same_whatever_place_in_memory_it_takes():
    part = Part("head", (Block("one", nn.Linear(4, 6)), Block("two", ClipRows(1.0))))
    held, found = [], set()
    for count in range(60):
        held = [object() for _ in range(count)]
        found.add(counted_cost(part, (4,), first=True, frozen=False).activations)
    assert len(held) == 59
    assert len(found) == 1


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_parts_of_a_cut_cost_what_the_whole_costs(name):
    net = network(name)
    whole = part_costs((net.whole,), net.input_shape)["model"]
    for cut in range(1, len(net.blocks)):
        parts = part_costs(net.split("vanilla", cut), net.input_shape)
        for key in ("forward_flops", "backward_flops", "parameters"):
            assert sum(getattr(cost, key) for cost in parts.values()) == getattr(whole, key)
        assert parts["body"].output_shape == whole.output_shape
