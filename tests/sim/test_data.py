import hashlib
import io
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import sim.data
from sim.data import heart
from sim.data.federation import load_federation
from sim.data.split import hold_out
from sim.foundation.problems import ScenarioError
from sim.foundation.rng import stream
from sim.scenario.data import HeartDisease

HEART_FILE = Path(sim.data.__file__).with_name("heart_disease_4centres.json")
HEART_CSV = "".join(f"{line}\n" for line in json.loads(HEART_FILE.read_text()))


def both(federation, clinic):
    """Return the features, and last the class, of one clinic's training and held-out records."""
    parts = (federation.train, federation.test)
    own = [slice(part.offsets[clinic], part.offsets[clinic + 1]) for part in parts]
    return np.concatenate([np.c_[part.x[rows], part.y[rows]] for part, rows in zip(parts, own, strict=True)])


def in_any_order(rows):
    return sorted(map(tuple, np.asarray(rows, dtype=np.float64).round(4)))


def problems(spec, seed=0):
    with pytest.raises(ScenarioError) as caught:
        load_federation(spec, seed)
    return list(caught.value.problems)


@pytest.fixture(scope="module")
def flamby():
    """FLamby's preparation, by other means: 13 features, the class, and the centre."""
    frame = pd.read_csv(io.StringIO(HEART_CSV)).drop(columns=["slope", "ca", "thal"]).dropna()
    frame = pd.get_dummies(frame, columns=["cp", "restecg"], drop_first=True, dtype=float)
    y = (frame.pop("num") > 0).astype(int)
    centre = frame.pop("centre")
    return frame, y, centre


# --- heart disease


def test_heart_has_the_published_counts():
    federation = load_federation(HeartDisease(), seed=0)
    assert federation.names == ("cleveland", "hungarian", "switzerland", "va")
    totals = np.diff(federation.train.offsets) + np.diff(federation.test.offsets)
    assert totals.tolist() == [303, 261, 46, 130]
    assert totals.sum() == len(federation.train.y) + len(federation.test.y) == 740
    assert np.diff(federation.test.offsets).tolist() == [103, 89, 16, 44]  # floor(0.34 n + 1/2)
    assert federation.train.y.sum() + federation.test.y.sum() == 139 + 98 + 45 + 101


def test_heart_by_class_has_the_published_counts():
    federation = load_federation(HeartDisease(stratified=True), seed=0)
    # floor(0.34 n + 1/2) of each class: 164 and 139, 163 and 98, 1 and 45, 29 and 101 records
    assert np.diff(federation.test.offsets).tolist() == [56 + 47, 55 + 33, 0 + 15, 10 + 34]
    positives = [
        federation.test.y[a:b].sum() for a, b in zip(*(federation.test.offsets[i:] for i in (0, 1)), strict=False)
    ]
    assert positives == [47, 33, 15, 34]


def test_heart_public_scaling_maps_the_stated_ranges(flamby):
    frame, y, centre = flamby
    federation = load_federation(HeartDisease(), seed=0)
    expected = frame.copy()
    expected["chol"] = expected["chol"].replace(0, 213)
    for column, middle, half in (
        ("age", 55, 35),
        ("trestbps", 140, 60),
        ("chol", 250, 150),
        ("thalach", 135, 75),
        ("oldpeak", 2.5, 2.5),
    ):
        expected[column] = ((expected[column] - middle) / half).clip(-1, 1)
    assert [name.removesuffix(".0") for name in frame.columns] == list(federation.features)
    for clinic, name in enumerate(federation.names):
        assert in_any_order(both(federation, clinic)) == in_any_order(expected.assign(y=y)[centre == name])
    assert set(federation.statistics.values()) == {"public"}
    assert set(federation.statistics) == {"constant for missing chol"} | {
        f"range of {column}" for column in ("age", "trestbps", "chol", "thalach", "oldpeak")
    }


