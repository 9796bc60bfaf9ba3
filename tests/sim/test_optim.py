import math

import pytest
import torch
from torch import nn

from sim.tensor.optim import Optimizer, Rate

torch.set_num_threads(1)
OPTIMIZERS = {
    "sgd": lambda params, decay: torch.optim.SGD(params, lr=0.05, weight_decay=decay),
    "momentum": lambda params, decay: torch.optim.SGD(params, lr=0.05, momentum=0.8, weight_decay=decay),
    "adam": lambda params, decay: torch.optim.Adam(params, lr=0.05, weight_decay=decay),
}
SHAPES = {"w": (3, 2), "b": (3,), "s": ()}
RATE = Rate(0.05, 0.8, 0.0)
STEPS_OF_LANE = (9, 5, 2)  # the lanes still at work are always the first ones
TOLERANCE = {torch.float32: 2e-7, torch.float64: 1e-14}


def gradient(lane, step, name, dtype):
    """Draw a gradient; some entries are zero, some tiny, as behind a dead unit."""
    generator = torch.Generator().manual_seed(1000 * lane + 10 * step + len(name + "wbs"[: "wbs".index(name)]))
    value = torch.randn(SHAPES[name], generator=generator, dtype=dtype)
    return torch.where(value.abs() < 0.3, torch.zeros_like(value), value * (1e-4 if step % 3 == 2 else 1.0))


def start(dtype):
    torch.manual_seed(0)
    return {name: torch.randn(len(STEPS_OF_LANE), *shape, dtype=dtype) for name, shape in SHAPES.items()}


def by_torch(name, dtype, lane, steps, rounds=1, decay=0.0):
    """Take the steps of one lane with ``torch.optim``, once a round."""
    params = {key: nn.Parameter(value[lane].clone()) for key, value in start(dtype).items()}
    optimizer = OPTIMIZERS[name](params.values(), decay)
    for step in [*range(steps)] * rounds:
        for key, parameter in params.items():
            parameter.grad = gradient(lane, step, key, dtype)
        optimizer.step()
    return params


def take_steps(optimizer, parameters, state, first, last, dtype, rate=RATE):
    for step in range(first, last):
        lanes = sum(step < steps for steps in STEPS_OF_LANE)
        grads = [torch.stack([gradient(k, step, key, dtype) for k in range(lanes)]) for key in parameters]
        at_work = [{key: value[:lanes] for key, value in own.items()} for own in (parameters, state)]
        optimizer.step(at_work[0], grads, at_work[1], rate)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_lanes_that_finish_at_different_times_take_the_steps_of_torch_optim(name, dtype):
    optimizer = Optimizer(name)
    parameters = start(dtype)
    state = optimizer.initial_state(parameters)
    take_steps(optimizer, parameters, state, 0, max(STEPS_OF_LANE), dtype)
    for lane, steps in enumerate(STEPS_OF_LANE):
        for key, expected in by_torch(name, dtype, lane, steps).items():
            torch.testing.assert_close(parameters[key][lane], expected.data, rtol=0, atol=TOLERANCE[dtype] * 4)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_is_that_of_torch_optim(name):
    optimizer = Optimizer(name)
    parameters = start(torch.float64)
    rate = RATE._replace(decay=0.3)
    take_steps(optimizer, parameters, optimizer.initial_state(parameters), 0, 9, torch.float64, rate)
    for lane, steps in enumerate(STEPS_OF_LANE):
        for key, expected in by_torch(name, torch.float64, lane, steps, decay=0.3).items():
            torch.testing.assert_close(parameters[key][lane], expected.data, rtol=0, atol=1e-14)


