"""A user's own model: named blocks from a function found by its import path."""

import sys
from collections import OrderedDict

import pytest
import torch
from torch import nn

from sim.models import build_network
from sim.plan.costs import part_costs
from sim.scenario.model import Model
from sim.tensor.lanes import forward

torch.set_num_threads(1)


class Own(nn.Module):
    """A module with an initialisation and a constant of its own."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 2)
        self.register_buffer("shift", torch.arange(float(width)))

    def forward(self, x):
        return x * self.weight + self.shift


class Careless(nn.Module):
    """Whatever a user's module may do wrong, one thing at a time."""

    def __init__(self, fault):
        super().__init__()
        self.fault = fault
        self.layer = nn.Linear(4, 4)
        if fault == "unused":
            self.spare = nn.Linear(2, 2)
        if fault == "dropout":
            self.drop = nn.Dropout(0.5)
        if fault == "norm":
            self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        y = self.layer(x)
        if self.fault == "centred":
            return y - y.mean(0)
        if self.fault == "squeezed":
            return y.squeeze(0)
        if self.fault == "random":
            return nn.functional.dropout(y, 0.5)
        if self.fault == "dropout":
            return self.drop(y)
        if self.fault == "norm":
            return self.norm(y)
        return (y, y) if self.fault == "tuple" else y


def good(input_shape, outputs):
    return [("first", nn.Sequential(nn.Linear(*input_shape, 4), Own(4), nn.ReLU())), ["out", nn.Linear(4, outputs)]]


def fails(input_shape, outputs):
    return 1 / 0


def one_module(input_shape, outputs):
    return nn.Linear(*input_shape, outputs)


def not_named(input_shape, outputs):
    return [nn.Linear(*input_shape, outputs)]


def nothing(input_shape, outputs):
    return []


def with_middle(*middle):
    def factory(input_shape, outputs):
        return [("a", nn.Linear(*input_shape, 4)), ("b", nn.Sequential(*middle)), ("c", nn.Linear(4, outputs))]

    return factory


def named(*names):
    return lambda input_shape, outputs: [(name, nn.Linear(*input_shape, *input_shape)) for name in names]


def tied(input_shape, outputs):
    layer = nn.Linear(*input_shape, *input_shape)
    return [("a", layer), ("b", layer), ("c", nn.Linear(*input_shape, outputs))]


def frozen(input_shape, outputs):
    return [("a", nn.Linear(*input_shape, outputs).requires_grad_(False))]


def doubles(input_shape, outputs):
    return [("a", nn.Linear(*input_shape, outputs).double())]


def lazy(input_shape, outputs):
    return [("a", nn.LazyLinear(outputs))]


def elsewhere(input_shape, outputs):
    return [("a", nn.Linear(*input_shape, outputs, device="meta"))]


def unset(input_shape, outputs):
    layer = nn.Linear(*input_shape, outputs)
    nn.init.constant_(layer.bias, float("nan"))
    return [("a", layer)]


def buffer_elsewhere(input_shape, outputs):
    block = Own(*input_shape)
    block.register_buffer("shift", torch.zeros(*input_shape, device="meta"))
    return [("a", block), ("b", nn.Linear(*input_shape, outputs))]


def leaves(input_shape, outputs):
    sys.exit(0)


def no_modules(input_shape, outputs):
    return [("a", lambda x: x)]


def no_parameters(input_shape, outputs):
    return [("a", nn.Identity())]


