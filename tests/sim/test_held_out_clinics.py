"""Clinics that are held out as a whole: what generalises to a hospital that has not joined."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from support import assert_same_results, call_suture, train_spec, write_csv

from sim import run
from sim.data.federation import load_federation
from sim.data.folds import runs_of
from sim.foundation.problems import ScenarioError
from sim.plan.plan import make_plan
from sim.scenario import parse_scenario
from sim.scenario.clinics import assign_resources
from sim.scenario.data import Csv, HeartDisease
from sim.study.groups import grouped
from sim.study.planning import plan_runs

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
if not SHARED.is_dir():
    SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
SIZES = {"cleveland": 303, "hungarian": 261, "switzerland": 46, "va": 130}
MLP = {"name": "mlp", "hidden": [4], "cut": 1}
WHOLE = {"test": "held-out-clinics"}


def scenario_of(data, strategies=("fedavg",), folder=None, seeds=(3,), **tables):
    return parse_scenario(
        {
            "name": "strangers",
            "seeds": list(seeds),
            "data": data,
            "model": {"name": "logistic", "cut": 1},
            "train": {"rounds": 3, "batch-size": 16, "learning-rate": 0.1} | tables.pop("train", {}),
            "clinics": [{"profile": "hospital"}],
            "evaluation": {"reference": False},
            "strategies": [each if isinstance(each, dict) else {"name": each} for each in strategies],
            **tables,
        },
        folder or Path(),
    )


def regression(x, y):
    return make_pipeline(StandardScaler(), LogisticRegression(C=np.inf, max_iter=2000)).fit(x, y)


def test_leaving_each_centre_out_is_what_logistic_regression_gets(tmp_path):
    text = Path("sim/data/heart_disease_4centres.json").read_text(encoding="utf-8")
    table = pd.DataFrame([line.split(",") for line in json.loads(text)[1:]], columns=json.loads(text)[0].split(","))
    numeric = ["age", "sex", "trestbps", "chol", "fbs", "thalach", "exang", "oldpeak"]
    table = table[(table[[*numeric, "cp", "restecg"]] != "").all(axis=1)].reset_index(drop=True)
    x = table[numeric].astype(float)
    x.loc[x["chol"] == 0, "chol"] = 213
    for column, levels in (("cp", (2, 3, 4)), ("restecg", (1, 2))):
        for level in levels:
            x[f"{column}{level}"] = table[column].astype(float) == level
    y, centre = (table["num"].astype(int) > 0).to_numpy(), table["centre"].to_numpy()
    data = {"source": "heart-disease", **WHOLE}
    train = {"rounds": 150, "batch-size": 128, "learning-rate": 0.5}
    found = run(scenario_of(data, ["centralised"], train=train), tmp_path).runs.set_index("held_out")
    assert sorted(found.index) == sorted(set(centre))
    for name in found.index:
        out = centre == name
        expected = roc_auc_score(y[out], regression(x[~out], y[~out]).predict_proba(x[out])[:, 1])
        assert found["auc"][name] == pytest.approx(expected, abs=0.01), name


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not here")
def test_external_validation_is_what_logistic_regression_gets(tmp_path):
    columns = ["age", "meno", "grade", "nodes", "pgr", "er", "hormon"]
    table = pd.read_csv(SHARED / "breast_cancer_rfs.csv")
    data = {
        "source": "csv",
        "path": str(SHARED / "breast_cancer_rfs.csv"),
        "label": "event",
        "clinic": "site",
        "features": columns,
        "scaling": "pooled",
        "test-sites": ["gbsg"],
        **WHOLE,
    }
    train = {"rounds": 60, "batch-size": 256, "learning-rate": 0.3}
    found = run(scenario_of(data, ["centralised"], train=train), tmp_path).runs
    out = (table["site"] == "gbsg").to_numpy()
    fitted = regression(table.loc[~out, columns], table.loc[~out, "event"])
    expected = roc_auc_score(table.loc[out, "event"], fitted.predict_proba(table.loc[out, columns])[:, 1])
    assert found["held_out"].tolist() == ["gbsg"]
    assert found["auc"].item() == pytest.approx(expected, abs=0.01)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not here")
def test_folds_of_institutions_are_what_logistic_regression_gets(tmp_path):
    table, columns = pd.read_csv(SHARED / "rhdnase_trial.csv", dtype={"inst": str}), ["treated", "fev"]
    data = {
        "source": "csv",
        "path": str(SHARED / "rhdnase_trial.csv"),
        "label": "event",
        "clinic": "inst",
        "features": columns,
        "scaling": "pooled",
        "folds": 5,
        **WHOLE,
    }
    train = {"rounds": 60, "batch-size": 128, "learning-rate": 0.3}
    found = run(scenario_of(data, ["centralised"], train=train), tmp_path).runs
    assert sorted(", ".join(found["held_out"]).split(", ")) == sorted(set(table["inst"]))
    for row in found.itertuples():
        out = table["inst"].isin(row.held_out.split(", "))
        fitted = regression(table.loc[~out, columns], table.loc[~out, "event"])
        expected = roc_auc_score(table.loc[out, "event"], fitted.predict_proba(table.loc[out, columns])[:, 1])
        assert row.auc == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("own", [{}, {"folds": 2}, {"folds": 3}])
def test_folds_hold_out_every_clinic_once(tmp_path, own):
    data = {"source": "synthetic", "clinics": 7, "records": 200, **WHOLE, **own}
    specs = runs_of(scenario_of(data, seeds=(0, 1)))
    by_seed = {seed: [spec.data.test_sites for spec in specs if spec.seed == seed] for seed in (0, 1)}
    everyone = sorted(f"clinic-{number + 1}" for number in range(7))
    for folds in by_seed.values():
        assert sorted(name for fold in folds for name in fold) == everyone
        assert len(folds) == own.get("folds", 7)
        assert max(map(len, folds)) - min(map(len, folds)) <= 1
    assert (by_seed[0] == by_seed[1]) == (not own)
    assert len({spec.run_id for spec in specs}) == len(specs)


def test_the_others_keep_all_their_records_and_the_stranger_gives_none():
    data = HeartDisease(test="held-out-clinics", test_sites=("hungarian",), validation_share=0.2)
    whole = load_federation(HeartDisease(test="held-out-clinics"), 1)
    found = load_federation(data, 1)
    assert found.names == found.facts.names == ("cleveland", "switzerland", "va")
    assert found.test_names == found.facts.held_out == ("hungarian",)
    sizes = np.diff(found.train.offsets) + np.diff(found.validation.offsets)
    assert sizes.tolist() == [303, 46, 130]
    assert len(found.test.y) == 261
    own = whole.train.offsets[1:3]
    np.testing.assert_array_equal(found.test.x, whole.train.x[slice(*own)])
    assert found.facts.records == 740


def test_a_clinic_has_the_same_line_whoever_takes_part():
    clinics = [{"profile": {"hospital": 0.5, "rural-dsl": 0.5}, "spread": 0.3}]
    data = {"source": "heart-disease", "test-sites": ["cleveland"], **WHOLE}
    [spec] = runs_of(scenario_of(data, clinics=clinics))
    everyone = ("cleveland", "hungarian", "switzerland", "va")
    expected = assign_resources(spec.clinics, everyone, spec.seed)[1:]
    plan = make_plan(spec, load_federation(spec.data, spec.seed).facts)
    assert [clinic.name for clinic in plan.clinics] == list(everyone[1:])
    assert [clinic.memory_bytes for clinic in plan.clinics] == [each.memory_bytes for each in expected]
    named = [{"profile": "hospital", "sites": ["cleveland"]}, {"profile": "rural-dsl"}]
    [spec] = runs_of(scenario_of(data, clinics=named))
    make_plan(spec, load_federation(spec.data, spec.seed).facts)


@pytest.mark.parametrize("scaling", ["pooled", "per-clinic", "public"])
def test_no_value_of_a_held_out_clinic_moves_the_model(tmp_path, scaling):
    path = write_csv(tmp_path / "clinics.csv")
    frame = pd.read_csv(path)
    data = {
        "source": "csv",
        "path": str(path),
        "label": "label",
        "clinic": "clinic",
        "scaling": scaling,
        "ranges": {f"x{k}": [-3, 3] for k in range(4)} if scaling == "public" else {},
        "test-sites": ["k3"],
        **WHOLE,
    }
    models = []
    for factor in (1, 50):
        there = frame["clinic"] == "k3"
        changed = frame.copy()
        changed.loc[there, ["x0", "x1", "x2", "x3"]] *= factor
        changed.to_csv(path, index=False)
        [spec] = runs_of(scenario_of(data))
        models.append(train_spec(spec).parameters)
    for name, value in models[0].items():
        np.testing.assert_array_equal(value.numpy(), models[1][name].numpy())


@pytest.mark.parametrize(("strategy", "cut"), [("local", None), ("splitfed-v3", "u-shaped")])
def test_a_stranger_is_predicted_by_the_mean_of_the_clinics_models(strategy, cut):
    data = {"source": "heart-disease", "test-sites": ["va"], **WHOLE}
    strategies = [{"name": strategy} | ({"cut": cut} if cut else {})]
    model = {"name": "mlp", "hidden": [4, 3], "cut": [1, -1] if cut else 1}
    [spec] = runs_of(scenario_of(data, strategies, model=model))
    trained, test = train_spec(spec), load_federation(spec.data, spec.seed).test
    values = {name: value.double().numpy() for name, value in trained.parameters.items()}
    weights, biases = ([values[name] for name in values if name.endswith(kind)] for kind in ("weight", "bias"))
    assert len(weights[0]) == 3
    probabilities = []
    for k in range(3):
        h = test.x.astype(float)
        for layer, (w, b) in enumerate(zip(weights, biases, strict=True)):
            h = h @ w[k].T + b[k]
            h = np.maximum(h, 0) if layer < 2 else h
        probabilities.append(1 / (1 + np.exp(-h[:, 0])))
    expected = roc_auc_score(test.y, np.mean(probabilities, axis=0))
    assert trained.evaluations[-1].pooled["auc"] == pytest.approx(expected, abs=1e-9)


def test_no_record_of_a_held_out_patient_trains(tmp_path):
    path = tmp_path / "stays.csv"
    rows = [
        f"{clinic},p{patient},{patient % 2},{patient}"
        for clinic, patients in (("a", range(20)), ("b", range(15, 40)), ("c", range(38, 60)))
        for patient in patients
    ]
    path.write_text("\n".join(["site,person,ill,dose", *rows]), encoding="utf-8")
    data = Csv(
        path=path,
        label="ill",
        clinic="site",
        patient="person",
        scaling="none",
        test="held-out-clinics",
        test_sites=("b",),
    )
    found = load_federation(data, 0)
    assert sorted(found.train.x[:, 0]) == [*range(15), *range(40, 60)]
    assert sorted(found.test.x[:, 0]) == [*range(15, 40)]


def test_the_tables_have_strangers_with_scores_and_the_others_with_costs(tmp_path):
    strategies = ["fedavg", {"name": "split", "cut": "vanilla"}, "local"]
    table = run(scenario_of({"source": "heart-disease", "folds": 2, **WHOLE}, strategies, model=MLP), tmp_path).runs
    assert set(table["status"]) == {"ok"}
    assert len(table) == 6
    for row in table.itertuples():
        held = row.held_out.split(", ")
        folder = tmp_path / "strangers" / row.run_id
        assert call_suture("verify", folder) == 0
        assert call_suture("rerun", folder) == 0
        clinics = pd.read_parquet(folder / "clinics.parquet").set_index("name")
        assert sorted(clinics.index) == ["cleveland", "hungarian", "switzerland", "va"]
        told = pd.read_parquet(folder / "predictions.parquet")
        assert set(told["clinic"]) == set(held)
        for name, own in told.groupby("clinic"):
            assert clinics["test_records"][name] == len(own) == SIZES[name]
            if len(set(own["label"])) > 1:
                expected = roc_auc_score(own["label"], own["probability_1"])
                assert clinics["auc"][name] == pytest.approx(expected, abs=1e-6)
        parts = pd.read_parquet(folder / "split.parquet").groupby("clinic")["part"].unique()
        assert {name: part.tolist() for name, part in parts.items()} == {
            name: ["test" if name in held else "train"] for name in SIZES
        }
        for name, clinic in clinics.iterrows():
            assert (clinic["test_records"] > 0, clinic["records"] > 0) == (name in held, name not in held)
            assert np.isnan(clinic["auc"]) == (name not in held)


def test_one_strategy_alone_may_meet_strangers():
    strategies = ["fedavg", {"name": "fedavg", "label": "unseen", "set": {"data": WHOLE}}]
    specs = runs_of(scenario_of({"source": "heart-disease"}, strategies))
    assert [(spec.strategy.label, spec.data.test_sites) for spec in specs] == [
        ("", None),
        *(("unseen", (name,)) for name in ("cleveland", "hungarian", "switzerland", "va")),
    ]


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({**WHOLE, "folds": 5}, "5 folds of 4 clinics"),
        ({**WHOLE, "folds": 1}, "data.folds"),
        ({"folds": 2}, "has no effect on held-out records"),
        ({**WHOLE, "folds": 2, "test-sites": ["va"]}, "beside data.folds"),
        ({**WHOLE, "test-sites": ["vaa"]}, 'unknown site "vaa"'),
        ({**WHOLE, "test-sites": ["va", "hungarian"], "sites": ["va", "hungarian"]}, "none is left to train"),
        ({**WHOLE, "sites": ["va"]}, "there is one clinic"),
        ({**WHOLE, "held-out": "flamby"}, "names records"),
        ({"test": "clinics"}, "data.test"),
    ],
)
def test_what_cannot_be_held_out_is_one_line(own, words):
    with pytest.raises(ScenarioError) as caught:
        [load_federation(spec.data, 0) for spec in runs_of(scenario_of({"source": "heart-disease", **own}))]
    [line] = caught.value.problems
    assert words in line
    assert "\n" not in line


def test_a_strategy_sets_nothing_of_the_records_themselves():
    with pytest.raises(ScenarioError, match=r"data\.split is the same for all"):
        scenario_of({"source": "heart-disease"}, [{"name": "fedavg", "set": {"data": {"split": "iid"}}}])


def test_the_command_tells_of_it(suture, tmp_path):
    (tmp_path / "s.toml").write_text(
        'name="s"\nseeds=[0]\n[data]\nsource="heart-disease"\ntest="held-out-clinics"\n[model]\nname="logistic"\n'
        '[train]\nrounds=1\nbatch-size=64\nlearning-rate=0.1\n[[clinics]]\nprofile="hospital"\n'
        '[[strategies]]\nname="local"\n',
        encoding="utf-8",
    )
    code, out, _ = suture("check", "s.toml")
    assert code == 0
    assert "each of the 4 clinics is held out in turn" in " ".join(out.split())
    one = 'strategies=[{name="local"}, {name="fedavg", set.data={test="held-out-clinics", test-sites=["va"]}}]'
    code, out, _ = suture("check", "s.toml", "--set", one, "--set", 'data.test="held-out-records"')
    assert code == 0
    assert "Test: FedAvg: va is held out, with all records" in " ".join(out.split())
    assert call_suture("plan", "s.toml", "--set", "data.folds=9") == 2


def test_folds_share_a_program_and_each_is_the_same_alone(tmp_path, monkeypatch):
    scenario = scenario_of({"source": "heart-disease", **WHOLE}, ["fedavg", "local"], seeds=(0, 1), model=MLP)
    groups = grouped(list(plan_runs(runs_of(scenario))), 1)
    assert any(len({plan.spec.data.test_sites for plan in group}) == 4 for group in groups)
    run(scenario, tmp_path / "together")
    monkeypatch.setattr("sim.study.runner.grouped", lambda plans, jobs: [[plan] for plan in plans])
    run(scenario, tmp_path / "alone")
    assert_same_results(tmp_path / "together" / "strangers", tmp_path / "alone" / "strangers")


def test_each_fold_tunes_on_the_records_of_the_clinics_that_train(tmp_path):
    tune = {"train.learning-rate": [0.01, 0.3]}
    data = {"source": "heart-disease", "test-sites": ["va"], **WHOLE}
    table = run(scenario_of(data, ["fedavg"], tune=tune, train={"rounds": 4}), tmp_path).runs
    trials = pd.read_parquet(tmp_path / "strangers" / "trials.parquet")
    assert set(trials["held_out"]) == set(table["held_out"]) == {"va"}
    for rate, score in zip(trials["tuned.train.learning-rate"], trials["score"], strict=True):
        train = {"rounds": 4, "learning-rate": rate}
        [spec] = runs_of(scenario_of({**data, "validation-share": 0.25}, ["fedavg"], train=train))
        assert score == pytest.approx(train_spec(spec).validations[-1].pooled["within_clinic_auc"], abs=1e-6)
