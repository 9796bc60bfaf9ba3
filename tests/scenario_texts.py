"""A scenario to change in one place, and the lines that say what is wrong with it."""

import pytest

from sim.foundation.problems import ScenarioError
from sim.scenario import load_scenario

BASE = """
name = "heart"
seeds = [0, 1]
[data]
source = "heart-disease"
[model]
name = "mlp"
[evaluation]
reference = false
[train]
rounds = 30
batch-size = 16
learning-rate = 0.05
[[clinics]]
profile = "hospital"
sites = ["cleveland"]
[[clinics]]
profile = "rural-dsl"
[[strategies]]
name = "fedavg"
[[strategies]]
name = "splitfed-v1"
cut = ["vanilla", "u-shaped"]
[[strategies]]
name = "flwr.serverapp.strategy.FedAdam"
options = { eta = 0.1, accept-failures = true }
"""
CSV = (
    'data = {source="csv", path="p.csv", label="y", clinic="c", features=["age", "bmi"], '
    'missing={bmi=25, age="drop"}, ranges={bmi=[10, 60]}}'
)


def lines(path, *overrides, only=()):
    """Return the problems, each without the file's name, which every line must start with."""
    with pytest.raises(ScenarioError) as caught:
        load_scenario(path, overrides, only)
    assert all(line.startswith(f"{path}: ") and "\n" not in line for line in caught.value.problems)
    return [line.removeprefix(f"{path}: ") for line in caught.value.problems]
