"""LiRA and RMIA against closed forms, scikit-learn and published code; models that memorised and that know nothing."""

import math
from functools import partial

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import norm
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score, roc_curve
from support import DP_SGD, plan_of, run_spec

from sim.attacks.attack import Target
from sim.attacks.lira import ATTACK as LIRA
from sim.attacks.lira import scores
from sim.attacks.membership_game import LEVELS, MEASURES, Guesses, bounds, findings, resampled
from sim.attacks.rmia import log_ratios, pairwise
from sim.attacks.row_membership import log_likelihoods, sent_one
from sim.attacks.shadows import Population, own_class_logits, trials_of
from sim.scenario import parse_scenario
from sim.scenario.spec import expand
from sim.scenario.study import AttackTable, ClinicGroup, Scoring
from sim.study.attacking import Task, attack_run, train_further
from sim.study.train import train_run

MEMORISING = {"model": {"hidden": [64, 32]}, "optimizer": "adam", "learning_rate": 0.01, "batch_size": 16}

WIDE = {"hidden": [24, 8]}
SEERS = ("peer-clinic", "server")


@pytest.fixture(scope="module")
def random_labels(tmp_path_factory):
    """Features that say nothing of the labels: who fits the training records has memorised them."""
    path = tmp_path_factory.mktemp("membership") / "random.csv"
    rng = np.random.default_rng(0)
    lines = [
        ",".join([f"k{k}", f"class{rng.integers(2)}", *(f"{v:.5f}" for v in rng.normal(size=12))])
        for k in range(3)
        for _ in range(80)
    ]
    header = ",".join(["clinic", "label", *(f"x{i}" for i in range(12))])
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def found(spec, *names, **options):
    """Attack a run, and return the findings of each attack by adversary, measure and clinic."""
    plan, federation = plan_of(spec)
    tasks = [Task("0" * 16, AttackTable(name=name, options=options)) for name in names]
    rows = list(attack_run(plan, federation, tasks))
    assert [row["error"] for row in rows] == [""] * len(names)
    return [{(f["adversary"], f["measure"], f["clinic"]): f for f in row["findings"]} for row in rows]


def holds_chance(finding):
    return finding["low"] <= finding["chance"] <= finding["high"]


def test_the_curve_is_scikit_learns_with_weights_and_ties():
    rng = np.random.default_rng(5)
    inside = rng.random((12, 300)) < 0.4
    rough = np.round(rng.normal(size=inside.shape) + inside, 1)
    models, records = rng.integers(0, 4, 12).astype(float), rng.integers(0, 3, 300).astype(float)
    among = rng.random(300) < 0.8
    guesses = Guesses.of(rough, inside, among)
    found = dict(zip(MEASURES, guesses.measured(models, records), strict=True))
    weights = np.outer(models, records * among).ravel()
    true_auc = roc_auc_score(inside.ravel(), rough.ravel(), sample_weight=weights)
    fpr, tpr, _ = roc_curve(inside.ravel(), rough.ravel(), sample_weight=weights, drop_intermediate=False)
    assert found["auc"] == pytest.approx(true_auc)
    assert found["fpr_0_01_tpr"] == pytest.approx(np.interp(0.01, fpr, tpr))
    assert found["fpr_0_001_tpr"] == pytest.approx(np.interp(0.001, fpr, tpr))


