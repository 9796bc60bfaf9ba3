"""The privacy statement against closed forms, the table of runs and a Markdown parser."""

import json
import math
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from scipy.stats import norm
from support import DP_SGD, NO_PRIVACY, plan_of, run_spec, write_csv

from sim.plan.statement import privacy_statement
from sim.privacy.statement_text import STATEMENT_FILE, escaped, statement_text
from sim.scenario.spec import RunSpec
from sim.study.runner import execute

CLINIC_LEVEL = {"mechanism": "clinic-level", "noise-multiplier": 1.5, "delta": 1e-3}
BOTH = {**DP_SGD, "mechanism": ["dp-sgd", "smashed-noise"], "smashed-noise-multiplier": 4.0}


@pytest.fixture(scope="module")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("statement") / "patients.csv")


def stated(spec: RunSpec) -> dict:
    return privacy_statement(plan_of(spec)[0], {}, finished=True)


def row(statement: dict, adversary: str) -> dict:
    return next(row for row in statement["adversaries"] if row["adversary"] == adversary)


def markings(statement: dict, what: str) -> set[str]:
    return {found["marking"] for found in statement["outside"] if found["what"] == what}


def test_clinic_level_by_the_closed_form_of_gaussians(csv: Path) -> None:
    statement = stated(run_spec(csv, privacy=CLINIC_LEVEL, rounds=6))
    mu = math.sqrt(6) / 1.5
    user = row(statement, "model-user")
    assert user["advantage"] == pytest.approx(2 * norm.cdf(mu / 2) - 1)
    assert list(user["true-positive-rates"]) == ["0.001", "0.01", "0.1"]
    for rate, most in user["true-positive-rates"].items():
        assert most == pytest.approx(norm.cdf(norm.ppf(float(rate)) + mu))
    [mechanism] = statement["mechanisms"]
    assert (mechanism["times"], mechanism["counted-in"], mechanism["noise"]) == ([6, 6], "rounds", [1.5, 1.5])
    assert (statement["unit"], user["adjacency"]) == ("clinic", "zero-out")
    assert (row(statement, "server")["epsilon"], row(statement, "server")["advantage"]) == (math.inf, 1.0)


def test_counts_rates_and_noise_by_hand(csv: Path) -> None:
    statement = stated(run_spec(csv, privacy=DP_SGD, rounds=3))
    records = [clinic.records for clinic in plan_of(run_spec(csv, privacy=DP_SGD))[0].clinics]
    sampled = next(m for m in statement["mechanisms"] if m["sample-rate"])
    assert sampled["clinics"] == sum(n > 8 for n in records)
    assert sampled["sample-rate"] == [8 / max(records), 8 / min(n for n in records if n > 8)]
    assert sampled["times"] == [3 * math.ceil(n / 8) for n in (min(n for n in records if n > 8), max(records))]
    assert sampled["noise"] == pytest.approx([0.8, 0.8])
    [seen] = row(statement, "peer-clinic")["sees"]
    assert (seen["noised"], seen["times"]) == (True, [3, 3 * math.ceil(max(records) / 8)])


@pytest.mark.parametrize(
    ("method", "privacy"),
    [
        (("fedavg", None), DP_SGD),
        (("local", None), DP_SGD),
        (("splitfed-v1", "vanilla"), {**BOTH, "labels": "public"}),
        (("splitfed-v3", "u-shaped"), NO_PRIVACY),
        (("centralised", None), DP_SGD),
    ],
)
def test_agrees_with_the_table_of_runs_and_gives_reasons(csv: Path, method: tuple, privacy: dict) -> None:
    spec = run_spec(csv, *method, privacy)
    plan, _federation = plan_of(spec)
    statement = privacy_statement(plan, {}, finished=True)
    columns = plan.columns()
    names = {"model-user": "epsilon_model_user", "peer-clinic": "epsilon_peer", "server": "epsilon_server"}
    for found in statement["adversaries"]:
        assert found["epsilon"] == columns[names[found["adversary"]]]
        assert bool(found["reasons"]) == math.isinf(found["epsilon"])
        assert any(not seen["noised"] for seen in found["sees"]) == math.isinf(found["epsilon"])
        assert bool(found["sees"]) == (found["epsilon"] > 0)
    json.dumps(statement)


def test_what_is_outside_is_marked(csv: Path) -> None:
    plain = stated(run_spec(csv, "splitfed-v1", "vanilla", DP_SGD))
    assert markings(plain, "labels") == {"non-private"}
    assert markings(stated(run_spec(csv, "splitfed-v1", "vanilla", {**DP_SGD, "labels": "public"})), "labels") == {
        "public"
    }
    assert markings(stated(run_spec(csv, "splitfed-v1", "u-shaped", DP_SGD)), "labels") == {"dp"}
    assert markings(plain, "preprocessing") == set()
    spec = run_spec(csv, privacy=DP_SGD)
    scaled = spec.model_copy(
        update={"data": spec.data.model_copy(update={"scaling": "pooled", "validation_share": 0.2})}
    )
    assert markings(stated(scaled), "preprocessing") == {"non-private"}
    assert markings(stated(scaled), "best round") == {"non-private"}
    assert {found["marking"] for found in stated(scaled)["outside"]} == {"public", "dp", "non-private"}
    dealt = {**spec.data.model_dump(), "split": "dirichlet", "clinics": 3, "alpha": 5.0}
    made = stated(spec.model_copy(update={"data": type(spec.data).model_validate(dealt | {"stratified": True})}))
    notes = {found["marking"]: found["note"] for found in made["outside"] if found["what"] == "preprocessing"}
    assert notes == {
        "non-private": "held-out records drawn by class; counted as sent without noise",
        "simulated": "records dealt to clinics by label",
    }