def test_heart_public_scaling_uses_nothing_of_the_other_records():
    alone = load_federation(HeartDisease(sites=("cleveland",)), seed=0)
    among = load_federation(HeartDisease(), seed=0)
    assert np.array_equal(alone.train.x, among.train.x[: alone.train.offsets[1]])


def test_heart_per_clinic_scaling_is_flambys(flamby):
    frame, y, centre = flamby
    federation = load_federation(HeartDisease(scaling="per-clinic", stratified=True), seed=5)
    offsets = np.array([0, 303, 564, 610, 740])
    held_out = hold_out(y.to_numpy(), offsets, 0.34, seed=5)
    for clinic, name in enumerate(federation.names):
        raw = frame[centre == name].to_numpy()
        test = held_out[offsets[clinic] : offsets[clinic + 1]]
        scaler = StandardScaler().fit(raw[~test])
        n = np.count_nonzero(~test)
        expected = scaler.transform(raw) * np.sqrt((n - 1) / n)  # torch's deviation divides by n - 1
        expected[:, scaler.var_ == 0] *= np.sqrt(n / (n - 1))
        for part, mask in ((federation.train, ~test), (federation.test, test)):
            own = part.x[part.offsets[clinic] : part.offsets[clinic + 1]]
            np.testing.assert_allclose(own, expected[mask], rtol=1e-5, atol=1e-5)
    assert set(federation.statistics.values()) == {"non-private"}
    assert len(federation.statistics) == 13 + 1


def test_heart_constant_column_of_a_clinic_becomes_zero_and_not_infinite():
    federation = load_federation(HeartDisease(scaling="per-clinic"), seed=0)
    chol = federation.features.index("chol")  # never measured in switzerland
    assert np.array_equal(both(federation, 2)[:, chol], np.zeros(46))
    assert np.isfinite(federation.train.x).all()
    assert np.isfinite(federation.test.x).all()


def test_heart_only_some_sites_in_file_order():
    federation = load_federation(HeartDisease(sites=("va", "hungarian")), seed=0)
    assert federation.names == ("hungarian", "va")
    assert (np.diff(federation.train.offsets) + np.diff(federation.test.offsets)).tolist() == [261, 130]


def test_heart_unknown_site():
    assert problems(HeartDisease(sites=("clevland", "va"))) == [
        'scenario: data.sites: unknown site "clevland"; did you mean "cleveland"?'
    ]


def test_heart_altered_file_is_refused(tmp_path, monkeypatch):
    altered = tmp_path / "heart_disease_4centres.json"
    altered.write_bytes(HEART_FILE.read_bytes().replace(b"63", b"64", 1))
    monkeypatch.setattr(heart, "_FILE", altered)
    heart._parsed.cache_clear()
    expected = "scenario: data.source: heart_disease_4centres.json is absent or altered; install Suture again"
    assert problems(HeartDisease()) == [expected]
    altered.unlink()
    assert problems(HeartDisease()) == [expected]


def test_data_card_states_the_file_and_the_constants():
    card = HEART_FILE.with_name("heart_disease.md").read_text(encoding="utf-8")
    assert hashlib.sha256(HEART_CSV.encode()).hexdigest() in card
    for low, high in heart.RANGES.values():
        assert f"{low:g} to {high:g}" in card
    assert f"{heart.CHOL_POPULATION_MEAN:g} mg/dl" in card


def test_arrays_cannot_be_written_to_and_have_the_stated_types():
    federation = load_federation(HeartDisease(), seed=0)
    for part in (federation.train, federation.test):
        assert (part.x.dtype, part.y.dtype, part.offsets.dtype) == (np.float32, np.int64, np.int64)
        for array in (part.x, part.y, part.offsets):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0


def test_loading_twice_gives_the_same_and_another_seed_another_split():
    first, again, other = (load_federation(HeartDisease(), seed) for seed in (0, 0, 1))
    assert np.array_equal(first.train.x, again.train.x)
    assert not np.array_equal(first.train.x, other.train.x)
    assert np.array_equal(first.train.offsets, other.train.offsets)
    assert in_any_order(both(first, 0)) == in_any_order(both(other, 0))


