"""Grouping clinics behind nodes changes a user's own network by rounding only, on the generic path over lanes too."""

import pytest
from split_twins import CUT, Method, apart
from support import train_spec
from torch import nn

from sim.methods.turn_training import TurnTraining
from sim.tensor import lanes


class Scaled(nn.Module):
    """A module without a rule of its own."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.GroupNorm(2, width)

    def forward(self, x):
        return self.norm(x).tanh()


def grouped(input_shape, outputs):
    return [
        ("a", nn.Sequential(nn.Linear(*input_shape, 6), nn.GroupNorm(3, 6), nn.ReLU())),
        ("b", nn.Sequential(nn.Linear(6, 4), Scaled(4))),
        ("c", nn.Linear(4, outputs)),
    ]


@pytest.mark.parametrize("node_groups", [2, 3])
@pytest.mark.parametrize("method", [Method("fedavg"), *CUT[4:6], *CUT[-2:]], ids=str)
def test_node_groups_change_the_model_by_rounding_only(ragged, method, node_groups):
    spec = method.spec(ragged, model={"name": "factory", "factory": "test_node_group_rounding:grouped", "hidden": [6]})
    assert apart(train_spec(spec, node_groups).parameters, train_spec(spec).parameters) < 5e-6


def convolved(input_shape, outputs):
    return [
        ("a", nn.Sequential(nn.Unflatten(1, (1, *input_shape)), nn.Conv1d(1, 3, 3, padding=1), nn.ReLU())),
        ("b", nn.Sequential(nn.Conv1d(3, 2, 3), nn.Flatten(), nn.Linear(2 * (input_shape[0] - 2), 5), nn.ReLU())),
        ("c", nn.Linear(5, outputs)),
    ]


@pytest.mark.parametrize("method", [Method("fedavg"), *CUT[4:6], *CUT[-2:]], ids=str)
def test_large_convolutions_run_lane_by_lane_and_change_the_model_by_rounding_only(ragged, method, monkeypatch):
    model = {"name": "factory", "factory": "test_node_group_rounding:convolved", "hidden": [6]}
    spec, widths = method.spec(ragged, model=model), []
    together = train_spec(spec).parameters
    step = TurnTraining._step
    monkeypatch.setattr(lanes, "MOST_WEIGHTS", 8)
    monkeypatch.setattr(TurnTraining, "_step", lambda *of: (widths.append(of[2].x.shape[0]), step(*of)))
    lanes.one_by_one.cache_clear()
    one_by_one = train_spec(spec).parameters
    lanes.one_by_one.cache_clear()
    assert apart(one_by_one, together) < 5e-6
    assert set(widths) == (set() if method.strategy == "fedavg" else {1})
