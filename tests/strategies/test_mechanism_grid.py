"""Every mechanism with every strategy and cut: it runs and its ledger is the planned one, or one line refuses it."""

import math

import pytest
from support import plan_of, run_spec, write_csv

from sim.foundation.problems import ScenarioError
from sim.privacy.ledger import ADVERSARIES
from sim.study.train import train_run

SPLIT = ("split", "splitfed-v1", "splitfed-v2", "splitfed-v3")
WHOLE = ("fedavg", "fedprox", "local", "centralised", "flwr.serverapp.strategy.FedAdam")
METHODS = [
    ("release-once", "vanilla"),
    *((s, cut) for s in SPLIT for cut in ("vanilla", "u-shaped")),
    *((s, None) for s in WHOLE),
]
MECHANISMS = {
    "none": {},
    "dp-sgd": {"noise-multiplier": 1.5},
    "smashed-noise": {"noise-multiplier": 4.0},
    "laplace": {"noise-multiplier": 4.0},
    "label-rr": {"label-epsilon": 2.0},
    "clinic-level": {"noise-multiplier": 1.5},
    "dp-sgd+smashed-noise": {"noise-multiplier": 1.5, "smashed-noise-multiplier": 4.0},
    "dp-sgd+laplace": {"noise-multiplier": 1.5, "smashed-noise-multiplier": 4.0},
    "dp-sgd+label-rr": {"noise-multiplier": 1.5, "label-epsilon": 2.0},
    "smashed-noise+label-rr": {"noise-multiplier": 4.0, "label-epsilon": 2.0},
    "laplace+label-rr": {"noise-multiplier": 4.0, "label-epsilon": 2.0},
    "dp-sgd+smashed-noise+label-rr": {"noise-multiplier": 1.5, "smashed-noise-multiplier": 4.0, "label-epsilon": 2.0},
}
NEVER = {
    "smashed-noise+laplace": "one kind of noise",
    "clinic-level+label-rr": "stands alone",
    "dp-sgd+clinic-level": "stands alone",
}
AVERAGED = ("fedavg", "fedprox", "splitfed-v1", "splitfed-v3")


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("grid") / "clinics.csv", [20, 31, 12])


def refusals(mechanism, strategy, cut):
    """Say which reasons there are against a combination, by the rules that the README states."""
    names = mechanism.split("+")
    if "clinic-level" in names and strategy not in AVERAGED:
        yield f"clinic-level noises a sum of updates, and {strategy} forms none"
    if "dp-sgd" in names and strategy == "release-once":
        yield "no training sees a record"
    for name in ("smashed-noise", "laplace"):
        if name in names and cut is None:
            yield f"{name} needs a cut, and {strategy} sends no smashed data"
    if "label-rr" in names and cut != "vanilla" and strategy != "centralised":
        yield "label-rr randomises labels that are sent"


@pytest.mark.parametrize(("strategy", "cut"), METHODS, ids=str)
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_it_runs_as_planned_or_is_refused_in_one_line_a_reason(csv, mechanism, strategy, cut):
    privacy = {"mechanism": mechanism, "delta": 1e-3, **MECHANISMS[mechanism]}
    spec = run_spec(csv, strategy, cut, privacy, rounds=2, participation=1.0)
    reasons = list(refusals(mechanism, strategy, cut))
    if reasons:
        with pytest.raises(ScenarioError) as error:
            plan_of(spec)
        assert len(error.value.problems) == len(reasons)
        for problem, reason in zip(error.value.problems, reasons, strict=True):
            assert problem.startswith("privacy.mechanism: ")
            assert reason in problem
            assert "\n" not in problem
        return
    plan, federation = plan_of(spec)
    train_run(plan, federation)  # an error unless bytes, noised steps and ledger are the planned ones
    for adversary in ADVERSARIES:
        finite = {math.isfinite(clinic.epsilon[adversary]) for clinic in plan.clinics}
        assert finite == {protected(mechanism, strategy, cut, adversary)}, adversary


def protected(mechanism, strategy, cut, adversary):
    """Say whether epsilon is finite: head and tail train here, and labels are private."""
    names = mechanism.split("+")
    if strategy == "local" and adversary != "model-user":
        return True  # sees nothing
    if strategy == "release-once":
        return "label-rr" in names and len(names) == 2
    if "clinic-level" in names:
        return adversary != "server" and not (strategy == "splitfed-v3" and adversary == "model-user")
    if "dp-sgd" not in names:
        return False
    if adversary != "server" or (cut is None and strategy != "centralised"):
        return True
    rows = "smashed-noise" in names or "laplace" in names
    return rows and (cut == "u-shaped" or "label-rr" in names)


@pytest.mark.parametrize("mechanism", NEVER)
def test_mechanisms_that_exclude_each_other_are_refused_for_every_strategy(csv, mechanism):
    for strategy, cut in METHODS:
        with pytest.raises(ScenarioError, match=rf"privacy\.mechanism: .*{NEVER[mechanism]}"):
            run_spec(csv, strategy, cut, {"mechanism": mechanism, "noise-multiplier": 1.0, "delta": 1e-3})
