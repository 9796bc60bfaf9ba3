"""Dropout, class weights, and training steps of lanes against plain PyTorch."""

from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support import bitwise
from test_lane_rules import close, stacked
from torch import nn
from torch.nn import functional

from sim.data.facts import Facts
from sim.foundation.rng import stream
from sim.methods.feed import Feed
from sim.methods.job import Job
from sim.methods.node_group import NodeGroup
from sim.methods.trainer import LocalTraining, expand, trainer_for
from sim.scenario import parse_scenario
from sim.scenario.spec import expand as runs_of
from sim.tensor.lane_rules import DropoutMasks
from sim.tensor.lanes import forward, records_at_once
from sim.tensor.losses import by_class, loss_sum
from sim.tensor.program import Alone

torch.set_num_threads(1)


def dropout_net():
    return nn.Sequential(nn.Conv1d(1, 3, 3), nn.Dropout(0.4), nn.Flatten(), nn.Linear(18, 2))


def test_dropout_is_repeatable_and_no_lane_depends_on_the_others():
    torch.manual_seed(0)
    _, part, parameters = stacked(dropout_net, torch.float64, 3)
    x = torch.randn(3, 4, 1, 8, dtype=torch.float64)
    together = forward(part, parameters, x, masks=DropoutMasks(7, [4, 0, 2], 3, 5))
    assert torch.equal(together, forward(part, parameters, x, masks=DropoutMasks(7, [4, 0, 2], 3, 5)))
    for lane, clinic in enumerate([4, 0, 2]):
        own = {name: value[lane : lane + 1] for name, value in parameters.items()}
        padded = torch.cat([x[lane : lane + 1], torch.randn(1, 2, 1, 8, dtype=torch.float64)], 1)
        alone = forward(part, own, padded, masks=DropoutMasks(7, [clinic], 3, 5))
        close(alone[0, :4], together[lane], torch.float64)
    for other in [(8, [4, 0, 2], 3, 5), (7, [5, 1, 3], 3, 5), (7, [4, 0, 2], 4, 5), (7, [4, 0, 2], 3, 6)]:
        assert not torch.equal(together, forward(part, parameters, x, masks=DropoutMasks(*other)))


def test_lanes_in_groups_draw_the_masks_that_each_draws_alone():
    torch.manual_seed(0)
    convolution, pooled = nn.Conv1d(1, 3, 3), nn.AdaptiveAvgPool1d(2)
    _, part, parameters = stacked(
        lambda: nn.Sequential(convolution, nn.Dropout(0.4), pooled, nn.Flatten(), nn.Linear(6, 2)), torch.float64, 3
    )
    x = torch.randn(3, 2, 1, 200_000, dtype=torch.float64)
    assert records_at_once(part, x.shape[2:]) == 1
    together = forward(part, parameters, x, masks=DropoutMasks(7, [4, 0, 2], 3, 5))
    for lane, clinic in enumerate([4, 0, 2]):
        own = {name: value[lane : lane + 1] for name, value in parameters.items()}
        alone = forward(part, own, x[lane : lane + 1], masks=DropoutMasks(7, [clinic], 3, 5))
        close(together[lane], alone[0], torch.float64)


def test_dropout_equals_the_plain_forward_under_the_same_mask():
    torch.manual_seed(0)
    modules, part, parameters = stacked(dropout_net, torch.float64, 2)
    x = torch.randn(2, 4, 1, 8, dtype=torch.float64)
    dropped = forward(part, parameters, x, masks=DropoutMasks(7, [1, 0], 2, 0))
    kept = forward(part, parameters, x)
    for lane, clinic in enumerate([1, 0]):
        conv, _, flatten, linear = modules[lane].block
        uniform = stream(7, "dropout.block.1", clinic, 2, 0).random((4, 3, 6), dtype=np.float32)
        mask = torch.from_numpy(uniform >= 0.4).double() / 0.6
        close(dropped[lane], linear(flatten(conv(x[lane]) * mask)), torch.float64)
        close(kept[lane], linear(flatten(conv(x[lane]))), torch.float64)


