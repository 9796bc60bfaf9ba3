"""What the server is taken to be, and what holds against one that lies."""

import math

import dp_accounting as dp
import pytest
from support import plan_of, run_spec, write_csv

from sim.foundation.problems import ScenarioError
from sim.privacy.accounting import epsilon
from sim.privacy.ledger import ADVERSARIES
from sim.study.train import train_run

DELTA = {"delta": 1e-3}
SGD = {"mechanism": "dp-sgd", "noise-multiplier": 1.5, "clip": 0.5, **DELTA}
ROWS = {"mechanism": "smashed-noise", "noise-multiplier": 6.0, "labels": "public", **DELTA}
BOTH = {**SGD, "mechanism": "dp-sgd+smashed-noise", "smashed-noise-multiplier": 6.0, "labels": "public"}
CLINIC = {"mechanism": "clinic-level", "noise-multiplier": 1.5, "clip": 0.3, **DELTA}
FROZEN = {"freeze": ["head"]}
EVERYONE = set(ADVERSARIES)


@pytest.fixture
def csv(tmp_path):
    return write_csv(tmp_path / "clinics.csv")


def planned(csv, strategy, cut, privacy, trust, model=None):
    plan, federation = plan_of(run_spec(csv, strategy, cut, {**privacy, "trust": trust}, model))
    train_run(plan, federation)
    return plan


def epsilons(plan):
    return {a: max(clinic.epsilon[a] for clinic in plan.clinics) for a in plan.adversaries}


HOLDS = [
    # What is noised at the clinic holds, whatever is sent to it; a model holds as much as its server tells.
    ("fedavg", None, SGD, None, EVERYONE),
    ("fedprox", None, SGD, None, EVERYONE),
    ("splitfed-v1", "vanilla", ROWS, FROZEN, EVERYONE),
    ("release-once", "vanilla", ROWS, None, EVERYONE),
    ("splitfed-v1", "vanilla", BOTH, None, EVERYONE),
    ("local", None, SGD, None, EVERYONE),
    # The server is to noise updates, or the gradients of a body whose rows and labels it has.
    ("fedavg", None, CLINIC, None, set()),
    ("splitfed-v1", "vanilla", SGD, None, set()),
    ("split", "u-shaped", SGD, None, set()),
    ("centralised", None, SGD, None, set()),
]


@pytest.mark.parametrize(("strategy", "cut", "privacy", "model", "holds"), HOLDS)
def test_what_holds_against_a_server_that_lies(csv, strategy, cut, privacy, model, holds):
    plan = planned(csv, strategy, cut, privacy, "active", model)
    found = epsilons(plan)
    assert {a for a, value in found.items() if math.isfinite(value)} == holds
    curious = epsilons(planned(csv, strategy, cut, privacy, "curious", model))
    assert found["server"] == pytest.approx(curious["server"], rel=0.2)  # each run draws batches of its own
    assert all(found[a] >= 0.8 * curious[a] for a in found)


def test_a_model_is_worth_no_more_than_what_a_lying_server_has(csv):
    found = epsilons(planned(csv, "splitfed-v1", "vanilla", BOTH, "active"))
    assert found["model-user"] == found["peer-clinic"] == found["server"]


@pytest.mark.parametrize("tolerated", [0, 1])
@pytest.mark.parametrize("colluding", [0, 1])
def test_a_lying_server_leaves_out_of_a_sum_whom_it_can(csv, tolerated, colluding):
    privacy = {**CLINIC, "secure-aggregation": True, "tolerated-drop-outs": tolerated, "colluding-clinics": colluding}
    found = epsilons(planned(csv, "fedavg", None, privacy, "active"))
    least, parts = 4 - tolerated, 4 - tolerated - colluding

    def of(updates):
        noise = 1.5 * math.sqrt(updates / parts)
        return pytest.approx(epsilon(dp.SelfComposedDpEvent(dp.GaussianDpEvent(noise), 3), 1e-3), rel=1e-9)

    assert found["server"] == found["model-user"] == of(least)  # all four are there, and no more than these are sure
    assert found["peer-clinic"] == of(least - 1)
    if colluding:
        assert found["server-and-peers"] == found["peers"] == of(least - 1)


