"""Models that clinics make of the final one for themselves, against plain PyTorch and other methods."""

import numpy as np
import pandas as pd
import pytest
import torch
from split_twins import PERSONAL, SplitTwin, changed
from support import DP_SGD, bitwise, plan_of, run_spec
from torch.nn import functional

from sim import run as run_study
from sim.foundation.problems import ScenarioError
from sim.methods.trainer import expand
from sim.plan.statement import privacy_statement
from sim.report.table import caption
from sim.study.replan import Retiming
from sim.study.train import train_run
from sim.tensor.evaluation import Evaluator

NAMES = [method.strategy for method in PERSONAL]


def run(spec, **ways):
    plan, federation = plan_of(spec)
    return train_run(plan, federation, **ways), plan, federation


def personal(ragged, name, epochs=5, rate=0.0, **settings):
    return run_spec(ragged, name, options={"epochs": epochs, "learning-rate": rate}, **settings)


def judged(plan, federation, models):
    """Score models, a clinic each, as they are on held-out records."""
    return Evaluator(plan.job.network, federation.test).evaluate(models, last=True)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("settings", [{}, {"privacy": DP_SGD}], ids=["plain", "dp-sgd"])
def test_no_epochs_are_federated_averaging(ragged, one_key, name, settings):
    ours, *_ = run(personal(ragged, name, epochs=0, **settings))
    theirs, *_ = run(run_spec(ragged, "fedavg", **settings))
    assert bitwise(ours.parameters, theirs.parameters)
    assert ours.evaluations == theirs.evaluations
    assert np.array_equal(ours.evaluations[-1].predicted, theirs.evaluations[-1].predicted)


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_fine_tuning_of_the_initial_model_is_training_alone(ragged, epochs, optimizer):
    ours, *_ = run(personal(ragged, "fedavg-finetuned", epochs, rounds=0, optimizer=optimizer))
    theirs, *_ = run(run_spec(ragged, "local", rounds=1, local_epochs=epochs, optimizer=optimizer))
    found, wanted = (each.evaluations[-1].predicted for each in (ours, theirs))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "settings", [{}, {"privacy": DP_SGD}, {"schedule": "cosine"}], ids=["plain", "dp-sgd", "cosine"]
)
def test_the_clinics_models_are_those_of_plain_torch(ragged, name, settings):
    """By loops: plain steps at the stated rate, without noise, from the final model, on batches of a further round."""
    spec = personal(ragged, name, epochs=2, rate=0.05, **settings)
    ours, plan, federation = run(spec)
    plain = changed(run_spec(ragged, "fedavg", local_epochs=2), "strategy", name="fedavg")
    twin, last = SplitTwin(plain, federation), spec.train.rounds + 1
    common = {n: value[0] for n, value in ours.parameters.items()}
    models = []
    for k, (x, y) in enumerate(twin.records):
        module = twin.module(common)
        own = module if name == "fedavg-finetuned" else module[-1:]
        optimizer = torch.optim.SGD(own.parameters(), lr=0.05)
        for rows in twin.batches(last, k, len(y)):
            optimizer.zero_grad()
            logits = module(x[rows])[:, 0]
            functional.binary_cross_entropy_with_logits(logits, y[rows].float()).backward()
            optimizer.step()
        models.append(module.state_dict())
    stacked = {n: torch.stack([model[n] for model in models]) for n in common}
    wanted = judged(plan, federation, stacked)
    np.testing.assert_allclose(ours.evaluations[-1].predicted, wanted.predicted, atol=2e-6)
    assert not np.allclose(wanted.predicted, judged(plan, federation, ours.parameters).predicted, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_more_crosses_and_what_is_promised_is_the_same(ragged, name):
    private = {"mechanism": "dp-sgd", "epsilon": 3.0, "delta": 1e-3}
    ours, theirs = (
        plan_of(spec)[0]
        for spec in (personal(ragged, name, privacy=private), run_spec(ragged, "fedavg", privacy=private))
    )
    names = ("epsilon_model_user", "epsilon_peer", "epsilon_server", "bytes_up", "bytes_down", "server_flops")
    assert [ours.columns()[n] for n in names] == [theirs.columns()[n] for n in names]
    assert "has no guarantee" in str(privacy_statement(ours, {}, finished=True)["outside"])
    assert "models of the clinics' own" not in str(privacy_statement(theirs, {}, finished=True))


@pytest.mark.parametrize("name", NAMES)
def test_any_grouping_of_nodes_gives_the_same_models(ragged, name):
    spec = personal(ragged, name, participation=0.5)
    one, several = run(spec)[0], run(spec, node_groups=3)[0]
    np.testing.assert_allclose(one.evaluations[-1].predicted, several.evaluations[-1].predicted, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_rounds_before_the_last_are_those_of_federated_averaging(ragged, name):
    ours, theirs = run(personal(ragged, name))[0], run(run_spec(ragged, "fedavg"))[0]
    assert ours.evaluations[:-1] == theirs.evaluations[:-1]
    assert ours.evaluations[-1] != theirs.evaluations[-1]
    assert bitwise(ours.parameters, theirs.parameters)


@pytest.mark.parametrize("name", NAMES)
def test_a_hospital_that_has_not_joined_gets_the_common_model(ragged, name):
    apart = {"test": "held-out-clinics", "test_sites": ("k3",)}
    ours, plan, federation = run(changed(personal(ragged, name), "data", **apart))
    assert np.array_equal(
        ours.evaluations[-1].predicted, judged(plan, federation, expand(ours.parameters, 1)).predicted
    )


def test_where_clinics_contradict_each_other_own_models_win(tmp_path):
    """By construction: a feature means the opposite at two clinics, so that a common model is blind."""
    rng = np.random.default_rng(1)
    lines = ["clinic,label,x0,x1"]
    for clinic, sign in (("a", 1), ("b", -1)):
        x = rng.normal(size=(200, 2))
        lines += [f"{clinic},class{int(sign * v[0] > 0)},{v[0]:.5f},{v[1]:.5f}" for v in x]
    path = tmp_path / "opposite.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    score = {}
    for name in ("fedavg", *NAMES):
        options = {"epochs": 20} if name in NAMES else {}
        trained, *_ = run(run_spec(path, name, model={"hidden": [32]}, rounds=10, options=options))
        score[name] = trained.evaluations[-1].pooled["within_clinic_auc"]
    assert score["fedavg"] < 0.7
    assert score["fedavg-finetuned"] > 0.95
    assert score["fedavg-own-head"] > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_the_clock_counts_the_epochs_by_hand(ragged, name):
    """Multiplications and additions of a chain 4 - 6 - 5 - 1; the first layer that trains passes no gradient on."""
    macs = [4 * 6, 6 * 5, 5 * 1]
    if name == "fedavg-finetuned":
        of_a_record = 3 * 2 * (2 * sum(macs) + sum(macs[1:]))
    else:
        of_a_record = 2 * sum(macs[:2]) + 3 * 2 * 2 * macs[2]
    ours, theirs = plan_of(personal(ragged, name, epochs=3))[0], plan_of(run_spec(ragged, "fedavg"))[0]
    sizes = np.array(ours.job.sizes)
    flops = [a.flops - b.flops for a, b in zip(ours.clinics, theirs.clinics, strict=True)]
    assert flops == (sizes * of_a_record).tolist()
    more = ours.columns()["sim_seconds"] - theirs.columns()["sim_seconds"]
    assert more == pytest.approx(sizes.max() * of_a_record / 1e12, rel=1e-6)
    assert ours.columns()["clinic_flops"] - theirs.columns()["clinic_flops"] == sum(flops)
    assert ours.round_seconds[:-1] == theirs.round_seconds[:-1]


@pytest.mark.parametrize("name", NAMES)
def test_a_finished_run_is_timed_again_with_its_epochs(tmp_path, name):
    scenario = {
        "name": "own",
        "seeds": [0],
        "data": {"source": "synthetic", "clinics": 3, "records": 90, "features": 4},
        "model": {"name": "mlp", "hidden": [6]},
        "train": {"rounds": 2, "batch-size": 16, "learning-rate": 0.1},
        "evaluation": {"reference": False},
        "strategies": [{"name": name}],
    }
    study = run_study(scenario, tmp_path, progress=False)
    again = Retiming(study.folder / study.runs["run_id"][0])
    assert again.seconds([]) == pytest.approx(again.recorded_seconds, rel=1e-12)
    slower = again.seconds(["clinics.compute=small-board"]) - again.seconds(["clinics.compute=gpu-server"])
    assert slower > 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"epochs": -1}, "strategies.options.epochs: -1 is no number of epochs"),
        ({"epochs": 2.5}, "strategies.options.epochs: 2.5 is no number of epochs"),
        ({"learning-rate": -0.1}, "strategies.options.learning-rate: -0.1 is no rate"),
    ],
)
def test_a_mistake_is_one_line(ragged, options, told):
    with pytest.raises(ScenarioError) as caught:
        plan_of(run_spec(ragged, "fedavg-finetuned", options=options))
    [line] = caught.value.problems
    assert told in line


def test_no_epsilon_stands_beside_scores_of_clinics_own_models_without_a_word(ragged):
    """They are functions of training records without noise, and what is made of them is too."""
    plan, _ = plan_of(personal(ragged, "fedavg-finetuned", privacy=DP_SGD))
    statement = privacy_statement(plan, {}, finished=True)
    of = {row["what"]: row["of"] for row in statement["not-covered"]}
    for what, where in of.items():
        if "held-out metrics" in what or what.startswith("prediction"):
            assert where.startswith("training records, by models trained on them without noise"), what
    assert "is not covered" in statement["adversaries"][0]["who"]
    common = privacy_statement(plan_of(run_spec(ragged, "fedavg", privacy=DP_SGD))[0], {}, finished=True)
    assert not any(row["of"].startswith("training records, by") for row in common["not-covered"])
    rows = pd.DataFrame([{**plan.columns(), "status": "ok", "within_clinic_auc": 0.7, "auc": 0.7}])
    assert "Scores of FedAvg, fine-tuned are of the clinics' own models, which no ε is about." in caption(rows)
    assert "own models" not in caption(rows.assign(mechanism="none"))