# --- split


def test_split_by_hand():
    y = np.array([0, 0, 1, 0, 0, 1, 1, 0, 1, 1, 1])
    offsets = np.array([0, 7, 11])
    held_out = hold_out(y, offsets, 0.4, seed=7)
    expected = np.zeros(11, dtype=bool)
    # clinic 0 has four of class 0 and three of class 1: floor(1.6 + .5) = 2 and floor(1.2 + .5) = 1
    expected[stream(7, "split", clinic=0, step=0).permutation([0, 1, 3, 4])[:2]] = True
    expected[stream(7, "split", clinic=0, step=1).permutation([2, 5, 6])[:1]] = True
    # clinic 1 has one of class 0, which stays, and three of class 1
    expected[stream(7, "split", clinic=1, step=1).permutation([8, 9, 10])[:1]] = True
    assert held_out.tolist() == expected.tolist()


def test_split_holds_out_one_of_the_largest_class_if_nothing_else():
    held_out = hold_out(np.array([0, 0, 1, 1, 1, 2]), np.array([0, 6]), 0.1, seed=0)
    assert held_out[2:5].sum() == held_out.sum() == 1


def test_split_keeps_one_of_each_class_for_training():
    held_out = hold_out(np.array([0, 1, 1, 1]), np.array([0, 4]), 0.99, seed=0)
    assert not held_out[0]
    assert held_out.sum() == 2


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=40), min_size=1, max_size=5),
    st.floats(0.01, 0.99),
    st.integers(0, 2**63 - 1),
)
def test_split_invariants(clinics, share, seed):
    y = np.concatenate([np.array(labels) for labels in clinics])
    offsets = np.concatenate([[0], np.cumsum([len(labels) for labels in clinics])])
    held_out = hold_out(y, offsets, share, seed)
    reference = hold_out(y, offsets, share, 0)
    for clinic, labels in enumerate(clinics):
        own = slice(offsets[clinic], offsets[clinic + 1])
        for label in set(labels):
            n = labels.count(label)
            tested = int(held_out[own][y[own] == label].sum())
            assert tested == reference[own][y[own] == label].sum()  # counts do not depend on the seed
            assert tested < n  # every class can be trained
            assert abs(tested - share * n) <= 1  # stratified
        if max(map(labels.count, labels)) > 1:
            assert held_out[own].any()


@given(st.integers(0, 2**32))
def test_split_of_a_clinic_depends_on_no_other(seed):
    y = np.array([0, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0])
    first = hold_out(y, np.array([0, 6, 12]), 0.5, seed)[:6]
    assert np.array_equal(first, hold_out(y[:6], np.array([0, 6]), 0.5, seed))


def test_flambys_split_is_the_one_scikit_learn_draws():
    federation = load_federation(HeartDisease(held_out="flamby"), seed=5)
    source = heart.read(HeartDisease())
    for clinic, (start, stop) in enumerate(pairwise(np.searchsorted(source.clinic, range(5)))):
        own = source.y[start:stop]
        stratify = own if min(np.bincount(own)) > 2 else None
        _, test = train_test_split(
            np.arange(len(own)), test_size=0.34, train_size=0.66, random_state=43, shuffle=True, stratify=stratify
        )
        low, high = federation.test.offsets[clinic : clinic + 2]
        assert federation.test.y[low:high].tolist() == own[np.sort(test)].tolist()
        ages = federation.test.x[low:high, 0] * 35 + 55
        assert np.allclose(ages, source.x[start:stop][np.sort(test), 0])


def test_pooled_scaling_standardises_all_training_records_together():
    federation = load_federation(HeartDisease(scaling="pooled"), seed=0)
    assert np.allclose(federation.train.x.mean(0), 0, atol=1e-5)
    assert np.allclose(federation.train.x.std(0, ddof=1), 1, atol=1e-5)
    assert set(federation.statistics.values()) == {"non-private"}
