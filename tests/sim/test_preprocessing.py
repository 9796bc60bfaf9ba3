"""Statistics of the records in preprocessing: no epsilon that depends on them is finite; stated constants mend it."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import plan_of, run_spec, write_csv

from sim.data.federation import load_federation
from sim.foundation.problems import ScenarioError
from sim.methods.sampling import participants
from sim.plan.plan import Plan, make_plan
from sim.plan.releases import un_noised
from sim.plan.statement import privacy_statement
from sim.privacy.ledger import ADVERSARIES
from sim.privacy.recount import Drawn, Method, alike, seen
from sim.results.verification import run_faults
from sim.scenario.spec import RunSpec
from sim.scenario.study import ClinicGroup
from sim.study.planning import plan_drawn
from sim.study.runner import execute

DELTA = {"delta": 1e-3}
SGD = {"mechanism": "dp-sgd", "noise-multiplier": 0.8, **DELTA}
ROWS = {"mechanism": "smashed-noise", "noise-multiplier": 6.0, "labels": "public", **DELTA}
ONCE = {"mechanism": "smashed-noise+label-rr", "noise-multiplier": 4.0, "label-epsilon": 1.5, **DELTA}
CLINIC = {"mechanism": "clinic-level", "noise-multiplier": 2.0, **DELTA}
FROZEN = {"freeze": ["head"]}

METHODS: dict[str, tuple[str, str | None, dict[str, Any], dict[str, Any]]] = {
    "centralised": ("centralised", None, SGD, {}),
    "local": ("local", None, SGD, {}),
    "fedavg": ("fedavg", None, SGD, {}),
    "imported": ("flwr.serverapp.strategy.FedAvg", None, SGD, {}),
    "split": ("split", "vanilla", SGD | {"labels": "public"}, {}),
    "u-shaped": ("splitfed-v2", "u-shaped", SGD, {}),
    "rows": ("splitfed-v1", "vanilla", ROWS, FROZEN),
    "once": ("release-once", "vanilla", ONCE, {}),
    "clinic-level": ("fedavg", None, CLINIC, {}),
    "clinic-level, own bodies": ("splitfed-v3", "vanilla", CLINIC, {}),
}
"""With whom the mechanism is there for: the server where rows are noised, the model user otherwise."""

KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], str, bool]] = {
    "per-clinic": (
        {"scaling": "per-clinic"},
        {"scaling": "none"},
        'are scaled by statistics of the records (mean and deviation of x0, x1 and 4 others); take data.scaling = "pub',
        False,
    ),
    "pooled": (
        {"scaling": "pooled"},
        {"scaling": "public", "ranges": {f"x{i}": (-9.0, 9.0) for i in range(4)}},
        "features are scaled by statistics of the records",
        True,
    ),
    "levels": ({"levels": {}}, {}, "levels of c are those found in the records; state data.levels", True),
    "dropped": ({"missing": "drop"}, {"missing": 0.0}, "columns are dropped where a record lacks their value", True),
}
"""What uses the records, what is stated in its place, the reason, and whether it is of all clinics."""


@pytest.fixture(scope="module")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_csv(tmp_path_factory.mktemp("preprocessing") / "patients.csv")
    head, *lines = path.read_text(encoding="utf-8").splitlines()
    rows = [f"{head},c", *(f"{line},{'uv'[i % 2]}" for i, line in enumerate(lines))]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def spec_of(csv: Path, method: str, changed: dict[str, Any], **train: Any) -> RunSpec:
    name, cut, privacy, model = METHODS[method]
    return with_data(run_spec(csv, name, cut, privacy, model, **train), changed)


def with_data(spec: RunSpec, changed: dict[str, Any]) -> RunSpec:
    data = {"categorical": ("c",), "levels": {"c": ("u", "v")}} | changed
    return spec.model_copy(update={"data": spec.data.model_copy(update=data)})


def by_class(spec: RunSpec) -> Plan:
    federation = load_federation(spec.data, spec.seed)
    statistics = {**federation.statistics, "held-out records drawn by class": "non-private"}
    return make_plan(spec, replace(federation, statistics=statistics).facts)


def assert_recounted(plan: Plan, names: set[str]) -> None:
    spec = plan.spec
    method = Method(
        own_parts=plan.spec.strategy.name == "splitfed-v3",
        name=spec.strategy.name,
        cut=spec.strategy.cut,
        privacy=spec.privacy,
        model=spec.model,
        preprocessing=frozenset(names),
        pooled=spec.data.scaling == "pooled",
    )
    drawn = Drawn.model_validate(plan_drawn(plan))
    for k in range(len(plan.clinics)):
        for adversary, view in seen(method, drawn, k).items():
            assert alike(view, plan.ledger.mechanisms(adversary, k, spec.privacy.unit)), (adversary, k)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_no_epsilon_is_finite_that_depends_on_a_statistic_until_it_is_stated(csv: Path, method: str, kind: str) -> None:
    used, stated, reason, of_all = KINDS[kind]
    plan, federation = plan_of(spec_of(csv, method, used))
    told = {a: [found for found in un_noised(plan.ledger, a) if reason in found] for a in ADVERSARIES}
    exposed = {"model-user", *(["peer-clinic"] if of_all else [])} if method == "local" else set(ADVERSARIES)
    for adversary in ADVERSARIES:
        assert len(told[adversary]) == (adversary in exposed)
        value = math.inf if adversary in exposed else 0.0
        assert [clinic.epsilon[adversary] for clinic in plan.clinics] == [value] * len(plan.clinics)
    non_private = {name for name, marking in federation.statistics.items() if marking == "non-private"}
    assert_recounted(plan, non_private)
    mended, federation = plan_of(spec_of(csv, method, stated))
    assert "non-private" not in federation.statistics.values()
    assert all(release.what != "preprocessing" for release in mended.ledger.releases)
    assert math.isfinite(mended.columns()["epsilon_server" if method in ("rows", "once") else "epsilon_peer"])
    assert_recounted(mended, set())


def test_only_missing_values_decide_what_is_dropped_even_if_none_is_missing(csv: Path) -> None:
    plan, federation = plan_of(spec_of(csv, "fedavg", {"missing": "drop"}))
    assert federation.features[:4] == ("x0", "x1", "x2", "x3")
    assert plan.columns()["epsilon_peer"] == math.inf


@pytest.mark.parametrize(("scaling", "value"), [("pooled", math.inf), ("per-clinic", 0.0)])
@pytest.mark.parametrize("method", ["fedavg", "clinic-level", "local"])
def test_a_clinic_that_never_trains_has_its_records_in_pooled_statistics(
    csv: Path, method: str, scaling: str, value: float
) -> None:
    seed = next(s for s in range(100) if 0 not in participants(s, 1, 4, 0.5))
    if method == "local":
        spec = spec_of(csv, method, {"scaling": scaling}, rounds=1, seed=seed)
        away = ClinicGroup(profile="hospital", sites=("k0",), availability=1e-9)
        spec = spec.model_copy(update={"clinics": (away, ClinicGroup(profile="hospital"))})
    else:
        spec = spec_of(csv, method, {"scaling": scaling}, rounds=1, participation=0.5, seed=seed)
    plan, federation = plan_of(spec)
    assert plan.sampled.steps[0] == 0
    assert [plan.clinics[0].epsilon[a] for a in ("model-user", "peer-clinic")] == [value, value]
    assert_recounted(plan, set(federation.statistics) - {"levels of c"})


def test_a_randomised_label_is_exposed_by_the_choice_of_held_out_records_alone(csv: Path) -> None:
    plan, _ = plan_of(spec_of(csv, "once", {"scaling": "pooled"}))
    assert (plan.columns()["epsilon_label"], plan.columns()["epsilon_server"]) == (pytest.approx(1.5), math.inf)
    with pytest.raises(ScenarioError) as refused:
        by_class(spec_of(csv, "once", {}))
    [line] = refused.value.problems
    assert line.startswith("privacy.label-epsilon: no noise reaches 1.5 against everyone: records are held out by")
    assert by_class(spec_of(csv, "local", {})).columns()["epsilon_model_user"] == math.inf


@pytest.mark.parametrize(
    ("privacy", "who", "method"),
    [
        (SGD, "model-user", ("fedavg", None)),
        (CLINIC, "model-user", ("fedavg", None)),
        (ROWS, "server", ("split", "vanilla")),
    ],
)
def test_a_target_that_no_noise_meets_is_refused_in_one_line(
    csv: Path, privacy: dict[str, Any], who: str, method: tuple[str, str | None]
) -> None:
    target = {key: value for key, value in privacy.items() if key != "noise-multiplier"} | {"epsilon": 2.0}
    spec = run_spec(csv, *method, target, FROZEN if method[1] else {})
    with pytest.raises(ScenarioError) as refused:
        plan_of(with_data(spec, {"levels": {}}))
    [line] = refused.value.problems
    assert line == (
        f"privacy.epsilon: no noise reaches 2 against the {who}: "
        "levels of c are those found in the records; state data.levels"
    )
    assert plan_of(with_data(spec, {}))[0].clinics[0].epsilon[who] <= 2.0


def test_the_statement_says_so(csv: Path) -> None:
    statement = privacy_statement(plan_of(spec_of(csv, "fedavg", {"scaling": "pooled"}))[0], {}, finished=True)
    assert all("scaled by statistics" in row["reasons"][0] for row in statement["adversaries"])
    assert all([s for s in row["sees"] if s["what"] == "preprocessing"] for row in statement["adversaries"])
    [note] = [r["note"] for r in statement["outside"] if (r["what"], r["marking"]) == ("preprocessing", "non-private")]
    assert note.endswith("; counted as sent without noise")


@pytest.fixture(scope="module")
def run(csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    spec = spec_of(csv, "fedavg", {"scaling": "pooled", "levels": {}, "missing": "drop"}, rounds=1)
    assert execute(plan_of(spec)[0], folder, {"suture": "0"})["status"] == "ok"
    return folder / spec.run_id


def without_releases(record: dict[str, Any]) -> None:
    rows = json.loads(record["privacy"]["releases"])
    record["privacy"]["releases"] = json.dumps([row for row in rows if row["what"] != "preprocessing"])


def public(name: str) -> Callable[[dict[str, Any]], None]:
    def change(record: dict[str, Any]) -> None:
        statistics = record["privacy"]["statistics"]
        statistics.update({key: "public" for key in statistics if key.startswith(name)})

    return change


@pytest.mark.parametrize(
    ("forge", "said"),
    [
        (without_releases, "privacy.releases: clinic 0, model-user: is not what settings and counts give"),
        (public(""), "row.epsilon_peer: inf is claimed, settings and counts give "),
        (public("levels"), "privacy.statistics: levels of c is not listed as non-private"),
        (public("which"), "privacy.statistics: which columns are dropped for missing values is not listed as non-"),
        (public("mean"), 'privacy.statistics: is not what data.scaling = "pooled" uses'),
        (lambda r: r["row"].update(epsilon_peer=3.0), "row.epsilon_peer: 3 is claimed, settings and counts give inf"),
    ],
    ids=["releases", "all", "levels", "dropped", "scaling", "epsilon"],
)
def test_verify_counts_them_by_itself(run: Path, tmp_path: Path, forge: Callable[[dict[str, Any]], None], said: str):
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert run_faults(run, record) == []
    copy = Path(shutil.copytree(run, tmp_path / run.name))
    forge(record)
    assert any(said in fault for fault in run_faults(copy, record))