def test_the_mask_belongs_to_the_layer_and_has_its_rate():
    masks = DropoutMasks(0, [0, 1], 1, 0)
    like = torch.empty(2, 500, 10)
    first = masks.draw("conv1.3", 0.25, like)
    assert first.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert float((first == 0).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert not torch.equal(first, masks.draw("conv2.3", 0.25, like))
    assert not masks.draw("conv1.3", 1.0, like).any()


@pytest.mark.parametrize("weights", [[1.0, 4.0], [0.5, 2.0]])
def test_class_weights_on_a_binary_logit_are_pos_weight(weights):
    torch.manual_seed(0)
    logits, y = torch.randn(2, 5, 1, dtype=torch.float64), torch.randint(2, (2, 5))
    rows = torch.full((2, 5), 0.2, dtype=torch.float64)
    found = loss_sum(logits, y, by_class(rows, y, torch.tensor(weights).double()))
    expected = functional.binary_cross_entropy_with_logits(
        logits[..., 0], y.double(), pos_weight=torch.tensor(weights[1] / weights[0]).double(), reduction="sum"
    )
    close(found, expected * 0.2 * weights[0], torch.float64)


def test_class_weights_on_softmax_logits_are_torchs_weight():
    torch.manual_seed(0)
    logits, y = torch.randn(2, 5, 3, dtype=torch.float64), torch.randint(3, (2, 5))
    rows = torch.full((2, 5), 0.25).double()
    rows[1, 3:] = 0
    weights = torch.tensor([1.0, 0.5, 7.0]).double()
    found = loss_sum(logits, y, by_class(rows, y, weights))
    inside = rows.flatten() > 0
    flat = logits.flatten(0, 1)[inside], y.flatten()[inside]
    close(found, functional.cross_entropy(*flat, weight=weights, reduction="sum") * 0.25, torch.float64)
    close(loss_sum(logits, y, by_class(rows, y, torch.ones(3).double())), loss_sum(logits, y, rows), torch.float64)


SIZES = (11, 7, 6, 3)


def clinics_job(model, shape, privacy=None, sigma=0.0, **train):
    """Derive the job of ragged clinics whose records have any shape, and their node_group."""
    [spec] = runs_of(
        parse_scenario(
            {
                "name": "small",
                "seeds": [5],
                "data": {"source": "heart-disease"},
                "model": model,
                "train": {"rounds": 2, "batch-size": 4, "learning-rate": 0.1, **train},
                "privacy": privacy or {"mechanism": "none"},
                "evaluation": {"reference": False},
                "strategies": [{"name": "fedavg"}],
            },
            Path(),
        )
    )
    rng = np.random.default_rng(0)
    offsets = np.cumsum([0, *SIZES])
    train_records = SimpleNamespace(
        x=rng.normal(size=(offsets[-1], *shape)).astype(np.float32),
        y=rng.integers(3, size=offsets[-1]),
        offsets=offsets,
    )
    facts = Facts(
        names=tuple(map(str, SIZES)),
        everyone=tuple(map(str, SIZES)),
        classes=("a", "b", "c"),
        sizes=tuple(SIZES),
        records=int(offsets[-1]),
        input_shape=shape,
        statistics={},
        clinics_of_a_patient=1,
        fingerprint="",
    )
    job = Job.build(spec, facts).with_noise([sigma] * len(SIZES))
    return job, NodeGroup.build(job, train_records, range(len(SIZES)))


def plain_rounds(job, node_group, state, momentum, rounds):
    """Train each clinic by a plain loop with its own optimiser; return the parameters by clinic."""
    found = []
    for clinic, size in enumerate(job.sizes):
        module = nn.Sequential(OrderedDict((block.name, block.module) for block in job.network.build()))
        module.load_state_dict({name: value[0] for name, value in state.items()})
        optimiser = torch.optim.SGD(module.parameters(), 0.1, momentum)
        first = int(node_group.first[clinic])
        x, y = node_group.x[first : first + size], node_group.y[first : first + size]
        for server_round in range(1, rounds + 1):
            batches = job.batches(server_round, [clinic])
            for step, rows in enumerate(batches.rows[:, 0]):
                index = torch.from_numpy(batches.index[step, 0, :rows])
                optimiser.zero_grad()
                functional.cross_entropy(module(x[index]), y[index]).backward()
                optimiser.step()
        found.append(module.state_dict())
    return found


NETWORKS = {
    "cnn": ({"name": "cnn", "channels": [4, 6], "hidden": [5]}, (1, 8, 8)),
    "cnn1d": ({"name": "cnn1d", "channels": [4, 6]}, (2, 16)),
    "resnet18": ({"name": "resnet18", "channels": [2, 4, 4, 6]}, (1, 16, 16)),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("optimizer", "momentum"), [("sgd", 0.0), ("momentum", 0.9)])
def test_stacked_training_equals_the_plain_loop(name, optimizer, momentum):
    torch.manual_seed(0)
    model, shape = NETWORKS[name]
    job, node_group = clinics_job(model, shape, optimizer=optimizer)
    initial = job.network.initial_parameters(1)
    trainer = trainer_for(job, job.network.whole, range(len(SIZES)), expand(initial, len(SIZES)))
    for server_round in (1, 2):
        Alone().do(LocalTraining(trainer=trainer, group=node_group, job=job, server_round=server_round))
    for clinic, expected in enumerate(plain_rounds(job, node_group, initial, momentum, 2)):
        for key, value in expected.items():
            scale = max(float(value.abs().max()), 0.1)
            torch.testing.assert_close(trainer.parameters[key][clinic], value, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("name", NETWORKS)
def test_dp_sgd_without_clip_and_noise_takes_the_plain_gradient(name):
    model, shape = NETWORKS[name]
    private = {"mechanism": "dp-sgd", "noise-multiplier": 0.0, "clip": float("inf"), "delta": 1e-3}
    job, node_group = clinics_job(model, shape, private)
    plain_job, _ = clinics_job(model, shape)
    initial = job.network.initial_parameters(1)
    [batch] = Feed.gathered(job, node_group, list(range(len(SIZES))), 1, slice(1)).step(0)
    moved = []
    for each in (job, plain_job):
        trainer = trainer_for(each, each.network.whole, range(len(SIZES)), expand(initial, len(SIZES)))
        trainer.forward(batch.x)
        trainer.loss(batch.y, batch.weights)
        trainer.backward(1, 0, batch.normaliser)
        moved.append(trainer.parameters)
    for key in initial:
        close(moved[0][key] - initial[key], moved[1][key] - initial[key], torch.float32)


def with_dropout(input_shape, outputs):
    flat = int(np.prod(input_shape))
    first = nn.Sequential(nn.Flatten(), nn.Linear(flat, 4), nn.Dropout(0.5))
    return [("hidden", first), ("output", nn.Linear(4, outputs))]


def test_a_trainer_draws_the_masks_of_the_moment_or_says_that_it_cannot():
    job, node_group = clinics_job({"name": "factory", "factory": "test_lane_training:with_dropout"}, (1, 4, 4))
    head = job.network.split("vanilla", 1)[0]
    trainer = trainer_for(job, head, [2, 0], expand(head.select(job.network.initial_parameters(0)), 2))
    x = torch.randn(2, 3, 1, 4, 4)
    with pytest.raises(ValueError, match="the head holds dropout, and this strategy does not say when it trains"):
        trainer.forward(x)
    drawn = trainer.forward(x, moment=(1, 0)).detach()
    masks = DropoutMasks(job.seed, [2, 0], 1, 0)
    close(drawn, forward(head, trainer.parameters, x, masks=masks), torch.float32)
    whole = job.network.whole
    quick, plain = (trainer_for(job, whole, range(4), expand(job.network.initial_parameters(0), 4)) for _ in range(2))
    Alone().do(LocalTraining(trainer=quick, group=node_group, job=job, server_round=6))
    feed = Feed.gathered(job, node_group, list(range(4)), 6, slice(None))
    for step in range(len(feed.active)):
        [batch] = feed.step(step)
        plain.forward(batch.x, moment=(6, step))
        plain.loss(batch.y, batch.weights)
        plain.backward(6, step, batch.normaliser)
    assert bitwise(quick.parameters, plain.parameters)


def with_one_activation_twice(input_shape, outputs):
    activation = nn.ReLU()
    first = nn.Sequential(nn.Linear(*input_shape, 5), activation, nn.Linear(5, 4), activation)
    return [("hidden", first), ("output", nn.Linear(4, outputs))]


def of_positions(input_shape, outputs):
    positions, width = input_shape
    last = nn.Sequential(nn.Flatten(), nn.Linear(4 * positions, outputs))
    return [("each", nn.Sequential(nn.Linear(width, 4), nn.ReLU())), ("output", last)]


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize(("factory", "shape"), [("with_one_activation_twice", (6,)), ("of_positions", (3, 2))])
def test_a_trainer_of_dense_layers_takes_the_step_of_the_plain_module(factory, shape, private):
    """Chains of linear layers have a quicker way of their own; it must know what it cannot do."""
    privacy = {"mechanism": "dp-sgd", "noise-multiplier": 0.0, "clip": 1e9, "delta": 1e-3} if private else None
    job, _ = clinics_job({"name": "factory", "factory": f"test_lane_training:{factory}"}, shape, privacy)
    parameters = job.network.initial_parameters(0)
    torch.manual_seed(0)
    x, y = torch.randn(1, 4, *shape), torch.randint(3, (1, 4))
    parts = job.network.split("vanilla", 1)
    head, body = (trainer_for(job, part, [0], expand(part.select(parameters), 1)) for part in parts)
    body.forward(head.forward(x).detach(), want_input_gradient=True)
    body.loss(y, torch.full((1, 4), 0.25))
    head.backward(1, 0, np.array([4]), body.backward(1, 0, np.array([4])))
    module = nn.Sequential(OrderedDict((block.name, block.module) for block in job.network.blocks))
    module.load_state_dict({name: value[0] for name, value in parameters.items()})
    functional.cross_entropy(module(x[0]), y[0]).backward()
    for name, value in (head.parameters | body.parameters).items():
        close(value[0], parameters[name][0] - 0.1 * module.get_parameter(name).grad, torch.float32)
