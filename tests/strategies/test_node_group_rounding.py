"""Grouping clinics behind nodes changes a user's own network by rounding only, on the generic path over lanes too."""

import pytest
from split_twins import CUT, Method, apart
from support import train_spec
from torch import nn


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
