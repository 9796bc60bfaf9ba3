"""Intervals of scores and differences: against formulas written out, a bootstrap, published figures and known truth."""

import math
import time

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, log_loss, roc_auc_score

from benchmarks.coverage import HOSPITALS, LAWS, covered, covered_over_clinics, evidence, told_apart
from benchmarks.made_up import Law, drawn
from sim.inference.clinics import by_clinic
from sim.inference.differences import Verdict, all_differences, estimates, verdict
from sim.inference.evidence import Evidence, from_predictions, from_values
from sim.inference.hospitals import over_clinics, random_effects
from sim.inference.scores import Predictions, scores


def predictions(rows=60, clinics=1, models=2, classes=2, seed=0, **columns):
    """Predictions of several models for the same records, rounded so that there are ties."""
    rng = np.random.default_rng(seed)
    label, clinic = rng.integers(0, classes, rows), rng.integers(0, clinics, rows)
    parts = []
    for _ in range(models):
        raw = rng.random((rows, classes)) + 0.6 * np.eye(classes)[label]
        parts.append(np.round(raw / raw.sum(1, keepdims=True), 2))
    given = {
        "model": np.repeat(np.arange(models), rows),
        "models": models,
        "clinic": np.tile(clinic, models),
        "patient": np.tile(np.arange(rows), models),
        "label": np.tile(label, models),
        "probabilities": np.concatenate(parts),
    }
    return Predictions(**given | columns)


def wins(of, model, clinic=None):
    """Whether each case of class 1 stands above each of class 0, ties half."""
    own = (of.model == model) & ((of.clinic == clinic) if clinic is not None else True)
    score = of.probabilities[own, 1]
    case = of.label[own] == 1
    return 0.5 * (np.sign(score[case][:, None] - score[~case][None]) + 1)


def test_the_variance_of_an_auc_and_of_a_difference_is_delongs():
    """Written out as in DeLong et al. (1988): the covariance of placement values, class by class."""
    of = predictions()
    value, influence = scores(of, "auc")
    matrices = [wins(of, model) for model in range(2)]
    assert value == pytest.approx([matrix.mean() for matrix in matrices])
    cases, others = matrices[0].shape
    s10 = np.cov([matrix.mean(1) for matrix in matrices])
    s01 = np.cov([matrix.mean(0) for matrix in matrices])
    parts = influence.reshape(2, -1)
    assert parts @ parts.T == pytest.approx(s10 / cases + s01 / others)


def test_the_within_clinic_auc_counts_pairs_of_one_clinic_only():
    of = predictions(rows=200, clinics=5)
    value, influence = scores(of, "within_clinic_auc")
    for model in range(2):
        every = [wins(of, model, clinic) for clinic in range(5)]
        assert value[model] == pytest.approx(sum(m.sum() for m in every) / sum(m.size for m in every))
        assert influence[of.model == model].sum() == pytest.approx(0, abs=1e-12)


def test_its_standard_error_is_that_of_a_bootstrap_within_clinics_and_classes():
    of = predictions(rows=300, clinics=3, models=1)
    _, influence = scores(of, "within_clinic_auc")
    rng = np.random.default_rng(1)
    cells = [np.flatnonzero((of.clinic == k) & (of.label == y)) for k in range(3) for y in (0, 1)]
    drawn_values = []
    for _ in range(1500):
        rows = np.concatenate([rng.choice(cell, len(cell)) for cell in cells])
        again = Predictions(
            model=of.model[rows], models=1, clinic=of.clinic[rows], patient=np.arange(len(rows)),
            label=of.label[rows], probabilities=of.probabilities[rows],
        )  # fmt: skip
        drawn_values.append(scores(again, "within_clinic_auc")[0][0])
    assert math.sqrt((influence**2).sum()) == pytest.approx(np.std(drawn_values), rel=0.06)


@pytest.mark.parametrize("classes", [2, 3])
def test_values_are_those_of_scikit_learn(classes):
    of = predictions(classes=classes, models=1)
    p = of.probabilities / of.probabilities.sum(1, keepdims=True)
    of = predictions(classes=classes, models=1, probabilities=p)
    y = of.label
    auc = roc_auc_score(y, p[:, 1]) if classes == 2 else roc_auc_score(y, p, multi_class="ovr")
    assert scores(of, "auc")[0] == pytest.approx([auc])
    assert scores(of, "loss")[0] == pytest.approx([log_loss(y, p)])
    brier = brier_score_loss(y, p[:, 1]) if classes == 2 else ((p - np.eye(classes)[y]) ** 2).sum(1).mean()
    assert scores(of, "brier")[0] == pytest.approx([brier])
    assert scores(of, "balanced_accuracy")[0] == pytest.approx([balanced_accuracy_score(y, p.argmax(1))])
    assert scores(of, "accuracy")[0] == pytest.approx([(p.argmax(1) == y).mean()])


