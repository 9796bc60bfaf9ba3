import csv
import hashlib
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
from sim.data import heart, load_federation
from sim.data.split import hold_out
from sim.problems import ScenarioError
from sim.rng import stream
from sim.scenario import Csv, HeartDisease

HEART_FILE = Path(sim.data.__file__).with_name("heart_disease_4centres.csv")


def both(federation, clinic):
    """Return the features, and last the class, of one clinic's training and held-out records."""
    parts = (federation.train, federation.test)
    own = [slice(part.offsets[clinic], part.offsets[clinic + 1]) for part in parts]
    return np.concatenate([np.c_[part.x[rows], part.y[rows]] for part, rows in zip(parts, own, strict=True)])


def in_any_order(rows):
    return sorted(map(tuple, np.asarray(rows, dtype=np.float64).round(4)))


@pytest.fixture(scope="module")
def flamby():
    """FLamby's preparation, by other means: 13 features, the class, and the centre."""
    frame = pd.read_csv(HEART_FILE).drop(columns=["slope", "ca", "thal"]).dropna()
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
    # floor(0.34 n + 1/2) of each class: 164 and 139, 163 and 98, 1 and 45, 29 and 101 records
    assert np.diff(federation.test.offsets).tolist() == [56 + 47, 55 + 33, 0 + 15, 10 + 34]
    positives = [
        federation.test.y[a:b].sum() for a, b in zip(*(federation.test.offsets[i:] for i in (0, 1)), strict=False)
    ]
    assert positives == [47, 33, 15, 34]
    assert federation.train.y.sum() + federation.test.y.sum() == 139 + 98 + 45 + 101


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
        expected[column] = (expected[column] - middle) / half
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
    federation = load_federation(HeartDisease(scaling="per-clinic"), seed=5)
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
    assert len(federation.statistics) == 13


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
    altered = tmp_path / "heart_disease_4centres.csv"
    altered.write_bytes(HEART_FILE.read_bytes().replace(b"63", b"64", 1))
    monkeypatch.setattr(heart, "_FILE", altered)
    heart._parsed.cache_clear()
    expected = "scenario: data.source: heart_disease_4centres.csv is absent or altered; install Suture again"
    assert problems(HeartDisease()) == [expected]
    altered.unlink()
    assert problems(HeartDisease()) == [expected]


def test_data_card_states_the_file_and_the_constants():
    card = HEART_FILE.with_name("heart_disease.md").read_text(encoding="utf-8")
    assert hashlib.sha256(HEART_FILE.read_bytes()).hexdigest() in card
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


# --- the user's own table


def table_spec(path, **keys):
    defaults = {
        "label": "ill",
        "clinic": "site",
        "features": ("age", "bmi"),
        "ranges": {"age": [0, 100], "bmi": [10, 60]},
    }
    return Csv.model_validate({"source": "csv", "path": path, **defaults, **keys})


GOOD = [
    # site, ill, age, bmi
    *[("lyon", ill, 10 * row, 20 + row) for row, ill in enumerate((0, 1, 0, 1, 0, 1))],
    *[("bern", ill, 5 * row, 30 + row) for row, ill in enumerate((1, 0, 1, 0))],
]


@pytest.fixture
def write(tmp_path):
    def write(rows=GOOD, header=("site", "ill", "age", "bmi")):
        path = tmp_path / "patients.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])
        return path

    return write


def changed(*changes):
    rows = [list(row) for row in GOOD]
    for row, column, value in changes:
        rows[row][column] = value
    return rows


def problems(spec):
    with pytest.raises(ScenarioError) as caught:
        load_federation(spec, seed=0)
    return list(caught.value.problems)


def test_csv_is_sorted_by_clinic_and_scaled_by_the_stated_ranges(write):
    federation = load_federation(table_spec(write()), seed=0)
    assert (federation.names, federation.features, federation.classes) == (("bern", "lyon"), ("age", "bmi"), ("0", "1"))
    assert np.diff(federation.test.offsets).tolist() == [2, 2]
    bern = [((5 * row - 50) / 50, (30 + row - 35) / 25, (row + 1) % 2) for row in range(4)]
    lyon = [((10 * row - 50) / 50, (20 + row - 35) / 25, row % 2) for row in range(6)]
    assert in_any_order(both(federation, 0)) == in_any_order(bern)
    assert in_any_order(both(federation, 1)) == in_any_order(lyon)
    for part in (federation.train, federation.test):  # file order: age rises within a clinic
        for start, stop in zip(part.offsets[:-1], part.offsets[1:], strict=True):
            assert (np.diff(part.x[start:stop, 0]) > 0).all()


