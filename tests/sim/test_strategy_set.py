"""What a strategy sets for itself: other keys of the model, the training and the mechanisms than the study's."""

from pathlib import Path

import pytest

from sim.foundation.problems import ScenarioError
from sim.scenario import parse_scenario
from sim.scenario.spec import expand

BASE = {
    "name": "small",
    "seeds": [0, 1],
    "data": {"source": "heart-disease"},
    "model": {"name": "mlp", "hidden": [4]},
    "train": {"rounds": 2, "batch-size": 16, "learning-rate": 0.1},
    "privacy": {"mechanism": "dp-sgd", "delta": 1e-4},
    "sweep": {"privacy.epsilon": [1, 8], "train.rounds": [2, 3]},
}


def specs(*strategies, **change):
    mapping = {**BASE, **change, "evaluation": {"reference": False}, "strategies": list(strategies)}
    return expand(parse_scenario(mapping, Path("/study")))


def test_a_key_that_is_set_holds_for_that_strategy_alone_and_is_not_swept_for_it():
    noised = {"privacy": {"mechanism": "smashed-noise"}, "model": {"freeze": ["head"]}, "train": {"rounds": 9}}
    found = specs({"name": "fedavg"}, {"name": "split", "cut": ["vanilla", "u-shaped"], "set": noised})
    seen = [
        (
            s.strategy.name,
            s.strategy.cut,
            s.privacy.mechanism,
            s.privacy.epsilon,
            s.model.freeze,
            s.train.rounds,
            s.seed,
        )
        for s in found
    ]
    assert seen == [
        *[("fedavg", None, "dp-sgd", eps, (), rounds, seed) for eps in (1, 8) for rounds in (2, 3) for seed in (0, 1)],
        *[
            ("split", cut, "smashed-noise", eps, ("head",), 9, seed)
            for cut in ("vanilla", "u-shaped")
            for eps in (1, 8)
            for seed in (0, 1)
        ],
    ]
    assert [s.swept for s in found[::2][:1] + found[-1:]] == [
        {"privacy.epsilon": 1, "train.rounds": 2},
        {"privacy.epsilon": 8},
    ]
    assert all(s.privacy.delta == 1e-4 and s.model.hidden == (4,) for s in found)  # what is not set is the study's


def test_it_is_the_run_that_a_study_of_its_own_would_have():
    [own, *_] = specs({"name": "split", "set": {"privacy": {"mechanism": "smashed-noise"}}})
    [other, *_] = specs({"name": "split"}, privacy={"mechanism": "smashed-noise", "delta": 1e-4})
    assert own.run_id == other.run_id


def test_a_public_head_lies_beside_the_scenario():
    [spec, *_] = specs({"name": "split", "set": {"model": {"public-head": "pca:public.npz", "components": 4}}})
    assert spec.model.public_head == "pca:/study/public.npz"


@pytest.mark.parametrize(
    ("own", "line"),
    [
        ({"data": {"test-share": 0.5}}, r"strategies\.0\.set: data\.test-share is the same for all"),
        ({"model": {"freze": ["head"]}}, r'strategies\.0\.set: model\.freze: unknown key; did you mean "freeze"'),
        (
            {"privacy": {"mechanism": "label-rr", "label-epsilon": 2}},
            r"strategies\.0\.set: .*privacy\.label-epsilon: give either this",
        ),
        ({"train": {"rounds": -1}}, r"strategies\.0\.set: train\.rounds: "),
    ],
)
def test_what_cannot_be_set_is_one_line_that_names_the_strategy(own, line):
    with pytest.raises(ScenarioError, match=line) as error:
        specs({"name": "split", "set": own})
    assert len(error.value.problems) == 1
