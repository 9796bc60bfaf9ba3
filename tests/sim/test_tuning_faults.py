"""What is wrong in [tune] is told in one line each."""

import tomllib

import pytest
from tuned_studies import BASE, scenarios_in

from sim.foundation.problems import ScenarioError


@pytest.fixture
def scenario(tmp_path):
    return scenarios_in(tmp_path)


@pytest.mark.parametrize(
    ("tables", "line"),
    [
        ({"tune": {"train.rate": [1]}}, 'scenario: tune.train.rate: unknown key; did you mean "train.quantile"?'),
        ({"tune": {}}, 'scenario: tune: names no key; add one such as "train.learning-rate" = [0.05, 0.1, 0.3]'),
        (
            {"tune": {"train.rounds": [1]}, "sweep": {"train.rounds": [1]}},
            "scenario: tune.train.rounds: is swept too; take it out of [sweep] or out of [tune]",
        ),
        (
            {"tune": {"train.learning-rate": [0.1, -1.0]}},
            "scenario: tune.train.learning-rate: -1.0 is out of range; give a number greater than 0",
        ),
        (
            {"tune": {"strategies.split.order": ["random"]}},
            "scenario: tune.strategies.split.order: names no strategy that is listed; "
            "write strategies.<its label or name>.<key>",
        ),
        (
            {"tune": {"privacy.epsilon": [1.0]}},
            "scenario: tune.privacy.epsilon: decides what is guaranteed, so it is no matter of scores; sweep it, or "
            "tune privacy.clip, privacy.smashed-clip, privacy.tail-clip, privacy.adaptive-rate",
        ),
        (
            {"tune": {"train.learning-rate": {"low": 1.0, "high": 0.1, "trials": 3}}},
            "scenario: tune.train.learning-rate: low 1.0 is not below high 0.1; exchange them",
        ),
        (
            {"tune": {"train.learning-rate": 0.1}},
            "scenario: tune.train.learning-rate: 0.1 is no list of values; give some, or { low, high, log, trials }",
        ),
        (
            {"tune": {"strategies.fedavg.order": ["random"]}, "strategies": [1]},
            "scenario: strategies.0: 1 is not a table; write it as one",
        ),
        (
            {"tune": {"data.alpha": [1.0]}},
            "scenario: tune.data.alpha: cannot be tuned; choose a key of [model], [train], [privacy], "
            "or strategies.<label or name>.<key>",
        ),
    ],
)
def test_bad_tuning_is_one_line(scenario, tables, line):
    with pytest.raises(ScenarioError) as caught:
        scenario(**{"train": tomllib.loads(BASE)["train"] | {"learning-rate": 0.1}, **tables})
    assert line in str(caught.value).splitlines()