def test_csv_without_scaling_and_per_clinic(write):
    raw = load_federation(table_spec(write(), scaling="none", ranges={}), seed=0)
    assert in_any_order(both(raw, 1)) == in_any_order([(10 * row, 20 + row, row % 2) for row in range(6)])
    assert raw.statistics == {}
    scaled = load_federation(table_spec(write(), scaling="per-clinic", ranges={}), seed=0)
    own = raw.train.x[: raw.train.offsets[1]]
    np.testing.assert_allclose(
        scaled.train.x[: raw.train.offsets[1]], (own - own.mean(0)) / own.std(0, ddof=1), rtol=1e-5
    )
    assert set(scaled.statistics.values()) == {"non-private"}


def test_csv_missing_values_take_the_constant_or_drop_the_column(write):
    path = write(changed((0, 3, ""), (7, 3, "NA"), (2, 2, "")))
    spec = table_spec(path, scaling="none", missing={"bmi": 99, "age": "drop"})
    federation = load_federation(spec, seed=0)
    assert federation.features == ("bmi",)
    assert in_any_order(both(federation, 0)) == [(30, 1), (32, 1), (33, 0), (99, 0)]
    assert in_any_order(both(federation, 1)) == [(21, 1), (22, 0), (23, 1), (24, 0), (25, 1), (99, 0)]
    assert federation.statistics == {"constant for missing bmi": "public"}


def test_csv_classes_are_whole_numbers_in_their_order_or_words_in_theirs(write):
    numbers = load_federation(table_spec(write(changed((0, 1, 10), (2, 1, 10), (4, 1, "2.0"), (5, 1, 2)))), seed=0)
    assert numbers.classes == ("0", "1", "2", "10")
    words = load_federation(table_spec(write([(s, ("no", "yes")[y], a, b) for s, y, a, b in GOOD])), seed=0)
    assert words.classes == ("no", "yes")


def test_csv_a_changed_file_is_read_again(write):
    before = load_federation(table_spec(write()), seed=0)
    after = load_federation(table_spec(write([*GOOD, ("bern", 1, 7, 7)])), seed=0)
    assert len(after.train.y) + len(after.test.y) == len(before.train.y) + len(before.test.y) + 1


def test_csv_only_the_used_sites_must_be_sound(write):
    path = write([*changed((0, 2, "x"), (1, 3, ""), (2, 1, "")), ("oslo", 1, "", "inf")])
    assert load_federation(table_spec(path, sites=("bern",)), seed=0).names == ("bern",)


def test_csv_one_class_can_be_kept(write):
    path = write([("oslo", 1, 1, 1), ("oslo", 1, 2, 2)])
    federation = load_federation(table_spec(path, one_class="keep"), seed=0)
    assert (federation.classes, len(federation.train.y), len(federation.test.y)) == (("1",), 1, 1)


LEAVE_OUT = "leave it out of data.sites"


