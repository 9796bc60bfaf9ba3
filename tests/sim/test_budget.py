"""Epsilon round by round, and the budget that ends a run, against plans of fewer rounds."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
from support import DP_SGD, plan_of, run_spec, write_csv

from sim.foundation.problems import ScenarioError
from sim.plan.budget import FOLLOWED_CLINICS
from sim.privacy.ledger import ADVERSARIES, COLUMN_OF
from sim.study.rerun import differences
from sim.study.runner import execute

SMASHED = {"mechanism": "smashed-noise", "noise-multiplier": 6.0, "delta": 1e-3, "labels": "public"}
FROZEN = {"freeze": ["head"]}
CLINIC_LEVEL = {"mechanism": "clinic-level", "noise-multiplier": 2.0, "delta": 1e-3}
CASES = [
    ("fedavg", None, DP_SGD, None),
    ("splitfed-v1", "vanilla", DP_SGD, None),
    ("splitfed-v1", "vanilla", {**DP_SGD, "mechanism": "dp-sgd+smashed-noise", "smashed-noise-multiplier": 4.0}, None),
    ("split", "vanilla", SMASHED, FROZEN),
    ("fedavg", None, CLINIC_LEVEL, None),
    ("centralised", None, DP_SGD, None),
    ("local", None, {"mechanism": "none"}, None),
]


@pytest.fixture(scope="module")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("budget") / "patients.csv")


def planned(csv: Path, case: tuple, rounds: int, **privacy: object):
    method, cut, given, model = case
    return plan_of(run_spec(csv, method, cut, given | privacy, model, rounds=rounds, participation=0.75))[0]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}-{case[2]['mechanism']}")
def test_each_round_spends_what_a_run_of_so_many_rounds_would(csv: Path, case: tuple) -> None:
    spent = planned(csv, case, 6).epsilon_spent
    for rounds in range(7):
        columns = planned(csv, case, rounds).columns()
        for adversary in ADVERSARIES:
            assert spent[adversary][rounds] == pytest.approx(columns[COLUMN_OF[adversary]], rel=1e-3, abs=1e-4)
            assert list(spent[adversary]) == sorted(spent[adversary])
            assert spent[adversary][-1] == planned(csv, case, 6).columns()[COLUMN_OF[adversary]]


@pytest.mark.parametrize(
    "other",
    [
        {"privacy": DP_SGD | {"noise-multiplier": 1.1}},
        {"privacy": DP_SGD | {"delta": 1e-4}},
        {"batch_size": 4},
        {"rounds": 5, "local_epochs": 2},
        {"seed": 6, "participation": 0.75},
        {"strategy": "centralised"},
    ],
)
def test_a_run_that_differs_is_not_given_what_another_has_spent(csv: Path, other: dict) -> None:
    """What was spent is remembered; what stands at its end comes from the ledger of the very plan."""
    given = {"strategy": "fedavg", "privacy": DP_SGD, "rounds": 4, "participation": 0.75}
    first, second = (plan_of(run_spec(csv, **settings))[0] for settings in (given, given | other))
    for plan in (first, second, plan_of(run_spec(csv, **given))[0]):
        for adversary in ADVERSARIES:
            assert plan.epsilon_spent[adversary][-1] == plan.columns()[COLUMN_OF[adversary]]
    assert first.epsilon_spent != second.epsilon_spent


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More clinics than are followed round by round."""
    sizes = [12 + 5 * k for k in range(FOLLOWED_CLINICS + 3)]
    return write_csv(tmp_path_factory.mktemp("many") / "patients.csv", sizes)


def test_of_many_clinics_the_least_protected_are_followed(many: Path) -> None:
    """At the end it is the largest epsilon of all; before, no more than a run of so many rounds would spend."""
    plan = planned(many, CASES[0], 4)
    spent = plan.epsilon_spent["server"]
    assert spent[-1] == plan.columns()["epsilon_server"]
    for rounds in range(4):
        assert spent[rounds] <= planned(many, CASES[0], rounds).columns()["epsilon_server"] * (1 + 1e-3)


@pytest.mark.parametrize("case", [CASES[0], CASES[3], CASES[4]], ids=["dp-sgd", "smashed-noise", "clinic-level"])
@pytest.mark.parametrize("clinics", ["csv", "many"])
def test_stops_after_the_last_round_within_the_budget(
    case: tuple, clinics: str, request: pytest.FixtureRequest
) -> None:
    csv = request.getfixturevalue(clinics)
    column = "epsilon_server" if case is CASES[3] else "epsilon_model_user"
    spent = [planned(csv, case, rounds).columns()[column] for rounds in range(7)]
    for limit in (spent[1], (spent[2] + spent[3]) / 2, spent[5] * 1.0001, spent[6] + 1):
        plan = planned(csv, case, 6, **{"stop-at-epsilon": limit})
        assert plan.rounds == plan.columns()["rounds"] == max(r for r in range(7) if spent[r] <= limit)
        assert plan.columns()[column] == spent[plan.rounds] <= limit


@pytest.mark.usefixtures("one_key")
def test_a_stopped_run_is_trained_recorded_and_repeated(csv: Path, tmp_path: Path) -> None:
    free = planned(csv, CASES[0], 5)
    plan = planned(csv, CASES[0], 5, **{"stop-at-epsilon": free.epsilon_spent["model-user"][3] + 1e-3})
    row = execute(plan, tmp_path, {})
    assert (row["status"], row["rounds"], plan.spec.train.rounds) == ("ok", 3, 5)
    folder = tmp_path / plan.spec.run_id
    rounds = pd.read_parquet(folder / "rounds.parquet")
    assert rounds["round"].tolist() == [0, 1, 2, 3]
    for adversary in ADVERSARIES:
        assert rounds[COLUMN_OF[adversary]].tolist() == list(plan.epsilon_spent[adversary])
    assert rounds["epsilon_server"].tolist()[0] == 0
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))["privacy"]["statement"]["rounds"] == 3
    assert differences(folder) == []
    shorter = planned(csv, CASES[0], 3)
    assert (plan.round_seconds, plan.columns()["bytes_up"]) == (shorter.round_seconds, shorter.columns()["bytes_up"])
    assert execute(shorter, tmp_path, {})["auc"] == row["auc"]


def test_budgets_that_cannot_be_kept_are_refused(csv: Path) -> None:
    with pytest.raises(ScenarioError, match=r"first round alone spends .* against the model-user; give a larger one"):
        planned(csv, CASES[0], 3, **{"stop-at-epsilon": 0.01})
    with pytest.raises(ScenarioError, match="epsilon is infinite against the server: clinics train on"):
        planned(csv, (*CASES[3][:3], None), 3, **{"stop-at-epsilon": 8.0})
    with pytest.raises(ScenarioError, match="stop-at-epsilon: has no effect without a mechanism"):
        planned(csv, CASES[-1], 3, **{"stop-at-epsilon": 8.0})


def test_a_target_is_calibrated_for_all_the_rounds_and_a_smaller_budget_stops_early(csv: Path) -> None:
    given = {key: value for key, value in DP_SGD.items() if key != "noise-multiplier"} | {"epsilon": 8.0}
    case = ("fedavg", None, given, None)
    whole, stopped = planned(csv, case, 6), planned(csv, case, 6, **{"stop-at-epsilon": 5.0})
    assert stopped.noise_multipliers == whole.noise_multipliers
    assert stopped.rounds < 6
    assert 4 < stopped.columns()["epsilon_model_user"] <= 5
    assert math.isclose(whole.columns()["epsilon_model_user"], 8, rel_tol=1e-2)