def test_pairwise_ratios_are_those_of_the_published_code():
    """``run_rmia`` of ml_privacy_meter (modules/mia/attacks/rmia.py), written down again for one target model.

    Its reference signals are of models without the record, half of them all.
    """
    rng = np.random.default_rng(7)
    a, models, records = 0.3, 9, 30
    inside = np.stack([rng.permutation(models - 1) < 4 for _ in range(records)], 1)
    inside = np.concatenate([rng.random((1, records)) < 0.5, inside])
    signals = rng.uniform(0.05, 0.95, size=(models, records))
    out = np.where(inside[1:], 0, signals[1:])
    mean_out = -np.sort(-out, axis=0)[:4].mean(0)
    ratio = signals[0] / ((1 + a) / 2 * mean_out + (1 - a) / 2)
    counts = np.average(ratio[:, None] / ratio > 1.0, axis=1)
    logits = np.log(signals / (1 - signals))[None]
    assert pairwise(log_ratios(logits, inside)[1])[0] == pytest.approx(counts)
    mean_in = np.where(inside[1:], signals[1:], 0).sum(0) / 4
    online = signals[0] / ((mean_in + mean_out) / 2)
    assert log_ratios(logits, inside)[0][0] == pytest.approx(np.log(online), abs=1e-8)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("lira", {"shadows": 0}, "shadows: 0 is no count; give a whole number from 1"),
        ("rmia", {"rounds": 2.5}, "rounds: 2.5 is no count; give a whole number from 1"),
        ("decoder", {"pictures": -1}, "pictures: -1 is no count; give a whole number from 0"),
    ],
)
def test_what_an_option_cannot_count_is_said_in_one_line(name, options, said):
    with pytest.raises(ValidationError, match=said):
        AttackTable(name=name, options=options)


def test_shadow_models_tell_who_was_memorised_at_one_percent_of_false_positives(random_labels):
    spec = run_spec(random_labels, "fedavg", rounds=40, **MEMORISING)
    for attack in found(spec, "lira", "rmia", shadows=15, rounds=2):
        for adversary in ("model-user", "peer-clinic", "server"):
            assert attack[adversary, "fpr_0_01_tpr", ""]["value"] > 0.1, "ten times chance"
            assert attack[adversary, "auc", ""]["low"] > 0.75
            assert attack[adversary, "auc", "k1"]["value"] > 0.75
        assert attack["model-user", "offline_auc", ""]["low"] > 0.7
        assert math.isnan(attack["model-user", "auc", ""]["bound"]), "nothing is promised"


def test_shadow_models_are_trained_once_for_all_attacks(random_labels, monkeypatch):
    trained = []
    monkeypatch.setattr(
        "sim.study.attacking.train_further",
        lambda plan, adversary, federations, *a, **b: (
            trained.append(len(federations)) or train_further(plan, adversary, federations, *a, **b)
        ),
    )
    found(run_spec(random_labels, rounds=1), "lira", "rmia", shadows=3)
    assert trained == [4], "the run itself and three shadows"


def test_the_runs_own_model_is_the_first_target(random_labels):
    spec = run_spec(random_labels, privacy=DP_SGD, rounds=2)
    with_validation = spec.data.model_copy(update={"validation_share": 0.2})
    plan, federation = plan_of(spec.model_copy(update={"data": with_validation}))
    target = Target(
        plan=plan,
        federation=federation,
        model=train_run(plan, federation).parameters,
        options={"shadows": 1, "rounds": 1},
        train=partial(train_further, plan, "model-user"),
    )
    trials = trials_of(target)
    own = own_class_logits(plan.job.network, target.model, trials.population.records)
    for adversary in ("model-user", "peer-clinic"):
        assert (trials.logits[adversary][-1, 0] == own).all(), "noise included"


def test_nobody_is_told_from_an_untrained_model(random_labels):
    lira, rmia = found(run_spec(random_labels, rounds=0), "lira", "rmia", shadows=9)
    assert {adversary for adversary, _, _ in lira} == {"model-user"}, "no round is seen"
    for key, finding in {**lira, **rmia}.items():
        if "offline" not in key[1]:
            assert finding["value"] == pytest.approx(finding["chance"], abs=1e-9)
        assert holds_chance(finding)


def test_nobody_is_told_at_an_epsilon_of_a_tenth_and_no_interval_is_beyond_what_is_allowed(random_labels):
    privacy = {"mechanism": "dp-sgd", "epsilon": 0.1, "delta": 1e-3}
    for attack in found(run_spec(random_labels, privacy=privacy, rounds=5, **MEMORISING), "lira", "rmia", shadows=15):
        for adversary in ("model-user", "server"):
            for measure in MEASURES:
                finding = attack[adversary, measure, ""]
                assert holds_chance(finding)
                assert finding["chance"] < finding["bound"] < 0.7
                assert finding["low"] <= finding["bound"]