@pytest.mark.parametrize(
    ("rows", "keys", "expected"),
    [
        (GOOD, {"label": "il"}, 'data.label: there is no column "il"; did you mean "ill"?'),
        (GOOD, {"clinic": "Site"}, 'data.clinic: there is no column "Site"; did you mean "site"?'),
        (
            GOOD,
            {"features": ("agee", "bmi"), "ranges": {"agee": (0, 1), "bmi": (0, 1)}},
            'data.features: there is no column "agee"; did you mean "age"?',
        ),
        (
            changed((3, 2, "secret"), (4, 2, "secret")),
            {},
            'data.features: column "age" has no number in row 5; correct it, or take the column out',
        ),
        (
            changed((3, 2, "")),
            {},
            'data.missing: column "age" has a missing value in row 5; '
            'state a public constant as data.missing."age", or "drop" the column there',
        ),
        (
            changed((3, 2, ""), (8, 2, "NaN")),
            {},
            'data.missing: column "age" has 2 missing values, the first in row 5; '
            'state a public constant as data.missing."age", or "drop" the column there',
        ),
        (changed((1, 1, "")), {}, 'data.label: column "ill" has a missing value in row 3; fill in or remove'),
        (
            changed((1, 0, " "), (2, 0, "")),
            {},
            'data.clinic: column "site" has 2 missing values, the first in row 3; fill in or remove',
        ),
        (
            changed(*[(row, 3, "") for row in range(10)]),
            {"missing": {"bmi": 25}},
            'data.features: column "bmi" has no value at all; take the column out',
        ),
        (
            changed((2, 3, "-inf")),
            {},
            'data.features: column "bmi" has an infinite or too large value in row 4; correct it',
        ),
        (
            changed((2, 3, "1e39")),
            {},
            'data.features: column "bmi" has an infinite or too large value in row 4; correct it',
        ),
        (
            changed((0, 1, 0.5)),
            {},
            'data.label: column "ill" holds numbers that are not whole; give a column of classes',
        ),
        (GOOD, {"sites": ("lyons", "bern")}, 'data.sites: unknown site "lyons"; did you mean "lyon"?'),
        (GOOD, {"sites": ("paris",)}, 'data.sites: unknown site "paris"; choose "bern" or "lyon"'),
        (
            [*GOOD, ("oslo", 1, 1, 1)],
            {},
            f'data: clinic "oslo" has 1 record, too few to train and to test; {LEAVE_OUT}',
        ),
        (
            [*GOOD, ("oslo", 1, 1, 1), ("oslo", 1, 2, 2)],
            {},
            f'data: clinic "oslo" has records of one class only; {LEAVE_OUT}, or set data.one-class = "keep"',
        ),
        (
            [*GOOD, ("oslo", 1, 1, 1), ("oslo", 0, 2, 2)],
            {},
            f'data: clinic "oslo" has no two records of the same class, so none can be held out; {LEAVE_OUT}, '
            'or set data.one-class = "keep"',
        ),
        (
            GOOD,
            {"ranges": {}},
            'data.ranges: no public range is stated for "age", "bmi"; '
            'state [lowest, highest] for each, or set data.scaling to "none" or "per-clinic"',
        ),
        (
            GOOD,
            {"missing": {"bmii": 1}},
            'data.missing: "bmii" is not one of the features; did you mean "bmi"?',
        ),
        (
            GOOD,
            {"ranges": {"age": (0, 1), "bmi": (0, 1), "ag": (0, 1)}},
            'data.ranges: "ag" is not one of the features; did you mean "age"?',
        ),
        (
            GOOD,
            {"missing": {"age": "drop", "bmi": "drop"}},
            "data.missing: every feature is dropped; keep at least one",
        ),
    ],
)
def test_csv_each_fault_is_exactly_one_line(write, rows, keys, expected):
    assert problems(table_spec(write(rows), **keys)) == [f"scenario: {expected}"]


def test_csv_all_faults_are_reported_at_once(write):
    path = write([*changed((0, 2, "x"), (1, 3, "")), ("oslo", 1, 1, 1), ("rome", 1, 1, 1), ("rome", 1, 1, 1)])
    places = [line.split(": ")[1] for line in problems(table_spec(path, ranges={"age": (0, 1)}))]
    assert places == ["data.ranges", "data.features", "data.missing", "data", "data"]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is empty; give a header and one row a record"),
        (b"site,ill,age,bmi\n", "has no rows; give one row a record"),
        (b"site,ill,age,bmi\na,1,2,3\na,1,2,3,4\n", "has rows longer than its header, or unclosed quotes; "),
        (b"site,ill,age,bmi\na,1,2,3,4\na,1,2,3,4\n", "has rows longer than its header, or unclosed quotes; "),
        (b'site,ill,age,bmi\n"a,1,2,3\n', "has rows longer than its header, or unclosed quotes; "),
        (b"site,ill,age,bmi\n\xff,1,2,3\n", "is not UTF-8 text; save it as UTF-8"),
    ],
)
def test_csv_unreadable_file_is_one_line(tmp_path, content, fault):
    path = tmp_path / "patients.csv"
    path.write_bytes(content)
    [line] = problems(table_spec(path))
    assert line.startswith(f"scenario: data.path: {path} {fault}")


def test_csv_missing_file_is_one_line(tmp_path):
    path = tmp_path / "no.csv"
    assert problems(table_spec(path)) == [f"scenario: data.path: {path} does not exist; check the path"]


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