def test_records_of_one_patient_count_as_one():
    """Each record given three times over is no evidence more."""
    once = predictions(rows=80, clinics=2, models=1)
    rows = np.repeat(np.arange(80), 3)
    thrice = Predictions(
        model=once.model[rows], models=1, clinic=once.clinic[rows], patient=once.patient[rows],
        label=once.label[rows], probabilities=once.probabilities[rows],
    )  # fmt: skip
    _, single = scores(once, "within_clinic_auc")
    _, triple = scores(thrice, "within_clinic_auc")
    assert np.bincount(rows, triple) == pytest.approx(single)


def test_a_clinic_with_one_case_and_one_control_says_something_about_variation():
    of = predictions(rows=40, models=1, clinic=np.arange(40) // 2, label=np.arange(40) % 2)
    value, influence = scores(of, "within_clinic_auc")
    pairs = np.array([wins(of, 0, clinic).item() for clinic in range(20)])
    assert value[0] == pytest.approx(pairs.mean())
    exact = pairs.var() / 20
    assert exact <= (influence**2).sum() <= 2.001 * exact


def test_splitting_the_same_patients_again_adds_little():
    """A patient's loss is its own on every seed: the variance of the mean over J seeds is v ((1 - f)/J + f)."""
    patients, share, rng = 4000, 0.3, np.random.default_rng(2)
    truth = rng.uniform(0.05, 0.95, patients)
    parts = []
    for seed in range(8):
        who = np.flatnonzero(rng.random(patients) < share)
        parts.append(pd.DataFrame({"run_id": str(seed), "patient": who, "probability_1": truth[who]}))
    table = pd.concat(parts).assign(clinic="a", label=1, probability_0=lambda t: 1 - t["probability_1"])
    models = pd.DataFrame({"run_id": map(str, range(8)), "method": "a", "seed": range(8)})
    of = from_predictions(table, models, "brier", same_patients=True)
    moments = of.moments(np.ones(8, bool), np.eye(1))
    one = ((1 - truth) ** 2).var() / (share * patients)
    assert moments.patients[0] == pytest.approx(one * ((1 - share) / 8 + share), rel=0.05)
    assert moments.explained[0] == pytest.approx(one * (1 - share), rel=0.05)
    apart = from_predictions(table, models, "brier", same_patients=False)
    assert apart.moments(np.ones(8, bool), np.eye(1)).patients[0] == pytest.approx(one / 8, rel=0.05)


def values(table, ratio=0.0):
    runs = [(method, seed, score) for method, row in table.items() for seed, score in enumerate(row)]
    frame = pd.DataFrame(runs, columns=["method", "seed", "auc"]).dropna()
    return from_values(frame, "auc", ratio)


def test_without_predictions_an_interval_is_nadeau_and_bengios():
    """By hand: differences .01, .02, .03, .06, .03; variance .00035; 5 seeds, a third held out: 1/5 + 1/2."""
    rows = {"a": [0.71, 0.82, 0.73, 0.86, 0.83], "b": [0.70, 0.80, 0.70, 0.80, 0.80]}
    found = all_differences(values(rows, ratio=0.5)).iloc[0]
    assert found["mean"] == pytest.approx(0.03)
    assert found["half_width"] == pytest.approx(stats.t.ppf(0.975, 4) * math.sqrt(0.7 * 0.00035))
    single = estimates(values(rows, ratio=0.5)).iloc[0]
    assert single["half_width"] == pytest.approx(stats.t.ppf(0.975, 4) * math.sqrt(0.7 * np.var(rows["a"], ddof=1)))
    assert math.isnan(single["patients"])


def test_all_pairs_hold_together_as_tukeys_do():
    """Independent methods with equal variance: the studentised range, by which Tukey widens all pairs."""
    rng = np.random.default_rng(4)
    rows = {name: 0.8 + 0.01 * rng.standard_normal(200) for name in "abcd"}
    found = all_differences(values(rows))
    pooled = np.mean([np.var(np.subtract(rows[a], rows[b]), ddof=1) for a, b in zip("aaabbc", "bcdcdd", strict=True)])
    tukey = stats.studentized_range.ppf(0.95, 4, 597) / math.sqrt(2) * math.sqrt(pooled / 200)
    assert found["half_width"].min() == pytest.approx(tukey, rel=0.03)
    assert (found["half_width"] >= 0.97 * tukey).all()


def test_what_is_equal_on_every_seed_and_for_every_patient_has_no_width():
    study = drawn(Law(aucs=(0.8, 0.7)), np.random.default_rng(0))
    again = study.predictions[study.predictions["run_id"].str.endswith("-1")]
    twin = again.assign(run_id=again["run_id"].str.replace("-1", "-2"))
    models = pd.concat(
        [study.models, pd.DataFrame([(f"{s}-2", "twin", s) for s in range(5)], columns=study.models.columns)]
    )
    of = from_predictions(pd.concat([study.predictions, twin]), models, "within_clinic_auc", same_patients=True)
    found = all_differences(of).set_index(["first", "second"])
    assert found.loc[("method 1", "twin"), ["mean", "half_width"]].tolist() == [0, 0]
    assert (found["half_width"].drop([("method 1", "twin")]) > 0).all()
    assert verdict(0.0, 0.0, 0.01) is Verdict.EQUAL


@pytest.mark.parametrize(
    ("mean", "width", "said"),
    [
        (0.02, 0.005, Verdict.APART),
        (-0.02, 0.005, Verdict.APART),
        (0.004, 0.005, Verdict.EQUAL),
        (0.004, 0.003, Verdict.EQUAL),
        (0.004, 0.008, Verdict.OPEN),
        (0.0, math.nan, Verdict.OPEN),
    ],
)
def test_three_verdicts(mean, width, said):
    assert verdict(mean, width, 0.01) is said


def test_one_seed_tells_nothing_apart_and_missing_seeds_are_left_out_by_pair():
    of = values({"a": [0.7, 0.8, 0.9], "b": [0.6, 0.7, math.nan], "c": [0.5, math.nan, math.nan]})
    found = all_differences(of).set_index(["first", "second"])
    assert found["n"].tolist() == [2, 1, 1]
    assert found.loc[("a", "b"), "mean"] == pytest.approx(0.1)
    assert found["half_width"].isna().tolist() == [False, True, True]
    assert estimates(of)["n"].tolist() == [3, 2, 1]


def test_folds_of_one_seed_are_scored_together():
    study = drawn(Law(aucs=(0.8,), seeds=1), np.random.default_rng(0))
    whole = from_predictions(study.predictions, study.models, "within_clinic_auc", same_patients=True)
    folds = study.predictions.assign(run_id=study.predictions["clinic"])
    models = pd.DataFrame({"run_id": folds["run_id"].unique(), "method": "method 0", "seed": 0})
    joined = from_predictions(folds, models, "within_clinic_auc", same_patients=True)
    assert joined.by_seed == pytest.approx(whole.by_seed)


# Tuberculosis with and without vaccination in thirteen trials (Colditz et al. 1994)
VACCINATED = [4, 6, 3, 62, 33, 180, 8, 505, 29, 17, 186, 5, 27], [
    119, 300, 228, 13536, 5036, 1361, 2537, 87886, 7470, 1699, 50448, 2493, 16886,
]  # fmt: skip
NOT_VACCINATED = [11, 29, 11, 248, 47, 372, 10, 499, 45, 65, 141, 3, 29], [
    128, 274, 209, 12619, 5761, 1079, 619, 87892, 7232, 1600, 27197, 2338, 17825,
]  # fmt: skip


def test_random_effects_are_those_published_for_the_vaccine_trials():
    """REML and DL as metafor has them (Viechtbauer 2010); Hartung & Knapp's interval is statsmodels 0.15's, with DL."""
    (sick, well), (control, free) = np.array(VACCINATED, float), np.array(NOT_VACCINATED, float)
    values = np.log(sick / (sick + well)) - np.log(control / (control + free))
    variances = 1 / sick - 1 / (sick + well) + 1 / control - 1 / (control + free)
    found = random_effects(values, variances)
    assert (found.mean, found.error, found.between) == pytest.approx((-0.7145, 0.1798, 0.3132), abs=5e-5)
    assert 1.959964 * math.hypot(found.error, math.sqrt(found.between)) == pytest.approx(-0.7145 + 1.8667, abs=2e-4)
    moments = random_effects(values, variances, method="DL")
    assert (moments.mean, moments.between) == pytest.approx((-0.7141, 0.3088), abs=5e-5)
    ends = (moments.mean - moments.half_width, moments.mean + moments.half_width)
    assert ends == pytest.approx((-1.107821, -0.320413), abs=1e-6)
    spread = found.half_width / stats.t.ppf(0.975, 12)
    assert found.predicted == pytest.approx(stats.t.ppf(0.975, 11) * math.sqrt(found.between + spread**2))


def test_clinics_summaries_have_each_clinics_own_auc_and_need_five():
    study = drawn(Law(aucs=(0.85, 0.75), clinics=4, every_clinic=True, seeds=2), np.random.default_rng(0))
    own = by_clinic(study.predictions, study.models, "within_clinic_auc")
    joined = study.predictions.merge(study.models)
    aucs = [
        np.mean([roc_auc_score(g["label"], g["probability_1"]) for _, g in part.groupby("seed")])
        for _, part in joined.groupby(["clinic", "method"])
    ]
    assert own.by_seed.mean(0) == pytest.approx(np.reshape(aucs, (4, 2)))
    singles, pairs = over_clinics(own)
    assert singles["half_width"].isna().all()
    assert pairs["half_width"].isna().all()


STUDIES = 200


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_intervals_hold_the_truth(law):
    """The whole measurement is ``benchmarks.coverage``; here shares of 200 studies, three standard errors wide."""
    single, pair = np.mean([covered(law, seed) for seed in range(STUDIES)], axis=0)
    assert 0.90 <= single <= 0.995
    assert 0.90 <= pair <= 0.995


def test_two_seeds_are_enough_where_methods_share_what_seeds_bring():
    """Alone, a method of two seeds has one degree of freedom, and no interval."""
    law = Law(aucs=(0.8,) * 6, seeds=2, noise=0.02)
    found = []
    for seed in range(100):
        study = drawn(law, np.random.default_rng(seed))
        table = estimates(evidence(study, law))
        found.append(((table["mean"] - study.truth).abs() <= table["half_width"]).mean())
    assert 0.91 <= np.mean(found) <= 0.99
    own = estimates(evidence(study, law), pools=range(6))
    assert table["half_width"].max() < 0.1
    varies = own["repetition"] > 0
    assert varies.any()
    assert own["half_width"].isna().tolist() == varies.tolist()


@pytest.mark.slow
def test_equal_methods_are_seldom_told_apart():
    law = Law(aucs=(0.8,) * 4)
    assert np.mean([told_apart(law, seed) for seed in range(STUDIES)]) <= 0.09


@pytest.mark.slow
def test_intervals_over_clinics_hold_the_truth():
    law = HOSPITALS["10 clinics differ by .05, methods at clinics by .03"]
    hits = np.mean([covered_over_clinics(law, seed) for seed in range(STUDIES)], axis=0)
    assert (hits >= 0.90).all()
    assert (hits <= 0.995).all()


def test_a_report_of_many_runs_takes_no_time_for_this():
    """240 runs: 12 methods at 4 levels on 5 seeds."""
    law = Law(aucs=(0.8,) * 48)
    study = drawn(law, np.random.default_rng(0))
    start = time.process_time()
    of = evidence(study, law)
    estimates(of)
    all_differences(of)
    assert time.process_time() - start < 3
    assert isinstance(of, Evidence)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_clinic_s_own_intervals_are_those_of_its_records_alone(fresh):
    study = drawn(Law(aucs=(0.8, 0.7), clinics=3, fresh=fresh, by_clinic=0.05), np.random.default_rng(0))
    own = by_clinic(study.predictions, study.models, "within_clinic_auc", same_patients=not fresh)
    singles, gains = own.estimates(), own.estimates("method 1").set_index("clinic")
    sole = by_clinic(study.predictions, study.models[study.models["method"] == "method 1"], "auc")
    assert list(sole.estimates("method 1").columns) == list(singles.columns)
    assert not len(sole.estimates("method 1")), "what it has over itself"
    for clinic, part in study.predictions.groupby("clinic"):
        alone = from_predictions(part, study.models, "within_clinic_auc", same_patients=not fresh)
        found = singles[singles["clinic"] == clinic].reset_index(drop=True)
        expected = estimates(alone, pools=[0, 1])
        for column in ("n", "mean", "half_width"):
            assert found[column].tolist() == pytest.approx(expected[column].tolist())
        pair = all_differences(alone).iloc[0]
        assert gains.loc[clinic, ["n", "mean", "half_width"]].tolist() == pytest.approx(
            pair[["n", "mean", "half_width"]].tolist()
        )


def times_of(study, seed):
    """Return a study's predictions as those of times: the higher the risk, the earlier; all with the event."""
    table = study.predictions.drop(columns=["label", "probability_0"]).rename(columns={"probability_1": "survival_1"})
    table["survival_1"] = 1 - table["survival_1"]
    patients = np.sort(table["patient"].unique())
    drawn_times = np.random.default_rng(seed).permutation(len(patients)) / len(patients)
    return table.assign(time=drawn_times[np.searchsorted(patients, table["patient"])], event=1)


def test_a_clinic_s_pairs_of_cases_before_all_others_are_those_of_the_auc():
    """Where all cases have the event at once and nobody else has it, pairs are those of an AUC, few or many."""
    study = drawn(Law(aucs=(0.8, 0.7), clinics=4, seeds=1), np.random.default_rng(0))
    few = study.predictions["clinic"] == "clinic-3"
    small = study.predictions[few].groupby(["run_id", "label"]).head(2)
    table = pd.concat([study.predictions[~few], small], ignore_index=True)
    times = table.assign(survival_1=table["probability_0"], time=1.0 - table["label"] / 2, event=table["label"])
    times = times.drop(columns=["label", "probability_0", "probability_1"])
    found, expected = by_clinic(times, study.models, "concordance"), by_clinic(table, study.models, "auc")
    assert found.size == pytest.approx(expected.size)
    assert found.fewest == pytest.approx(expected.fewest)
    assert found.by_seed == pytest.approx(expected.by_seed)


def test_a_clinic_s_interval_is_the_same_whether_the_last_patient_is_censored_or_not():
    """Behind the last time nobody is compared; a clinic where all have the event is not known without error."""
    study = drawn(Law(aucs=(0.8, 0.7), clinics=4, seeds=2), np.random.default_rng(0))
    seen = times_of(study, 1)
    seen = seen[(seen["clinic"] != "clinic-3") | (seen.groupby(["run_id", "clinic"]).cumcount() < 4)]
    last = seen.groupby(["run_id", "clinic"])["time"].transform("max") == seen["time"]
    found, censored = (
        by_clinic(table, study.models, "within_clinic_concordance").estimates("method 0")
        for table in (seen, seen.assign(event=np.where(last, 0, 1)))
    )
    assert (found["half_width"] > 0.01).all()
    assert found["half_width"].tolist() == pytest.approx(censored["half_width"].tolist())
    assert found["half_width"].idxmax() == found.index[found["clinic"] == "clinic-3"][0]


def test_a_small_clinic_s_interval_takes_the_variance_of_all():
    """Two cases and two controls say little of how patients vary: the interval is that of all clinics, by size.

    A single pair has no interval.
    """
    study = drawn(Law(aucs=(0.8, 0.7), clinics=4, seeds=1), np.random.default_rng(0))
    large = study.predictions[study.predictions["clinic"] != "clinic-3"]
    own = study.predictions[study.predictions["clinic"] == "clinic-3"].groupby(["run_id", "label"])
    few, pair = (
        by_clinic(pd.concat([large, own.head(count)]), study.models, "auc").estimates().set_index(["clinic", "method"])
        for count in (2, 1)
    )
    widths = {clinic: width for (clinic, method), width in few["half_width"].items() if method == "method 0"}
    assert widths.pop("clinic-3") > max(widths.values())
    assert pair["half_width"].isna().tolist() == [clinic == "clinic-3" for clinic, _ in pair.index]


def test_two_seeds_of_one_clinic_alone_give_it_no_interval_and_several_clinics_share_theirs():
    study = drawn(Law(aucs=(0.8, 0.7), clinics=4, seeds=2, noise=0.05), np.random.default_rng(0))
    every = by_clinic(study.predictions, study.models, "auc").estimates()
    assert every["half_width"].between(0, 0.4).all()
    one = study.predictions[study.predictions["clinic"] == "clinic-1"]
    alone = by_clinic(one, study.models, "auc").estimates()
    assert len(alone) == 2
    assert alone["half_width"].isna().any()