def test_a_row_is_shared_among_candidates_by_bayes_rule():
    rng = np.random.default_rng(8)
    candidates = rng.normal(size=(6, 3))
    rows = candidates[:4] + 0.8 * rng.normal(size=(4, 3))
    likely = norm.pdf(rows[:, None], candidates, 0.8).prod(2)
    none = np.prod(1 - likely / likely.sum(1, keepdims=True), axis=0)
    assert sent_one(log_likelihoods(rows, candidates, 0.64)) == pytest.approx(1 - none)


@pytest.mark.parametrize(
    ("strategy", "cut"),
    [("centralised", None), ("split", "vanilla"), ("splitfed-v1", "u-shaped"), ("splitfed-v3", "vanilla")],
)
def test_rows_without_noise_give_membership_away(random_labels, strategy, cut):
    [seen] = found(run_spec(random_labels, strategy, cut, model=WIDE, rounds=3, learning_rate=0.01), "row-membership")
    assert seen["server", "auc", ""]["value"] > 0.999
    assert seen["server", "fpr_0_01_tpr", ""]["value"] > 0.99
    assert math.isnan(seen["server", "auc", ""]["bound"])


def test_noise_on_rows_takes_membership_away_as_far_as_its_epsilon_says(random_labels):
    def attacked(epsilon, rounds=2):
        noise = {"mechanism": "smashed-noise", "epsilon": epsilon, "clip": 2.0, "delta": 1e-3, "labels": "public"}
        spec = run_spec(random_labels, "split", "vanilla", noise, WIDE | {"freeze": ["head"]}, rounds=rounds)
        [seen] = found(spec, "row-membership")
        return seen["server", "auc", ""]

    little, much = attacked(60), attacked(0.1)
    assert little["low"] > 0.6
    assert holds_chance(much)
    assert much["low"] <= much["bound"] < 0.6


def test_the_epsilon_of_a_record_is_no_bound_where_patients_have_several(tmp_path):
    """Five equal records a patient, and the sum of their rows, each a Gaussian of three clips."""
    rng = np.random.default_rng(0)
    lines = []
    for patient in range(80):
        x = ",".join(f"{v:.5f}" for v in rng.normal(size=12))
        lines += [f"k{patient % 2},class{patient // 2 % 2},{x},p{patient}"] * 5
    path = tmp_path / "visits.csv"
    features = [f"x{i}" for i in range(12)]
    path.write_text("\n".join([",".join(["clinic", "label", *features, "patient"]), *lines]) + "\n", encoding="utf-8")
    noise = {"mechanism": "smashed-noise", "noise-multiplier": 3.0, "clip": 2.0, "delta": 1e-3, "labels": "public"}
    spec = run_spec(path, "split", "vanilla", noise, WIDE | {"freeze": ["head"]}, rounds=1)
    data = spec.data.model_copy(update={"patient": "patient", "features": tuple(features)})
    plan, federation = plan_of(spec.model_copy(update={"data": data}))
    population = Population.of(federation)
    inside = population.members()
    move = math.sqrt(2) / 3  # of one row, by the noise's deviation
    of_patients = move * 5 * inside + math.sqrt(5) * rng.standard_normal(80)[population.records.patient]
    [auc, *_] = findings(plan, population, inside[None], of_patients[None], "server")
    assert auc.value > bounds(plan, "server")["auc"]
    assert math.isnan(auc.bound)


def test_nobody_has_been_seen_before_the_first_round(random_labels):
    [seen] = found(run_spec(random_labels, "split", "vanilla", rounds=0), "row-membership")
    assert all(each["value"] == pytest.approx(each["chance"]) for each in seen.values())