twice, dotted = named("a", "b", "a"), named("a", "b.c")
too_many = named("a")
norm = with_middle(nn.BatchNorm1d(4))
plain_norm = with_middle(nn.BatchNorm1d(4, affine=False, track_running_stats=False))
cumulative_norm = with_middle(nn.BatchNorm1d(4, momentum=None))
volume_norm = with_middle(nn.Unflatten(1, (4, 1, 1, 1)), nn.BatchNorm3d(4), nn.Flatten())
same_norm = with_middle(*[nn.BatchNorm1d(4, affine=False)] * 2)
instance = with_middle(nn.Unflatten(1, (2, 2)), nn.InstanceNorm1d(2, track_running_stats=True), nn.Flatten())
feature_dropout = with_middle(nn.Unflatten(1, (2, 2)), nn.Dropout1d(0.5), nn.Flatten())
unused, centred, squeezed, random, hidden_dropout, hidden_norm, pairs = (
    with_middle(Careless(fault)) for fault in ("unused", "centred", "squeezed", "random", "dropout", "norm", "tuple")
)
MOMENTUM = "without running statistics of a fixed momentum; the trained model needs them"
DIRECTLY = "put nn.BatchNorm1d or nn.BatchNorm2d directly into an nn.Sequential, once"
FACTORIES = [
    ("absent", "cannot be imported: AttributeError: module 'test_factories' has no attribute 'absent'"),
    ("fails", "failed on (4,), 3: ZeroDivisionError: division by zero"),
    (
        "one_module",
        "returned Linear(in_features=4, out_features=3, bias=True); return a list of (name, torch.nn.Module)",
    ),
    ("not_named", "returned [Linear(in_features=4, out_features=3, bias=True)]; return a list of"),
    ("nothing", "returned []; return a list of (name, torch.nn.Module)"),
    ("twice", 'gives the name "a" to 2 blocks; name each once'),
    ("dotted", "names a block \"b.c\"; use letters, digits, '-' and '_'"),
    ("too_many", "gives outputs of shape [1, 4] for a batch of 1; [1, 3] is needed"),
    ("tied", 'uses the parameter "b.weight" in two places; give each module its own'),
    ("frozen", 'has the frozen parameter "a.weight"; every parameter is trained'),
    ("doubles", 'has the parameter "a.weight" of type torch.float64; use torch.float32'),
    ("no_parameters", "has no parameter to train"),
    ("lazy", 'has the parameter "a.weight" without a shape; state it in place of a lazy module'),
    ("elsewhere", 'has the parameter "a.weight" on the device meta; build it on the CPU'),
    ("unset", 'begins with a value in the parameter "a.bias" that is not finite; initialise it'),
    ("buffer_elsewhere", "cannot run on records: RuntimeError: "),
    ("leaves", "failed on (4,), 3: SystemExit: 0"),
    ("no_modules", "returned [('a', <function no_modules.<locals>.<lambda>>)]; return a list of"),
    ("norm", 'holds BatchNorm: say whose running statistics count with model.batch-norm, "average" or "local"'),
    ("plain_norm", f'holds BatchNorm1d in block "b" {MOMENTUM}'),
    ("cumulative_norm", f'holds BatchNorm1d in block "b" {MOMENTUM}'),
    ("volume_norm", f'holds BatchNorm3d in block "b"; {DIRECTLY}'),
    ("same_norm", f'holds BatchNorm1d in block "b"; {DIRECTLY}'),
    ("hidden_norm", f'holds BatchNorm1d in block "b"; {DIRECTLY}'),
    ("instance", 'holds InstanceNorm1d in block "b", whose running statistics are no parameters; use'),
    ("feature_dropout", 'holds Dropout1d in block "b", whose mask could not be repeated; put nn.Dropout directly into'),
    ("hidden_dropout", 'holds Dropout in block "b", whose mask could not be repeated; put nn.Dropout directly into'),
    ("unused", 'has the parameter "b.0.spare.weight", which plays no part in the outputs; remove it'),
    ("random", 'cannot run block "b" on a batch of shape [1, 4]: RuntimeError: vmap: '),
    ("pairs", 'cannot run block "b" on a batch of shape [1, 4]: TypeError: it returned tuple, not one tensor'),
    ("squeezed", "gives outputs of shape [3] for a batch of 1; [1, 3] is needed"),
    ("centred", "mixes the records of a batch, so that padding would count; normalise record by record, as GroupNorm"),
]


def from_factory(name, shape=(4,), classes=3):
    return build_network(Model(name="factory", factory=f"test_factories:{name}"), shape, classes)


@pytest.mark.parametrize(("name", "line"), FACTORIES, ids=[name for name, _ in FACTORIES])
def test_a_bad_factory_is_one_line(name, line):
    with pytest.raises(ValueError, match=r"^factory") as caught:
        from_factory(name)
    assert str(caught.value).startswith(f'factory "test_factories:{name}" {line}')
    assert "\n" not in str(caught.value)


def test_a_factory_that_cannot_be_imported_is_one_line():
    with pytest.raises(ValueError, match=r'^factory "no_such.module:f" cannot be imported: ModuleNotFoundError: '):
        build_network(Model(name="factory", factory="no_such.module:f"), (4,), 3)


def test_a_module_that_ends_the_program_when_it_is_imported_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "leaves_at_once.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r'^factory "leaves_at_once:f" cannot be imported: SystemExit: 0$'):
        build_network(Model(name="factory", factory="leaves_at_once:f"), (4,), 3)


def test_a_factorys_own_initialisation_counts_and_depends_on_the_seed_alone():
    state = torch.random.get_rng_state()
    net = from_factory("good")
    first, again, other = net.initial_parameters(3), net.initial_parameters(3), net.initial_parameters(4)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert bool((first["first.1.weight"] >= 2).all())
    assert not torch.equal(first["first.1.weight"], other["first.1.weight"])
    assert [block.name for block in net.blocks] == ["first", "out"]
    assert net.outputs == 3
    x = torch.randn(1, 5, 4)
    module = nn.Sequential(OrderedDict((block.name, block.module) for block in net.blocks))
    module.load_state_dict({name: value[0] for name, value in first.items()}, strict=False)
    expected = module(x[0]).detach()
    torch.testing.assert_close(forward(net.whole, first, x)[0], expected)


def test_a_factorys_model_is_planned_without_data():
    net = from_factory("good")
    costs = part_costs(net.split("vanilla", 1), net.input_shape)
    assert costs["head"].output_shape == (4,)
    assert costs["head"].forward_flops == 2 * 4 * 4
    assert costs["body"].parameters == 4 * 3 + 3
