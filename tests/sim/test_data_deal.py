"""Dealing records out to clinics."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_data import in_any_order, problems

from sim.data.deal import apportion, deal, shifted
from sim.data.federation import load_federation
from sim.foundation.problems import ScenarioError
from sim.foundation.rng import stream
from sim.scenario.data import HeartDisease

SPLITS = {
    "iid": {},
    "quantity": {"alpha": 0.7},
    "dirichlet": {"alpha": 0.7},
    "pathological": {"classes_per_clinic": 2},
    "feature-shift": {"shift": 0.5},
}


def spec(split, clinics, **keys):
    return HeartDisease(split=split, clinics=clinics, **(SPLITS[split] | keys))


def labels(counts):
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))


def table(clinic, y, clinics):
    """Count records, ``[clinic, class]``."""
    counts = np.zeros((clinics, y.max() + 1), dtype=int)
    np.add.at(counts, (clinic, y), 1)
    return counts


COUNTS = st.lists(st.integers(0, 60), min_size=1, max_size=6).filter(any)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=30), st.integers(0, 10**6), st.integers(0, 3))
def test_apportion_is_whole_complete_and_close(weights, extra, least):
    assume(sum(weights) > 0)
    weights = np.array(weights)
    total = extra + least * len(weights)
    parts = apportion(weights, total, least)
    assert parts.sum() == total
    assert (np.abs(parts - least - extra * (weights / weights.sum())) < 1 + 1e-6).all()


def test_apportion_by_hand():
    assert apportion(np.array([1, 1, 1]), 5).tolist() == [2, 2, 1]
    assert apportion(np.array([5, 3, 2]), 9).tolist() == [4, 3, 2]  # 4.5, 2.7, 1.8
    assert apportion(np.array([1.0, 0.0, 0.0]), 10, least=2).tolist() == [6, 2, 2]


@settings(deadline=None)
@given(st.sampled_from(list(SPLITS)), COUNTS, st.integers(1, 12), st.integers(0, 2**40), st.floats(1e-6, 1e6))
def test_every_split_is_a_partition_with_two_records_a_clinic(split, counts, clinics, seed, alpha):
    y = labels(counts)
    keys = {"alpha": alpha} if "alpha" in SPLITS[split] else {}
    try:
        clinic = deal(spec(split, clinics, **keys), y, seed)
    except ScenarioError:
        assume(False)
    assert clinic.shape == y.shape  # disjoint and complete: one clinic each
    assert set(clinic.tolist()) == set(range(clinics))
    assert table(clinic, y, clinics).sum(axis=0).tolist() == np.bincount(y).tolist()
    assert np.bincount(clinic).min() >= 2
    assert np.array_equal(clinic, deal(spec(split, clinics, **keys), y, seed))


@settings(deadline=None)
@given(st.sampled_from(list(SPLITS)), COUNTS, COUNTS, st.integers(1, 8), st.integers(0, 2**40))
def test_given_held_out_records_follow_the_law_of_the_training_records(split, counts, held, clinics, seed):
    y = np.concatenate([labels(counts), labels(held)])
    held_out = np.arange(len(y)) >= sum(counts)
    try:
        clinic = deal(spec(split, clinics), y, seed, held_out)
    except ScenarioError:
        assume(False)
    assert np.array_equal(clinic[~held_out], deal(spec(split, clinics), y[~held_out], seed))
    classes = max(len(counts), len(held))
    train, test = (
        np.stack([np.bincount(y[own & (clinic == k)], minlength=classes) for k in range(clinics)])
        for own in (~held_out, held_out)
    )
    if split in ("dirichlet", "pathological"):
        seen = train.sum(axis=0) > 0
        share = train[:, seen] / train[:, seen].sum(axis=0)
        assert (np.abs(test[:, seen] - share * test[:, seen].sum(axis=0)) < 1).all()
    else:
        share = train.sum(axis=1) / train.sum()
        assert (np.abs(test.sum(axis=1) - share * test.sum()) < 1).all()


@pytest.mark.parametrize("split", ["iid", "feature-shift", "dirichlet"])
def test_equal_sizes(split):
    sizes = np.bincount(deal(spec(split, 7), labels([50, 31, 19]), seed=1))
    assert sizes.max() - sizes.min() <= 1


def test_iid_shares_are_those_of_a_hypergeometric_draw():
    y = labels([700, 300])
    ill = np.array([table(deal(spec("iid", 10), y, seed), y, 10)[:, 1] for seed in range(200)])
    assert ill.mean() == pytest.approx(30)
    assert ill.var() == pytest.approx(100 * 0.3 * 0.7 * 900 / 999, rel=0.1)


def test_large_alpha_tends_to_the_shares_of_all_records():
    counts = np.array([7000, 2500, 500])
    clinic = deal(spec("dirichlet", 20, alpha=1e6), y := labels(counts), seed=4)
    assert np.abs(table(clinic, y, 20) - counts / 20).max() <= 1
    sizes = np.bincount(deal(spec("quantity", 20, alpha=1e6), y, seed=4))
    assert np.abs(sizes - 500).max() <= 1


def test_small_alpha_tends_to_one_class_a_clinic():
    counts = table(deal(spec("dirichlet", 20, alpha=1e-6), y := labels([500, 500]), seed=4), y, 20)
    assert ((counts > 0).sum(axis=1) == 1).all()
    sizes = np.bincount(deal(spec("quantity", 20, alpha=1e-6), y, seed=4))
    assert sorted(sizes.tolist())[-2:] == [2, 1000 - 2 * 19]


def test_dirichlet_shares_have_the_distributions_mean_and_variance_at_every_place_in_the_order():
    y = labels([700, 300])
    shares = []
    for seed in range(400):
        counts = table(deal(spec("dirichlet", 10, alpha=1.0), y, seed), y, 10)
        shares.append(counts[stream(seed, "deal").permutation(10), 1] / 100)
    mean, variance = np.mean(shares, axis=0), np.var(shares, axis=0)
    assert np.abs(mean - 0.3).max() < 0.07  # 4 standard errors
    assert np.abs(variance - 0.3 * 0.7 / 2).max() < 0.03


def test_quantity_shares_have_the_distributions_variance():
    y = labels([20_000])
    sizes = np.array([np.bincount(deal(spec("quantity", 10, alpha=2.0), y, seed)) for seed in range(300)]) / 20_000
    assert sizes.mean() == pytest.approx(0.1)
    assert sizes.var() == pytest.approx(0.1 * 0.9 / 21, rel=0.15)


@settings(deadline=None)
@given(COUNTS, st.integers(1, 30), st.integers(1, 5), st.integers(0, 2**40))
def test_pathological_clinics_have_exactly_so_many_classes(counts, clinics, own, seed):
    y = labels(counts)
    try:
        clinic = deal(spec("pathological", clinics, classes_per_clinic=own), y, seed)
    except ScenarioError:
        assume(False)
    assert ((table(clinic, y, clinics) > 0).sum(axis=1) == own).all()


def test_pathological_with_equal_classes_is_mcmahans_shards():
    counts = table(deal(spec("pathological", 50, classes_per_clinic=2), y := labels([60] * 10), seed=0), y, 50)
    assert set(counts[counts > 0].tolist()) == {6}  # 100 shards of 6 records, 2 a clinic
    pairs = {tuple(np.flatnonzero(row)) for row in counts}
    assert len(pairs) > 10


def test_pathological_shards_are_of_nearly_equal_size_though_classes_are_not():
    counts = table(deal(spec("pathological", 10, classes_per_clinic=1), y := labels([900, 100]), seed=0), y, 10)
    assert sorted(counts.sum(axis=1).tolist()) == [100] * 10


def test_the_seed_decides_which_records_and_how_many():
    y = labels([300, 100])
    for split in SPLITS:
        assert not np.array_equal(deal(spec(split, 5), y, 0), deal(spec(split, 5), y, 1))
    first, second = (table(deal(spec("dirichlet", 5), y, seed), y, 5).tolist() for seed in (0, 1))
    assert first != second


# --- whole federations


def test_heart_can_be_dealt_out_anew():
    natural = load_federation(HeartDisease(), seed=0)
    for split in SPLITS:
        federation = load_federation(spec(split, 6), seed=0)
        assert federation.names == tuple(f"clinic-{k + 1}" for k in range(6))
        assert len(federation.train.y) + len(federation.test.y) == 740
        if split != "feature-shift":
            assert in_any_order(np.r_[federation.train.x, federation.test.x]) == in_any_order(
                np.r_[natural.train.x, natural.test.x]
            )


def test_sites_choose_the_records_that_are_dealt():
    federation = load_federation(spec("iid", 3, sites=("va", "cleveland")), seed=0)
    assert len(federation.train.y) + len(federation.test.y) == 130 + 303


def test_flambys_held_out_records_stay_held_out_when_dealt():
    natural = load_federation(HeartDisease(held_out="flamby"), seed=0)
    federation = load_federation(spec("quantity", 5, alpha=5.0, held_out="flamby"), seed=0)
    assert len(federation.test.y) == 254
    assert in_any_order(federation.test.x) == in_any_order(natural.test.x)


def test_feature_shift_is_one_affine_map_a_clinic():
    plain = load_federation(spec("iid", 4), seed=3)
    federation = load_federation(spec("feature-shift", 4, shift=0.3), seed=3)
    scales = []
    for clinic in range(4):
        parts = [(plain.train, federation.train), (plain.test, federation.test)]
        before, after = (
            np.concatenate(
                [pair[side].x[pair[side].offsets[clinic] : pair[side].offsets[clinic + 1]] for pair in parts]
            )
            for side in (0, 1)
        )
        age = np.polyfit(before[:, 0], after[:, 0], 1)
        np.testing.assert_allclose(np.polyval(age, before[:, 0]), after[:, 0], atol=1e-5)
        scales.append(age[0])
    assert len(set(np.round(scales, 4))) == 4


def test_feature_shift_has_the_stated_size():
    x = np.ones((4000, 3, 2, 2), dtype=np.float32)
    moved = shifted(np.concatenate([x, 0 * x]), np.arange(8001), 0.2, seed=0)  # clinics of one image each
    assert moved.dtype == np.float32
    assert (moved == moved[:, :, :1, :1]).all()  # a channel moves as one
    assert moved[4000:].std() == pytest.approx(0.2, rel=0.03)
    assert np.log(shifted(100 * x, np.arange(4001), 0.2, seed=1) / 100).std() == pytest.approx(0.2, rel=0.03)


# --- problems


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            spec("iid", 500),
            "clinics: 500 are too many for 740 records (or patients) to deal out; two are needed for each clinic",
        ),
        (
            spec("pathological", 5, classes_per_clinic=3),
            "classes-per-clinic: 3 is more than the 2 classes that there are; take at most 2",
        ),
        (
            spec("pathological", 1, classes_per_clinic=1),
            "classes-per-clinic: 1 at each of 1 is fewer than the 2 classes that must stand somewhere; "
            "take more, or more data.clinics",
        ),
        (
            spec("pathological", 350, classes_per_clinic=2),
            "classes-per-clinic: the records of some class are too few to give 350 clinics 2 classes each; "
            "take fewer, or fewer data.clinics",
        ),
        (
            spec("dirichlet", 20, alpha=0.001, one_class="refuse"),
            "split: 19 clinics have records of one class only "
            '("clinic-1", "clinic-2", "clinic-3", "clinic-4", "clinic-5" and others); '
            'take fewer data.clinics, or a milder split, or set data.one-class = "keep"',
        ),
    ],
)
def test_each_fault_is_exactly_one_line(data, expected):
    assert problems(data) == [f"scenario: data.{expected}"]


def test_as_many_clinics_as_the_records_allow():
    federation = load_federation(spec("iid", 370), seed=0)
    assert set(np.diff(federation.train.offsets)) == set(np.diff(federation.test.offsets)) == {1}
