"""The case mix of clinics from what they send, against hand computation, SciPy, and runs that must not give it away."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from support import NO_PRIVACY, plan_of, run_spec

from sim.attacks.attack import AttackError, Target, attack_of
from sim.attacks.property import WIDEST, Sent, property_of, scored, shadow_federation, sketched
from sim.study.attacking import train_further
from sim.study.train import train_run

CLINICS, SIZE = 10, 40


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    """Ten clinics whose share of cases climbs from a tenth to nine tenths."""
    path, rng, lines = tmp_path_factory.mktemp("property") / "clinics.csv", np.random.default_rng(0), []
    for k in range(CLINICS):
        y = (rng.permutation(SIZE) < (k + 1) / (CLINICS + 1) * SIZE).astype(int)
        x = rng.normal(size=(SIZE, 4)) + np.outer(2 * y - 1, [1, -1, 0.5, 0])
        lines += [",".join([f"k{k}", f"class{c}", *(f"{v:.5f}" for v in row)]) for c, row in zip(y, x, strict=True)]
    path.write_text("\n".join(["clinic,label,x0,x1,x2,x3", *lines]) + "\n", encoding="utf-8")
    return path


def found(spec, **options):
    """Attack a run; return the findings on all clinics by measure, and the error by clinic."""
    plan, federation = plan_of(spec)
    attack, train = attack_of("property"), partial(train_further, plan, "server")
    given = {**attack.options, **options}
    target = Target(plan=plan, federation=federation, model={}, options=given, train=train)
    findings = list(attack.carry_out(target))
    return {f.measure: f for f in findings if not f.clinic}, {f.clinic: f.value for f in findings if f.clinic}


@pytest.mark.parametrize(
    ("strategy", "cut"),
    [("fedavg", None), ("split", "u-shaped"), ("splitfed-v1", "u-shaped"), ("splitfed-v3", "u-shaped")],
)
def test_the_case_mix_follows_from_what_clinics_send(csv, strategy, cut):
    everyone, clinics = found(run_spec(csv, strategy, cut, rounds=2), shadows=8)
    assert everyone["mix_correlation"].low > 0.9
    assert everyone["mix_error"].high < 0.4 * everyone["mix_error"].chance
    assert everyone["mix_error"].value == pytest.approx(np.mean(list(clinics.values())))


def test_labels_that_are_sent_tell_the_case_mix_exactly(csv):
    everyone, _ = found(run_spec(csv, "splitfed-v1", "vanilla", rounds=1), shadows=8)
    assert everyone["mix_error"].value < 0.01


def test_the_mean_of_a_feature_follows_too(csv):
    everyone, _ = found(run_spec(csv, "splitfed-v1", "u-shaped", rounds=1), of="x0", shadows=8)
    assert everyone["mix_correlation"].low > 0.8


@pytest.mark.parametrize(
    ("strategy", "cut", "privacy"),
    [
        ("fedavg", None, {"mechanism": "dp-sgd", "epsilon": 0.1, "clip": 0.5, "delta": 1e-3}),
        (
            "splitfed-v1",
            "u-shaped",
            {"mechanism": "smashed-noise", "noise-multiplier": 100.0, "clip": 2.0, "delta": 1e-3, "labels": "public"},
        ),
    ],
)
def test_noise_hides_the_case_mix(csv, strategy, cut, privacy):
    """One interval in twenty leaves chance out."""
    model, hidden = {"freeze": ["head", "tail"]} if cut else {}, []
    for seed in range(4):
        everyone, _ = found(run_spec(csv, strategy, cut, privacy, model=model, rounds=2, seed=seed), shadows=8)
        hidden += [finding.low <= finding.chance <= finding.high for finding in everyone.values()]
    assert hidden.count(False) <= 2


@pytest.mark.parametrize("privacy", [NO_PRIVACY, {"mechanism": "none", "secure-aggregation": True}])
def test_nothing_is_found_where_nothing_of_one_clinic_crosses(csv, privacy):
    rounds = 1 if len(privacy) > 1 else 0
    assert found(run_spec(csv, "fedavg", None, privacy, rounds=rounds), shadows=2) == ({}, {})
    assert not attack_of("property").applies(plan_of(run_spec(csv, "local"))[0].job)


def test_it_comes_to_the_same_again(csv):
    spec = run_spec(csv, "fedavg", rounds=1)
    assert found(spec, shadows=3) == found(spec, shadows=3)


def test_a_property_that_is_neither_class_nor_feature_is_refused(csv):
    _, federation = plan_of(run_spec(csv))
    with pytest.raises(AttackError, match=r'options.of: "age" is no class and no feature'):
        property_of(federation, federation.train, "age")


def test_shadow_clinics_are_held_out_records_in_mixes_of_their_own(csv):
    _, federation = plan_of(run_spec(csv))
    pool = property_of(federation, federation.untrained, "class1")
    shadow = shadow_federation(federation, pool, np.random.default_rng(0))
    assert shadow.train.offsets.tolist() == federation.train.offsets.tolist()
    assert set(shadow.train.row) <= set(federation.untrained.row)
    shares = [np.mean(own) for own in np.split(shadow.train.y, shadow.train.offsets[1:-1])]
    assert min(shares) < 0.3
    assert max(shares) > 0.7


def test_an_update_is_what_training_has_changed_by_a_step(csv):
    plan, federation = plan_of(run_spec(csv, "fedavg", rounds=1))
    sent, steps = Sent(plan.job), plan.job.steps(0)
    after = train_run(plan, federation, overheard=sent.message).parameters
    sizes, names = np.array(plan.job.sizes), sorted(after)
    before = plan.job.network.initial_parameters(plan.job.seed)
    moved = np.concatenate([(after[n] - before[n]).numpy().ravel() for n in names])
    assert (sizes / sizes.sum()) @ sent.features(CLINICS) * steps == pytest.approx(moved, abs=1e-6)


def test_rows_are_kept_by_their_mean(csv):
    plan, federation = plan_of(run_spec(csv, "splitfed-v1", "vanilla", model={"freeze": ["head"]}, rounds=2))
    sent = Sent(plan.job)
    train_run(plan, federation, overheard=sent.message)
    weight, bias = plan.job.part("head").select(plan.job.network.initial_parameters(plan.job.seed)).values()
    own = slice(0, int(federation.train.offsets[1]))
    x, y = torch.tensor(federation.train.x[own]), federation.train.y[own]
    rows = torch.relu(x @ weight[0].T + bias[0]).mean(0).numpy()
    expected = np.concatenate([[np.mean(y == 0), np.mean(y == 1)], rows])
    assert sent.features(CLINICS)[0, -len(expected) :] == pytest.approx(expected, abs=1e-5)


def test_long_arrays_keep_their_products_on_average():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(2, 50_000)) + 0.5
    own, other = (sketched(each) for each in values)
    assert len(own) == WIDEST
    assert own @ other == pytest.approx(values[0] @ values[1], rel=0.15)
    assert np.array_equal(sketched(values[0, :WIDEST]), values[0, :WIDEST])


def test_intervals_over_clinics_are_scipys():
    rng = np.random.default_rng(3)
    truth = rng.uniform(size=8)
    guessed = truth + 0.2 * rng.normal(size=8)
    error, correlation, *_ = scored(guessed, truth, 0.5, list("abcdefgh"))
    errors = np.abs(guessed - truth)
    expected = stats.ttest_1samp(errors, 0).confidence_interval()
    assert (error.low, error.high) == pytest.approx((max(0, expected.low), expected.high))
    assert error.chance == pytest.approx(np.mean(np.abs(truth - 0.5)))
    reference = stats.pearsonr(guessed, truth)
    assert correlation.value == pytest.approx(reference.statistic)
    assert (correlation.low, correlation.high) == pytest.approx(tuple(reference.confidence_interval()), rel=1e-6)