def test_with_too_low_a_threshold_two_lists_may_be_shown_and_own_noise_alone_counts(csv):
    privacy = {**CLINIC, "secure-aggregation": True, "tolerated-drop-outs": 2}  # T = 2, not more than half of 4
    found = epsilons(planned(csv, "fedavg", None, privacy, "active"))
    own = dp.SelfComposedDpEvent(dp.GaussianDpEvent(1.5 / math.sqrt(2)), 3)
    assert set(found.values()) == {found["server"]}
    assert found["server"] == pytest.approx(epsilon(own, 1e-3), rel=1e-9)
    assert epsilons(planned(csv, "fedavg", None, privacy, "curious"))["server"] < found["server"]


@pytest.mark.parametrize(
    ("strategy", "cut", "privacy", "line"),
    [
        ("fedavg", None, CLINIC, "the server is trusted with every clinic's update"),
        ("splitfed-v1", "vanilla", SGD, "labels are sent as they are.*; smashed rows leave without noise"),
    ],
)
def test_a_target_that_relies_on_an_honest_server_is_refused(csv, strategy, cut, privacy, line):
    target = {key: value for key, value in privacy.items() if key != "noise-multiplier"} | {"epsilon": 3.0}
    plan_of(run_spec(csv, strategy, cut, target))
    with pytest.raises(
        ScenarioError,
        match=f"under {strategy} no noise reaches 3 against the model-user, .*active server.*{line}.*; take fedavg",
    ) as told:
        plan_of(run_spec(csv, strategy, cut, {**target, "trust": "active"}))
    assert len(told.value.problems) == 1


@pytest.mark.parametrize(("over_select", "parts"), [(1.0, 2), (2.0, 1)])
def test_two_lists_may_be_shown_where_more_are_invited_than_a_sum_needs(csv, over_select, parts):
    """Two of four are needed: of four that are invited, two pairs can each sign a list of their own."""
    spec = run_spec(csv, "fedavg", None, {**CLINIC, "secure-aggregation": True, "trust": "active"}, rounds=1)
    train = spec.train.model_copy(update={"participation": 0.5, "over_select": over_select})
    plan, _ = plan_of(spec.model_copy(update={"train": train}))
    noise = dp.GaussianDpEvent(1.5 * math.sqrt(parts / 2))
    assert epsilons(plan)["server"] == pytest.approx(epsilon(noise, 1e-3), rel=1e-9)


def test_who_is_trusted_stays_where_an_infinite_target_takes_the_mechanism_away(csv):
    trust = {"trust": "active", "secure-aggregation": True, "tolerated-drop-outs": 1, "colluding-clinics": 2}
    target = {"mechanism": "clinic-level", "epsilon": math.inf, **DELTA, **trust}
    found = run_spec(csv, privacy=target).privacy
    assert found.mechanism == "none"
    assert trust.items() <= found.model_dump(by_alias=True).items()


@pytest.mark.parametrize(
    ("trust", "words"),
    [
        ("trusted", "the server, which is trusted"),
        ("curious", "follows the protocol"),
        ("active", "and may lie in all"),
    ],
)
def test_the_statement_says_what_the_server_is_taken_to_be(csv, trust, words):
    from sim.plan.statement import privacy_statement
    from sim.privacy.statement_text import statement_text

    plan = planned(csv, "fedavg", None, SGD, trust)
    statement = privacy_statement(plan, {}, finished=True)
    assert words in statement["adversaries"][2]["who"]
    assert words in statement_text(statement)
    assert statement["adversaries"][2]["epsilon"] == epsilons(planned(csv, "fedavg", None, SGD, "curious"))["server"]