HOSTILE = "a|b <script>alert(1)</script> [x](http://y) `c` *d* _e_ $f$ &lt;"


def test_hostile_names_stay_names(csv: Path, tmp_path: Path) -> None:
    text = csv.read_text(encoding="utf-8").replace("k3,", f"{HOSTILE},").replace("k0,", "# k0,").replace("x0", HOSTILE)
    csv = tmp_path / "hostile.csv"
    csv.write_text(text, encoding="utf-8")
    spec = run_spec(csv, "local", privacy=DP_SGD)
    data = spec.data.model_copy(update={"scaling": "pooled"})
    label = spec.strategy.model_copy(update={"label": HOSTILE + "\n# big"})
    spec = spec.model_copy(update={"data": data, "strategy": label})
    shown = statement_text(stated(spec))
    assert "HIPAA" not in shown
    page = MarkdownIt("commonmark").enable("table").render(shown)
    as_text = HOSTILE.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert as_text + " # big" in page
    assert f"mean and deviation of {as_text}" in page
    for tag in ("<script", "<a ", "<code", "<em", "big</h1>"):
        assert tag not in page
    for table in page.split("<table>")[1:]:
        rows = table.split("</table>")[0].split("<tr>")[1:]
        assert len({r.count("<td>") + r.count("<th>") for r in rows}) == 1


def test_escaping_is_lossless() -> None:
    page = MarkdownIt("commonmark").renderInline(escaped(HOSTILE))
    assert page == HOSTILE.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def test_bounds_are_rounded_up(csv: Path) -> None:
    statement = stated(run_spec(csv, privacy=DP_SGD))
    row(statement, "server").update({"epsilon": 2.99601, "replace-epsilon": 6.1201, "advantage": 0.12301})
    shown = statement_text(statement)
    said = "Epsilon at most 3 at delta 0.001, zero-out (replace-one: at most 6.13); membership advantage at most 0.124"
    assert said in shown


def test_files_of_a_finished_and_of_a_failed_run(csv: Path, tmp_path: Path) -> None:
    """The failed one diverges."""
    deep = {"hidden": [6, 6, 6, 5, 5]}
    for status, basis, rate, clip in (("ok", "executed", 0.1, 0.5), ("failed", "planned", 1e6, 1e6)):
        plan, _ = plan_of(run_spec(csv, privacy=DP_SGD | {"clip": clip}, model=deep, learning_rate=rate))
        folder = tmp_path / plan.spec.run_id
        assert execute(plan, tmp_path, {"dp-accounting": "0.0", "python": "3"})["status"] == status
        saved = json.loads((folder / "run.json").read_text(encoding="utf-8"))["privacy"]["statement"]
        expected = privacy_statement(plan, {"dp-accounting": "0.0"}, finished=status == "ok")
        expected["attacks"] = saved["attacks"]
        assert bool(saved["attacks"]) == (status == "ok")
        found = [row for row in saved["not-covered"] if row["what"].startswith("findings of the attack")]
        assert len(found) == len(saved["attacks"]), "what an attack publishes is listed where it was carried out"
        expected["not-covered"] += found
        assert saved == json.loads(json.dumps(expected))
        assert (saved["basis"], saved["versions"]) == (basis, {"dp-accounting": "0.0"})
        shown = (folder / STATEMENT_FILE).read_text(encoding="utf-8")
        assert shown == statement_text(expected)
        assert ("did not finish" in shown) == (status == "failed")


ROW_NOISE = {"mechanism": "smashed-noise", "noise-multiplier": 1.0, "clip": 1.0, "delta": 1e-3}


@pytest.mark.parametrize(
    ("strategy", "cut", "privacy", "told"),
    [
        ("splitfed-v1", "u-shaped", NO_PRIVACY, True),
        ("splitfed-v1", "u-shaped", DP_SGD, True),
        ("splitfed-v1", "u-shaped", ROW_NOISE, False),
        ("fedavg", None, NO_PRIVACY, False),
    ],
)
def test_labels_that_stay_are_told_by_gradients_that_leave_bare(csv, strategy, cut, privacy, told):
    model = {"freeze": ["head", "tail"]} if privacy is ROW_NOISE else {}
    plan, _ = plan_of(run_spec(csv, strategy, cut, privacy, model))
    [note] = [row["note"] for row in privacy_statement(plan, {}, finished=False)["outside"] if row["what"] == "labels"]
    assert note.startswith("stay at the clinic")
    assert ("gradients that cross tell of them" in note) == told
