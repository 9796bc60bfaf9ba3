"""Ordinal outcomes against scikit-learn and counts by hand: the sequential model, its scores and their influences."""

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from support import GRADES, plan_of, run_spec, train_spec, write_csv

from sim import run
from sim.api.preparing import prepare
from sim.foundation.problems import ScenarioError
from sim.inference.grades import expected_grades, grade_scores, ranked_probability
from sim.inference.scores import Predictions, scores
from sim.scenario import parse_scenario
from sim.scenario.outcomes import Outcome
from sim.tensor.losses import Grades
from sim.tensor.scoring import GradeScorer

OFFSETS = np.array([0, 13, 13, 31, 50])


@pytest.fixture(scope="module")
def predicted():
    rng = np.random.default_rng(2)
    grade = rng.integers(0, 4, 50)
    grade[31:] = 2  # the last clinic has one grade
    probabilities = rng.dirichlet(np.ones(4), 50)
    probabilities[20:24] = probabilities[20]  # ties
    return probabilities, grade


def in_order(score, grade):
    """Pairs in order, ties half, and all."""
    pairs = [(i, j) for i, j in combinations(range(len(grade)), 2) if grade[i] != grade[j]]
    won = sum((np.sign(score[i] - score[j]) * np.sign(grade[i] - grade[j]) + 1) / 2 for i, j in pairs)
    return won, len(pairs)


def test_scores_are_those_by_hand_and_of_scikit_learn(predicted):
    probabilities, grade = predicted
    by_clinic, pooled = grade_scores(probabilities, grade, OFFSETS)
    score, parts = expected_grades(probabilities), []
    median = [next(k for k in range(4) if row[: k + 1].sum() >= 0.5) for row in probabilities]
    for k, (first, last) in enumerate(pairwise(OFFSETS)):
        own = slice(first, last)
        won, pairs = in_order(score[own], grade[own])
        parts.append((won, pairs))
        assert by_clinic["pairs"][k] == pairs
        assert by_clinic["ordinal_auc"][k] == pytest.approx(won / pairs if pairs else np.nan, nan_ok=True)
        if pairs:
            kappa = cohen_kappa_score(median[own], grade[own], weights="quadratic", labels=range(4))
            assert by_clinic["quadratic_kappa"][k] == pytest.approx(kappa)
    won, pairs = np.sum(parts, axis=0)
    assert pooled["within_clinic_ordinal_auc"] == pytest.approx(won / pairs)
    assert pooled["ordinal_auc"] == pytest.approx(np.divide(*in_order(score, grade)))
    assert pooled["quadratic_kappa"] == pytest.approx(cohen_kappa_score(median, grade, weights="quadratic"))
    by_hand = [
        sum((probabilities[i, : k + 1].sum() - (grade[i] <= k)) ** 2 for k in range(3)) for i in range(len(grade))
    ]
    assert ranked_probability(probabilities, grade) == pytest.approx(by_hand)
    assert pooled["ranked_probability"] == pytest.approx(np.mean(by_hand))


def predictions(probabilities, grade):
    return Predictions(
        model=np.zeros(len(grade), dtype=np.int64), models=1, clinic=np.repeat(np.arange(4), np.diff(OFFSETS)),
        patient=np.arange(len(grade)), label=grade, probabilities=probabilities,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["within_clinic_{}auc", "{}auc"])
def test_two_grades_are_two_classes_in_score_and_nearly_in_influence(predicted, name):
    probabilities, grade = predicted
    two = np.stack([probabilities[:, :2].sum(1), probabilities[:, 2:].sum(1)], 1)
    of = predictions(two, (grade >= 2).astype(np.int64))
    (value, moved), (expected, known) = (scores(of, name.format(kind)) for kind in ("ordinal_", ""))
    assert value == pytest.approx(expected)
    assert np.corrcoef(moved, known)[0, 1] > 0.999
    assert np.std(moved) == pytest.approx(np.std(known), rel=0.05)
    assert scores(of, "ordinal_auc")[0] == pytest.approx(roc_auc_score(of.label, two[:, 1]))


def test_influence_is_the_score_s_derivative_in_a_record_s_weight(predicted):
    """Left out one by one: the score moves by what is left out; which grade a patient has is drawn too."""
    probabilities, grade = predicted
    of = predictions(probabilities, grade)
    value, influence = scores(of, "ordinal_auc")
    score, moves = expected_grades(probabilities), []
    for record in range(len(grade)):
        rest = np.delete(np.arange(len(grade)), record)
        moves.append(float(value[0]) - np.divide(*in_order(score[rest], grade[rest])))
    assert np.corrcoef(moves, influence)[0, 1] > 0.999
    assert np.std(influence) == pytest.approx(np.std(moves), rel=0.05)