def test_an_attack_made_again_finds_the_same(random_labels):
    spec = run_spec(random_labels, "splitfed-v1", "vanilla", rounds=2)
    names = ("lira", "rmia", "row-membership")
    options = [{"shadows": 3}, {"shadows": 3}, {}]
    plan, federation = plan_of(spec)
    tasks = [Task("0" * 16, AttackTable(name=n, options=o)) for n, o in zip(names, options, strict=True)]
    one, other = ([row["findings"] for row in attack_run(plan, federation, tasks)] for _ in range(2))
    assert repr(one) == repr(other)


@pytest.mark.slow
def test_a_convolutional_network_on_images_is_told_who_it_memorised(tmp_path):
    digits, rng = load_digits(), np.random.default_rng(0)
    some = rng.permutation(len(digits.images))[:160]
    np.savez(tmp_path / "digits.npz", x=digits.images[some].astype(np.uint8) * 15, y=rng.integers(0, 10, len(some)))
    scenario = {
        "name": "digits",
        "seeds": [0],
        "data": {"source": "npz", "path": "digits.npz", "x": "x", "label": "y", "split": "iid", "clinics": 2}
        | {"test-share": 0.5},
        "model": {"name": "cnn", "channels": [8, 16], "hidden": [32]},
        "train": {"rounds": 20, "batch-size": 16, "learning-rate": 0.01, "optimizer": "adam"},
        "evaluation": {"reference": False},
        "strategies": [{"name": "fedavg"}],
    }
    [spec] = expand(parse_scenario(scenario, tmp_path))
    for attack in found(spec, "lira", "rmia", shadows=11, rounds=1):
        assert attack["model-user", "fpr_0_01_tpr", ""]["value"] > 0.1, "ten times chance"
        assert attack["model-user", "auc", ""]["low"] > 0.75


def test_the_server_knows_more_from_each_clinics_update_than_from_their_mean(random_labels):
    [open_, secure] = (
        found(run_spec(random_labels, privacy=privacy, rounds=8, **MEMORISING), "lira", shadows=15)[0]
        for privacy in ({"mechanism": "none"}, {"mechanism": "none", "secure-aggregation": True})
    )
    auc = {(who, a): each[a, "auc", ""]["value"] for who, each in (("open", open_), ("secure", secure)) for a in SEERS}
    assert auc["secure", "server"] == auc["secure", "peer-clinic"]
    assert auc["secure", "server"] == pytest.approx(auc["open", "peer-clinic"], abs=1e-3), "but for the sum's grid"
    assert auc["open", "server"] > auc["secure", "server"] + 0.02


def test_what_is_claimed_bounds_the_curve_as_the_closed_form_says(random_labels):
    """One Gaussian of three clips on a row that another may lie the square root of two clips away from."""
    noise = {"mechanism": "smashed-noise", "noise-multiplier": 3.0, "clip": 2.0, "delta": 1e-3, "labels": "public"}
    plan, _ = plan_of(run_spec(random_labels, "split", "vanilla", noise, {"freeze": ["head"]}, rounds=1))
    mu = math.sqrt(2) / 3
    auc, *rates = bounds(plan, "server").values()
    assert rates == pytest.approx([norm.cdf(norm.ppf(level) + mu) for level in LEVELS], rel=1e-3)
    assert norm.cdf(mu / math.sqrt(2)) < auc == pytest.approx(1 - (2 - 2 * norm.cdf(mu / 2)) ** 2 / 2, rel=1e-3)
    assert all(map(math.isnan, bounds(plan_of(run_spec(random_labels))[0], "server").values()))


def test_gradients_that_hide_a_record_or_none_bound_one_that_is_replaced_by_another(random_labels):
    """Two steps over all records, each a Gaussian of eight clips, on a sum that another record moves by two."""
    noise = {"mechanism": "dp-sgd", "noise-multiplier": 8.0, "clip": 1.0, "delta": 1e-3}
    plan, _ = plan_of(run_spec(random_labels, privacy=noise, rounds=2, batch_size=80))
    mu = 2 * math.sqrt(2) / 8
    for adversary in ("model-user", "server"):
        _, *rates = bounds(plan, adversary).values()
        assert rates == pytest.approx([norm.cdf(norm.ppf(level) + mu) for level in LEVELS], rel=1e-3)


