"""The figure of tuning, from trials whose scores are known."""

import pandas as pd
import pytest
from report_studies import make_runs, make_study

from sim.report.gallery import gallery

RATES = (0.1, 0.3, 1.0)
SCORES = {"fedavg": (0.7, 0.8, 0.6), "local": (0.5, 0.6, 0.65)}


@pytest.fixture(scope="module")
def tuned():
    runs = make_runs(epsilons=(1.0, 3.0), seeds=(0, 1), methods=[("fedavg", ""), ("local", "")])
    trials = [
        {
            "strategy": strategy, "method": strategy, "cut": "", "privacy.epsilon": epsilon,
            "seed": seed, "status": "ok",
            "tuned.train.learning-rate": rate, "score": score + 0.02 * seed, "loss": 0.5,
            "chosen": score == max(scores),
        }
        for strategy, scores in SCORES.items() for epsilon in (1.0, 3.0) for seed in (0, 1)
        for rate, score in zip(RATES, scores, strict=True)
    ]  # fmt: skip
    return make_study(runs, trials=pd.DataFrame(trials))


def test_points_are_means_over_seeds_and_the_best_of_each_method_is_marked(tuned):
    table = gallery(tuned).tables["tuning"]
    own = table[(table["series"] == "FedAvg") & (table["level"] == "ε = 1")].set_index("value")
    assert own["validation_score"].to_dict() == pytest.approx(dict(zip(RATES, (0.71, 0.81, 0.61), strict=True)))
    assert own["best"].to_dict() == {0.1: False, 0.3: True, 1.0: False}
    assert set(table["key"]) == {"train.learning-rate"}


def test_no_picture_is_drawn_without_its_data(tuned):
    shown = gallery(tuned)
    assert "tuning" in {figure.name for figure in shown.figures}
    for figure in shown.figures:
        assert all(shown.paper_spec(figure, "tuned")["datasets"].values()), figure.name
