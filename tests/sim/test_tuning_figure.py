"""The tuning figure: by hand, the best setting with a value, its mean over seeds, and the edge in words."""

from math import inf

import pandas as pd
import pytest
from altair import Root
from report_studies import make_runs, make_study

from sim.report.gallery import gallery
from sim.report.tuning import tuned_keys, tuning_points

SCORES = {  # (rate, batch size): by seed
    (0.1, 16): (0.70, 0.72),
    (0.1, 32): (0.74, 0.70),
    (0.2, 16): (0.80, 0.78),
    (0.2, 32): (0.60, 0.60),
    (0.4, 16): (0.82, 0.84),
    (0.4, 32): (0.50, 0.50),
}


@pytest.fixture
def trials():
    rows = [
        {
            "trial_id": f"t{strategy}{rate}{size}{seed}", "study": "heart", "strategy": strategy, "method": strategy,
            "cut": "", "seed": seed, "tuned.train.learning-rate": rate, "tuned.train.batch-size": size,
            "tuned.train.clip": 1.0, "score": score,
            "loss": 0.5, "status": "ok", "chosen": (rate, size) == (0.4, 16),
        }
        for strategy in ("fedavg", "local")
        for (rate, size), scores in SCORES.items()
        for seed, score in enumerate(scores)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_a_value_is_scored_by_its_best_setting_on_each_seed(trials):
    assert tuned_keys(trials) == ["train.learning-rate", "train.batch-size"]  # one clip was tried: nothing to see
    names = {"as set": {"FedAvg": "FedAvg", "Local": "Local"}}
    table = tuning_points(trials, names)
    own = table[(table["series"] == "FedAvg") & (table["key"] == "train.learning-rate")]
    assert own["value"].tolist() == [0.1, 0.2, 0.4]
    assert own["validation_score"].tolist() == pytest.approx([(0.74 + 0.72) / 2, (0.80 + 0.78) / 2, (0.82 + 0.84) / 2])
    assert own["best"].tolist() == [False, False, True]
    assert own["chosen"].tolist() == [0.0, 0.0, 1.0]


def test_the_report_draws_each_key_and_says_what_stands_at_the_edge(trials):
    runs = make_runs(epsilons=[inf], methods=[("fedavg", ""), ("local", "")], seeds=[0, 1])
    shown = gallery(make_study(runs.drop(columns="privacy.epsilon"), trials=trials))
    [figure] = [one for one in shown.figures if one.name == "tuning"]
    assert len(figure.panels) == 2
    assert "Local did best at the highest train.learning-rate that was tried (0.4)" in figure.note
    assert "FedAvg, as set: train.learning-rate 0.4" in figure.description
    for spec in (*shown.page_specs(figure), shown.paper_spec(figure, "heart")):
        Root.validate(spec)


def test_a_study_that_tuned_nothing_has_no_such_figure():
    assert "tuning" not in [figure.name for figure in gallery(make_study(make_runs())).figures]