def test_the_worst_group_of_patients_is_scikit_learns(random_labels):
    """Groups are columns of the source: here the first feature, in bands."""
    spec = run_spec(random_labels, rounds=5, **MEMORISING)
    asked = {"groups": [{"column": "x0", "bands": [-0.5, 0.5]}]}
    spec = spec.model_copy(update={"evaluation": Scoring.model_validate(asked)})
    plan, federation = plan_of(spec)
    options = {"shadows": 5, "rounds": 1}
    shared = {}
    target = Target(
        plan=plan,
        federation=federation,
        model={},
        options=options,
        train=partial(train_further, plan, "model-user"),
        shared=shared,
    )
    trials = trials_of(target)
    ratio = scores(trials.logits["model-user"], trials.inside)[0]
    first = np.loadtxt(random_labels, delimiter=",", skiprows=1, usecols=2)[trials.population.records.row]
    aucs = [
        roc_auc_score(trials.inside[:, own].ravel(), ratio[:, own].ravel())
        for own in (first < -0.5, (first >= -0.5) & (first < 0.5), first >= 0.5)
    ]
    [worst] = [f for f in LIRA.carry_out(target) if f.measure == "worst_group_auc" and f.adversary == "model-user"]
    assert worst.value == pytest.approx(max(aucs))
    assert worst.low < worst.value < worst.high


def test_rows_of_a_record_that_are_linked_tell_as_much_as_their_mean(random_labels):
    """A frozen head sends a record's row with new noise each round: eight rounds are as one with noise / sqrt(8)."""

    def auc(multiplier, rounds):
        noise = {"mechanism": "smashed-noise", "noise-multiplier": multiplier, "clip": 2.0, "delta": 1e-3}
        spec = run_spec(
            random_labels, "split", "vanilla", noise | {"labels": "public"}, WIDE | {"freeze": ["head"]}, rounds=rounds
        )
        return found(spec, "row-membership")[0]["server", "auc", ""]["value"]

    once, eight, less_noise = auc(0.4, 1), auc(0.4, 8), auc(0.4 / math.sqrt(8), 1)
    assert eight == pytest.approx(less_noise, abs=0.06)
    assert eight > once + 0.1


def test_clinics_that_are_lost_are_attacked_by_what_they_were_given(random_labels):
    spec = run_spec(random_labels, rounds=4)
    lost = ClinicGroup.model_validate({"profile": "hospital", "availability": 0.6, "drop-out": 0.4})
    [lira] = found(spec.model_copy(update={"clinics": (lost,)}), "lira", shadows=2)
    assert not math.isnan(lira["server", "auc", ""]["value"])


def test_intervals_hold_what_is_true_and_chance_where_there_is_nothing():
    """Scores by simulation, whose records know nothing, or as much as the mean over all simulations says."""
    for moved in (0.0, 0.5):
        values, lows, highs = np.transpose([_simulated(seed, moved) for seed in range(20)])
        truth = values.mean() if moved else 0.5
        assert values.mean() == pytest.approx(truth, abs=0.015)
        assert np.mean((lows <= truth) & (truth <= highs)) >= 0.85


def _simulated(seed, moved):
    rng = np.random.default_rng(seed)
    inside = np.stack([rng.permutation(120) < 80 for _ in range(9)])
    logits = 2 * rng.normal(size=120) + rng.normal(size=inside.shape) + moved * inside
    guesses = Guesses.of(scores(logits[None], inside)[0], inside, np.ones(120, dtype=bool))
    drawn = [guesses.measured(*weights)[0] for weights in resampled(seed, 9, np.zeros(120, dtype=np.int64))]
    return guesses.measured(np.ones(9), np.ones(120))[0], *np.percentile(drawn, [2.5, 97.5])
