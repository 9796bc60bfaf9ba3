"""The second count of epsilon against the first, over every method and mechanism, and over hard settings."""

import math
from collections import Counter
from pathlib import Path

import dp_accounting as dp
import pytest
from support import plan_of, run_spec, write_csv

from sim.plan.plan import Plan
from sim.privacy.accounting import composed_epsilon
from sim.privacy.ledger import ADVERSARIES
from sim.privacy.recount import Drawn, Method, alike, count_faults, noise_faults, seen
from sim.privacy.second_opinion import same, second_epsilon
from sim.problems import ScenarioError
from sim.study.runner import plan_counts, plan_drawn, plan_summary

METHODS = [
    ("centralised", None),
    ("local", None),
    ("fedavg", None),
    ("flwr.serverapp.strategy.FedAvg", None),
    *((name, cut) for name in ("split", "splitfed-v1", "splitfed-v2", "splitfed-v3") for cut in ("vanilla", "u-shaped")),
]
DELTA = {"delta": 1e-3}
SGD = {"mechanism": "dp-sgd", "noise-multiplier": 0.8, **DELTA}
MECHANISMS = {
    "none": {"mechanism": "none"},
    "dp-sgd": SGD,
    "no-noise": {**SGD, "noise-multiplier": 0.0},
    "target": {"mechanism": "dp-sgd", "epsilon": 3.0, **DELTA},
    "joint": {**SGD, "clipping": "joint"},
    "rows": {"mechanism": "smashed-noise", "noise-multiplier": 6.0, **DELTA},
    "rows-public-labels": {"mechanism": "smashed-noise", "epsilon": 4.0, "labels": "public", **DELTA},
    "laplace": {"mechanism": "laplace", "noise-multiplier": 9.0, "labels": "public"},
    "laplace-labels": {"mechanism": "laplace+label-rr", "noise-multiplier": 9.0, "label-epsilon": 2.0},
    "once": {"mechanism": "release-once", "noise-multiplier": 4.0, "labels": "public", **DELTA},
    "once-labels": {"mechanism": "release-once+label-rr", "noise-multiplier": 4.0, "label-epsilon": 1.5, **DELTA},
    "both": {**SGD, "mechanism": "dp-sgd+smashed-noise", "smashed-noise-multiplier": 5.0, "labels": "public"},
    "both-target": {**SGD, "noise-multiplier": 9.0, "mechanism": "dp-sgd+smashed-noise", "epsilon-server": 40.0},
    "three": {
        **SGD,
        "mechanism": "dp-sgd+smashed-noise+label-rr",
        "smashed-noise-multiplier": 5.0,
        "label-epsilon": 1.0,
    },
    "labels": {"mechanism": "label-rr", "label-epsilon": 1.5},
    "sgd-labels": {**SGD, "mechanism": "dp-sgd+label-rr", "label-epsilon": 1.5},
    "clinic": {"mechanism": "clinic-level", "noise-multiplier": 2.0, **DELTA},
    "clinic-adaptive": {
        "mechanism": "clinic-level",
        "noise-multiplier": 2.0,
        "adaptive-quantile": 0.5,
        "adaptive-count-noise": 4.0,
        **DELTA,
    },
}
LOSSY = {"participation": 0.75, "deadline": "100 s"}


@pytest.fixture(scope="module")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("recount") / "patients.csv")


def recounted(plan: Plan) -> tuple[Method, Drawn]:
    spec = plan.spec
    method = Method(name=spec.strategy.name, cut=spec.strategy.cut, privacy=spec.privacy, model=spec.model)
    return method, Drawn.model_validate(plan_drawn(plan, 2))


@pytest.mark.parametrize("freeze", [(), ("head",), ("head", "tail")], ids=["trained", "head", "ends"])
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_every_method_is_counted_the_same_twice(csv: Path, mechanism: str, freeze: tuple[str, ...]) -> None:
    found = 0
    for name, cut in METHODS:
        options = {"participation": 1.0 if "." in name else 0.75}
        try:
            plan, _ = plan_of(run_spec(csv, name, cut, MECHANISMS[mechanism], {"freeze": list(freeze)}, **options))
        except ScenarioError:
            continue
        found += 1
        method, drawn = recounted(plan)
        delta = plan.spec.privacy.delta or 0.0
        record = {**plan_summary(plan), "counts": plan_counts(plan)}
        assert list(count_faults(method, drawn, record, plan.spec.model_dump(mode="json"))) == []
        assert list(noise_faults(method, drawn, record)) == []
        for k, clinic in enumerate(plan.clinics):
            for adversary, mechanisms in seen(method, drawn, k).items():
                ledgers = plan.ledger.mechanisms(adversary, k, plan.spec.privacy.unit)
                assert alike(mechanisms, ledgers), (name, cut, adversary, k, mechanisms, ledgers)
                assert same(clinic.epsilon[adversary], second_epsilon(mechanisms, delta)), (name, cut, adversary, k)
    assert found or freeze


