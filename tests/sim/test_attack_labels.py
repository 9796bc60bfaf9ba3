"""Attacks on labels against closed forms, scikit-learn, and runs that must or must not give labels away."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import softmax
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from support import NO_PRIVACY, plan_of, run_spec, write_csv

from sim.attacks.attack import Target, attack_of
from sim.attacks.label_completion import fine_tuned, log_odds
from sim.attacks.label_norm import TailGradients, by_clusters, by_norm, by_spectrum, closeness
from sim.attacks.label_refinement import answer_log_likelihoods, fitted
from sim.attacks.labels import Labelled
from sim.results.attacks import attacks_table
from sim.scenario.study import AttackTable
from sim.study.attacking import attack_study
from sim.study.engines import InProcess
from sim.study.runner import Progress, execute
from sim.study.train import train_run

DEEP = {"hidden": [8, 8]}
SILENT = Progress(lambda to_do, done, seconds: None, lambda row, seconds: None)


def noised(multiplier):
    mechanism = {"mechanism": "smashed-noise", "noise-multiplier": multiplier, "clip": 2.0}
    return {**mechanism, "delta": 1e-3, "labels": "public"}


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("labels") / "clinics.csv", sizes=(60, 80, 50))


@pytest.fixture(scope="module")
def three_classes(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("labels") / "clinics.csv", sizes=(60, 80, 50), classes=3)


@pytest.fixture(scope="module")
def separable(tmp_path_factory):
    return table(tmp_path_factory.mktemp("labels") / "clinics.csv", lambda y: 1.5 * (2 * y - 1))


@pytest.fixture(scope="module")
def random_labels(tmp_path_factory):
    return table(tmp_path_factory.mktemp("labels") / "clinics.csv", lambda y: 0 * y)


def table(path, middle):
    """Write two classes whose four features are normal around ``middle`` of the label."""
    rng, lines = np.random.default_rng(0), []
    for k in range(3):
        y = rng.integers(2, size=80)
        x = rng.normal(size=(80, 4)) + middle(y)[:, None]
        lines += [",".join([f"k{k}", f"class{c}", *(f"{v:.6f}" for v in row)]) for c, row in zip(y, x, strict=True)]
    path.write_text("\n".join(["clinic,label,x0,x1,x2,x3", *lines]) + "\n", encoding="utf-8")
    return path


def carried_out(name, spec, **options):
    """Train a run and attack it when it has ended; return the findings by measure."""
    plan, federation = plan_of(spec)
    model, attack = train_run(plan, federation).parameters, attack_of(name)
    given = {**attack.options, **options}
    target = Target(plan=plan, federation=federation, model=model, options=given, train=None)
    return {f.measure: f for f in attack.carry_out(target)}


def label_norm(spec, known=1, relabelled=None):
    """Train a run before the eyes of the attack; return its findings on all clinics by measure, and by clinic."""
    plan, federation = plan_of(spec)
    shown = federation if relabelled is None else relabelled(federation)
    observer = TailGradients(plan, shown, {"known": known})
    trained = train_run(plan, federation, overheard=observer.message)
    found = list(observer.findings(trained.parameters))
    return {f.measure: f for f in found if not f.clinic}, {f.clinic: f for f in found if f.clinic}


# The measure

RNG = np.random.default_rng(0)


def test_the_auc_is_of_pairs_within_clinics_one_class_against_the_rest():
    y, clinic = RNG.integers(3, size=90), RNG.integers(2, size=90)
    scores = np.round(RNG.normal(size=(90, 3)) + np.eye(3)[y], 1)
    own = [Labelled(y[clinic == k], np.zeros((clinic == k).sum(), dtype=int), 3) for k in (0, 1)]
    for k in (0, 1):
        x, of = scores[clinic == k], y[clinic == k]
        expected = np.mean([roc_auc_score(of == c, x[:, c]) for c in range(3)])
        assert own[k].auc(x) == pytest.approx(expected)
    pairs = np.array([[(y[clinic == k] == c).sum() * (y[clinic == k] != c).sum() for k in (0, 1)] for c in range(3)])
    each = [[roc_auc_score(y[clinic == k] == c, scores[clinic == k, c]) for k in (0, 1)] for c in range(3)]
    together = np.mean((np.array(each) * pairs).sum(1) / pairs.sum(1))
    assert Labelled(y, clinic, 3).auc(scores) == pytest.approx(together)


def test_a_score_that_knows_only_the_clinic_is_worth_nothing():
    clinic = np.repeat([0, 1], 50)
    y = np.concatenate([np.arange(50) < 5, np.arange(50) < 45]).astype(int)
    assert Labelled(y, clinic, 2).auc(np.stack([-clinic, clinic], 1).astype(float)) == 0.5


@pytest.mark.parametrize("auc", [0.5, 0.8, 1.0])
def test_the_interval_is_newcombes(auc):
    y = np.arange(40) < 15
    low, high = Labelled(y.astype(int), np.zeros(40, dtype=int), 2).interval(auc)

    def beyond(t):  # Newcombe 2006, method 5, with 15 and 25 records
        spread = t * (1 - t) * (1 + (20 - 1) * ((1 - t) / (2 - t) + t / (1 + t))) / (15 * 25)
        return abs(t - auc) - 1.959964 * np.sqrt(spread)

    assert low == pytest.approx(brentq(beyond, 0, auc - 1e-9), abs=6e-4)
    assert high == (1.0 if auc == 1 else pytest.approx(brentq(beyond, auc + 1e-9, 1 - 1e-12), abs=6e-4))


def test_the_interval_covers_what_it_should():
    y, clinic = np.arange(60) % 3 == 0, np.arange(60) // 30
    labelled = Labelled(y.astype(int), clinic, 2)
    hit = 0
    for _ in range(300):
        score = RNG.normal(size=60) + y  # AUC of the population: Phi(1 / sqrt(2)) = .760
        low, high = labelled.interval(labelled.auc(np.stack([-score, score], 1)))
        hit += low <= 0.760 <= high
    assert hit / 300 > 0.92


def test_naming_clusters_as_fits_best_has_a_chance_above_one_half():
    labelled = Labelled(np.arange(30) % 2, np.zeros(30, dtype=int), 2)
    found = labelled.finding_up_to_names("label_auc", RNG.normal(size=(30, 1)) @ [[-1, 1]], np.random.default_rng(1))
    assert 0.52 < found.chance < 0.65
    assert found.value >= 0.5
    swapped = np.stack([labelled.y, 1 - labelled.y], 1).astype(float)
    assert labelled.finding_up_to_names("label_auc", swapped, np.random.default_rng(1)).value == 1.0


# The scores


def test_gradients_of_one_logit_are_told_by_direction_by_the_closed_form():
    """The gradient in the inputs of a linear layer is (p - y) w."""
    y, w = RNG.integers(2, size=50), RNG.normal(size=6)
    p = RNG.uniform(0.02, 0.98, size=50)
    gradients = (p - y)[:, None] * w
    known = np.array([np.flatnonzero(y == 0)[0], np.flatnonzero(y == 1)[0]])
    towards_one = closeness(gradients, gradients[known], y[known], 2)[:, 1]
    assert towards_one == pytest.approx(np.where(y == 1, 2.0, -2.0))
    along = by_spectrum(gradients)[:, 1]
    assert np.corrcoef(along, p - y)[0, 1] ** 2 == pytest.approx(1.0)
    expected = np.abs(p - y) * np.linalg.norm(w)
    order = 1 if expected[known[1]] >= expected[known[0]] else -1
    assert by_norm(gradients, gradients[known], y[known])[:, 1] == pytest.approx(order * expected)


def test_the_spectrum_is_that_of_the_singular_value_decomposition():
    gradients = RNG.normal(size=(40, 7)) @ np.diag([5, 2, 1, 1, 1, 1, 1]) + 3
    centred = gradients - gradients.mean(0)
    along = np.linalg.svd(centred)[0][:, 0] * np.linalg.svd(centred)[1][0]
    found = by_spectrum(gradients)[:, 1]
    assert np.abs(found) == pytest.approx(np.abs(along), abs=1e-6)


def test_clusters_are_those_of_scikit_learn():
    y = np.arange(90) % 3
    points = np.eye(3)[y] + 0.3 * RNG.normal(size=(90, 3))
    found = -by_clusters(points, 3, np.random.default_rng(0)).max(1).sum()
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    assert found == pytest.approx(KMeans(3, n_init=10, random_state=0).fit(unit).inertia_, rel=0.01)


# The attack


@pytest.mark.parametrize("strategy", ["split", "splitfed-v1", "splitfed-v2", "splitfed-v3"])
def test_without_privacy_the_tails_gradients_give_the_labels_away(csv, strategy):
    found, clinics = label_norm(run_spec(csv, strategy, "u-shaped", model=DEEP, rounds=4))
    for measure in ("label_auc", "spectral_label_auc", "cluster_label_auc"):
        assert found[measure].value > 0.98
        assert found[measure].low > 0.94
    assert {k: f.value for k, f in clinics.items()} == pytest.approx(dict.fromkeys(("k0", "k1", "k2"), 1.0), abs=0.02)


def test_several_classes_are_told_too(three_classes):
    found, _ = label_norm(
        run_spec(three_classes, "splitfed-v1", "u-shaped", model={"hidden": [8, 8, 8], "cut": [1, -2]})
    )
    assert found["label_auc"].value > 0.95
    assert found["cluster_label_auc"].value > 0.95
    assert "norm_label_auc" not in found


@pytest.mark.parametrize("noise", [0.0, 50.0])
def test_noise_on_the_gradients_hides_the_labels(csv, noise):
    frozen = DEEP | {"freeze": ["head", "tail"]}
    privacy = noised(noise) if noise else NO_PRIVACY
    found, _ = label_norm(run_spec(csv, "splitfed-v1", "u-shaped", privacy, model=frozen))
    if noise:
        assert all(f.low <= f.chance <= f.high for f in found.values())
    else:
        assert found["label_auc"].low > 0.94


def test_permuted_labels_are_not_told(csv):
    def permuted(federation):
        y = np.random.default_rng(0).permutation(federation.train.y)
        return replace(federation, train=replace(federation.train, y=y))

    found, _ = label_norm(run_spec(csv, "splitfed-v1", "u-shaped", model=DEEP), relabelled=permuted)
    assert all(f.low <= f.chance <= f.high for f in found.values())


def test_nothing_is_found_where_nothing_has_crossed(csv):
    assert label_norm(run_spec(csv, "splitfed-v1", "u-shaped", model=DEEP, rounds=0)) == ({}, {})
    assert not any(
        attack_of("label-norm").applies(plan_of(run_spec(csv, *how))[0].job)
        for how in (("fedavg",), ("splitfed-v1", "vanilla"))
    )


def test_under_secret_batches_each_record_is_judged_by_one_gradient(csv):
    dp_sgd = {"mechanism": "dp-sgd", "noise-multiplier": 0.8, "clip": 0.5, "delta": 1e-3}
    spec = run_spec(csv, "splitfed-v1", "u-shaped", dp_sgd, model=DEEP, rounds=3)
    plan, federation = plan_of(spec)
    observer = TailGradients(plan, federation, {"known": 1})
    train_run(plan, federation, overheard=observer.message)
    assert set(observer._times) == {0.0, 1.0}


def test_it_is_made_by_name_and_comes_to_the_same_again(csv, tmp_path):
    plan, _ = plan_of(run_spec(csv, "splitfed-v1", "u-shaped", model=DEEP, rounds=1))
    found = []
    for folder in (tmp_path / "one", tmp_path / "other"):
        execute(plan, folder / plan.spec.study, {})
        attack_study([plan], [AttackTable(name="label-norm", options={"known": 2})], folder, InProcess(), SILENT)
        found.append(attacks_table(folder / plan.spec.study))
    assert found[0].equals(found[1])
    assert set(found[0]["adversary"]) == {"server"}


# Completion


def test_a_tail_is_fine_tuned_as_logistic_regression_is_fitted(csv):
    plan, _ = plan_of(run_spec(csv, "splitfed-v1", "u-shaped", model=DEEP))
    tail = plan.job.part("tail")
    y, w = np.arange(300) % 2, RNG.normal(size=8)
    z = RNG.normal(size=(300, 8)) + np.outer(y, w)
    start = tail.select(plan.job.network.initial_parameters(0))
    few = torch.from_numpy(z).float()
    completed = fine_tuned(tail, start, few[:100], y[:100], 1000)
    reference = LogisticRegression(C=1.0).fit(z[:100], y[:100]).decision_function(z[100:])
    found = log_odds(tail, completed, few[100:])
    assert np.array_equal(found[:, 0], -found[:, 1])
    assert np.corrcoef(found[:, 1], reference)[0, 1] > 0.99
    untouched = fine_tuned(tail, start, few[:100], y[:100], 0)
    assert all(torch.equal(untouched[name], start[name]) for name in start)


@pytest.mark.parametrize("strategy", ["split", "splitfed-v1", "splitfed-v3"])
def test_a_few_labels_complete_the_model_of_a_separable_table(separable, strategy):
    found = carried_out("label-completion", run_spec(separable, strategy, "u-shaped", model=DEEP, rounds=5))
    assert found["label_auc"].low > 0.95
    assert found["held_out_label_auc"].value > 0.95


def test_what_the_model_remembers_of_labels_is_more_than_records_tell_of_them(random_labels):
    wide = {"hidden": [64, 32]}
    how = {"model": wide, "optimizer": "adam", "learning_rate": 0.01}
    fresh, trained = (
        carried_out("label-completion", run_spec(random_labels, "splitfed-v1", "u-shaped", rounds=r, **how))
        for r in (0, 60)
    )
    assert fresh["label_auc"].low <= 0.5 <= fresh["label_auc"].high
    assert trained["label_auc"].low > 0.7
    assert trained["held_out_label_auc"].low <= 0.5 <= trained["held_out_label_auc"].high


def test_rows_of_nothing_but_noise_complete_nothing(separable):
    frozen = DEEP | {"freeze": ["head", "tail"]}
    found = carried_out("label-completion", run_spec(separable, "splitfed-v1", "u-shaped", noised(100.0), model=frozen))
    assert all(f.low <= f.chance <= f.high for f in found.values())


# Refinement of randomised labels


def test_the_prior_is_the_logistic_regression_of_scikit_learn():
    y = RNG.integers(3, size=200)
    x = np.column_stack([RNG.normal(size=(200, 4)) + y[:, None], np.ones(200)])
    reference = LogisticRegression(C=1.0, tol=1e-8).fit(x[:, :-1], y).predict_proba(x[:, :-1])
    assert softmax(x @ fitted(x, y, 3), 1) == pytest.approx(reference, abs=2e-3)


def test_answers_are_as_likely_as_randomised_response_makes_them():
    likely = np.exp(answer_log_likelihoods(np.array([2, 0]), 0.3, 3))
    assert likely == pytest.approx(np.array([[0.1, 0.1, 0.8], [0.8, 0.1, 0.1]]))


def randomised(csv, strategy, epsilon):
    spec = run_spec(csv, strategy, "vanilla", {"mechanism": "label-rr", "epsilon": epsilon}, rounds=5)
    return carried_out("label-refinement", spec)


@pytest.mark.parametrize("strategy", ["split", "splitfed-v1", "release-once"])
def test_the_server_refines_answers_by_what_the_others_tell(csv, strategy):
    found = randomised(csv, strategy, 1.5)
    refined, prior, answers = (found[f"{which}label_auc"] for which in ("", "prior_", "answer_"))
    assert refined.value > max(prior.value, answers.value)
    assert answers.bound == pytest.approx(1 / (1 + np.exp(-1.5)))
    assert answers.low <= answers.bound <= answers.high


def test_answers_of_a_small_epsilon_tell_nothing_and_separable_records_their_labels_all_the_same(separable):
    found = randomised(separable, "splitfed-v1", 0.1)
    assert found["answer_label_auc"].low <= 0.5 <= found["answer_label_auc"].high
    assert randomised(separable, "splitfed-v1", 2.0)["label_auc"].value > 0.95


def test_labels_that_are_not_randomised_need_no_refinement(csv):
    assert not attack_of("label-refinement").applies(plan_of(run_spec(csv, "splitfed-v1", "vanilla"))[0].job)