def test_loss_gradient_and_probabilities_belong_together():
    outputs = torch.randn(1, 7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y, weights = torch.tensor([[0, 1, 2, 3, 3, 0, 2]]), torch.rand(1, 7, dtype=torch.float64)
    loss = Grades()
    total = loss.sum(outputs, y, weights)
    probabilities = GradeScorer(outcome=Outcome(kind="ordinal")).predicted(outputs.detach()[0])
    assert probabilities.sum(1) == pytest.approx(np.ones(7))
    own = -np.log(probabilities[np.arange(7), y[0].numpy()])
    assert float(total.detach()) == pytest.approx(float(own @ weights[0].numpy()))
    [gradient] = torch.autograd.grad(total, outputs)
    torch.testing.assert_close(loss.gradient(outputs.detach(), y, weights), gradient)
    constant = GradeScorer(outcome=Outcome(kind="ordinal")).predicted(loss.constant(y[0], 3)[None])[0]
    assert constant == pytest.approx(np.bincount(y[0]) / 7, abs=0.12)


def test_a_linear_model_is_scikit_learns_of_each_step(tmp_path):
    """The sequential model is a logistic regression of each grade among the records that are that high."""
    csv = write_csv(tmp_path / "graded.csv", (240,), classes=3)
    model = {"name": "logistic"}
    spec = run_spec(csv, "centralised", model=model, records=GRADES, rounds=600, batch_size=400, learning_rate=1.0)
    trained = train_spec(spec)
    _, federation = plan_of(spec)
    train, test = federation.train, federation.test
    left, columns = np.ones(len(test.y)), []
    for grade in range(2):
        there = train.y >= grade
        fitted = LogisticRegression(C=np.inf, max_iter=2000, tol=1e-10).fit(train.x[there], train.y[there] == grade)
        stops = fitted.predict_proba(test.x)[:, 1]
        columns.append(left * stops)
        left = left * (1 - stops)
    assert trained.evaluations[-1].predicted == pytest.approx(np.stack([*columns, left], 1), abs=0.01)


def heart(**further):
    return {
        "name": "severity",
        "seeds": [0],
        "data": {"source": "heart-disease", "outcome": "ordinal"},
        "model": {"name": "mlp", "hidden": [8, 4]},
        "train": {"rounds": 3, "batch-size": 16, "learning-rate": 0.3},
        "clinics": [{"profile": "hospital"}],
        "strategies": [{"name": "splitfed-v1", "cut": "u-shaped"}, {"name": "local"}],
        **further,
    }


def test_a_study_of_severities_is_ranked_said_and_verified(tmp_path, suture):
    study = run(heart(), tmp_path, progress=False)
    runs = study.runs.set_index("strategy")
    assert runs["within_clinic_ordinal_auc"].between(0.4, 1).all()
    assert runs.loc["prevalence", "within_clinic_ordinal_auc"] == 0.5
    assert "within_clinic_concordance" not in runs
    predictions = study.predictions
    assert {f"probability_{grade}" for grade in range(5)} <= {*predictions}
    assert sorted(predictions["label"].unique()) == [0, 1, 2, 3, 4]
    first = predictions[predictions["run_id"] == study.runs["run_id"].iloc[0]]
    won, pairs = np.sum(
        [
            in_order(own[[f"probability_{k}" for k in range(5)]].to_numpy() @ np.arange(5), own["label"].to_numpy())
            for _, own in first.groupby("clinic")
        ],
        axis=0,
    )
    assert study.runs["within_clinic_ordinal_auc"].iloc[0] == pytest.approx(won / pairs, abs=1e-6)
    page = study.report().read_text(encoding="utf-8")
    assert "Within-clinic ordinal AUC" in page
    assert "Kappa, squared weights" in page
    folder = tmp_path / "severity"
    code, out, _ = suture("verify", folder)
    assert (code, "all agree" in out) == (0, True)
    code, out, _ = suture("compare", folder)
    assert (code, "within-clinic ordinal AUC" in " ".join(out.split())) == (0, True)


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ({"outcome": "ordinal"}, "data.grades: is missing; list the values of the label"),
        (
            {"grades": ["a", "b"]},
            'data.grades: has no effect with classes; remove it, or set data.outcome to "ordinal"',
        ),
        ({"outcome": "ordinal", "grades": ["class0"]}, "data.grades"),
        (
            {"outcome": "ordinal", "grades": ["class0", "class1"]},
            'column "label" holds 1 value that data.grades does not',
        ),
        (GRADES | {"positive": ["class1"]}, "data.positive: has no effect on grades"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, records, told):
    csv = write_csv(tmp_path / "graded.csv", (20, 20), classes=3)
    with pytest.raises(ScenarioError) as caught:
        plan_of(run_spec(csv, records=records))
    [line] = caught.value.problems
    assert told in line


def test_attacks_on_classes_are_not_made_on_grades(tmp_path):
    with pytest.raises(ScenarioError, match=r"attacks.0: lira is about classes, and is not made on grades; remove it"):
        prepare(parse_scenario(heart(attacks=[{"name": "lira"}]), tmp_path))


def test_grades_that_nobody_has_stay_and_weights_of_classes_are_refused(tmp_path):
    csv = write_csv(tmp_path / "graded.csv", (20, 20), classes=2)
    _, federation = plan_of(run_spec(csv, records=GRADES))
    assert federation.classes == ("class0", "class1", "class2")
    with pytest.raises(ScenarioError, match="class-weights: has no effect on grades"):
        plan_of(run_spec(csv, records=GRADES, class_weights=[1.0, 2.0, 1.0]))
    assert run_spec(csv).run_id != run_spec(csv, records=GRADES).run_id