@pytest.mark.parametrize("rounds", [1, 2, 10, 20, 137])
@pytest.mark.parametrize("name", ["cosine", "warm-up", "constant"])
def test_schedules_are_those_of_torch(name, rounds):
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.4)
    rising = max(1, rounds // 10)
    scheduler = {
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, rounds),
        "warm-up": lambda: torch.optim.lr_scheduler.LinearLR(optimizer, 1 / (rising + 1), total_iters=rising),
        "constant": lambda: torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0),
    }[name]()
    rate = RATE._replace(learning_rate=0.4, schedule=name, rounds=rounds)
    for server_round in range(1, rounds + 1):
        assert math.isclose(rate.at(server_round).learning_rate, scheduler.get_last_lr()[0], rel_tol=1e-9)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_handed_on_goes_on_where_it_stopped(name):
    optimizer = Optimizer(name)
    parameters = start(torch.float64)
    state = optimizer.initial_state(parameters)
    take_steps(optimizer, parameters, state, 0, 4, torch.float64)
    parameters = {key: value.clone() for key, value in parameters.items()}
    state = {key: value.clone() for key, value in state.items()}
    take_steps(Optimizer(name), parameters, state, 4, max(STEPS_OF_LANE), torch.float64)
    for lane, steps in enumerate(STEPS_OF_LANE):
        for key, expected in by_torch(name, torch.float64, lane, steps).items():
            torch.testing.assert_close(parameters[key][lane], expected.data, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_lanes_that_have_taken_different_numbers_of_steps_go_on_together(name):
    """As in a clinic's second round alone: each lane has a count and a state of its own."""
    optimizer = Optimizer(name)
    parameters = start(torch.float64)
    state = optimizer.initial_state(parameters)
    for _ in range(2):
        take_steps(optimizer, parameters, state, 0, max(STEPS_OF_LANE), torch.float64)
    for lane, steps in enumerate(STEPS_OF_LANE):
        for key, expected in by_torch(name, torch.float64, lane, steps, rounds=2).items():
            torch.testing.assert_close(parameters[key][lane], expected.data, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_fresh_state_differs_from_state_handed_on(name):
    """Otherwise the test above would say nothing."""
    optimizer = Optimizer(name)
    parameters = start(torch.float64)
    for first, last in ((0, 4), (4, 9)):
        take_steps(optimizer, parameters, optimizer.initial_state(parameters), first, last, torch.float64)
    expected = by_torch(name, torch.float64, 0, 9)
    assert float((parameters["w"][0] - expected["w"].data).abs().max()) > 1e-3


def test_rates_of_rounds_by_hand():
    rates = {name: [Rate(0.2, 0.0, 0.0, schedule=name, rounds=10).at(r).learning_rate for r in (1, 2, 6, 10)]
             for name in ("constant", "cosine", "warm-up")}  # fmt: skip
    assert rates["constant"] == [0.2] * 4
    assert rates["cosine"] == pytest.approx([0.2, 0.2 * 0.975528, 0.1, 0.2 * 0.0244717], rel=1e-5)
    assert rates["warm-up"] == pytest.approx([0.1, 0.2, 0.2, 0.2])


def test_one_step_by_hand():
    grads = [torch.tensor([[2.0], [-4.0]])]
    for name, expected in {"sgd": [[0.8], [1.4]], "momentum": [[0.8], [1.4]], "adam": [[0.9], [1.1]]}.items():
        parameters = {"w": torch.ones(2, 1)}
        optimizer = Optimizer(name)
        optimizer.step(parameters, grads, optimizer.initial_state(parameters), Rate(0.1, 0.9, 0.0))
        torch.testing.assert_close(parameters["w"], torch.tensor(expected))


@pytest.mark.parametrize(("name", "slots"), [("sgd", 0), ("momentum", 1), ("adam", 2)])
def test_slots_are_what_the_state_holds(name, slots):
    parameters = start(torch.float32)
    optimizer = Optimizer(name)
    state = optimizer.initial_state(parameters)
    assert len(optimizer.slots) == slots
    assert len(state) == slots * len(parameters) + (name == "adam")
    assert all(not value.any() for value in state.values())
