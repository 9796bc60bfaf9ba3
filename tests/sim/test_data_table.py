"""What a table of the user's own may hold: categories, missing values, patients, other formats."""

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import frame_of, spec
from test_data import in_any_order

from sim.data.federation import load_federation
from sim.scenario.data import Csv, Parquet


@pytest.fixture
def path(tmp_path):
    frame_of().to_csv(tmp_path / "p.csv", index=False)
    return tmp_path / "p.csv"


def records(federation):
    """Return the features, class and clinic of all records, training first."""
    parts = (federation.train, federation.validation, federation.test)
    clinic = [np.repeat(np.arange(len(federation.names)), np.diff(part.offsets)) for part in parts]
    return np.concatenate([np.c_[part.x, part.y, own] for part, own in zip(parts, clinic, strict=True)])


def expected(frame, features):
    y = np.array(["<30", ">30", "NO"]).searchsorted(frame["result"])
    clinic = np.array(["bern", "lyon"]).searchsorted(frame["site"])
    return in_any_order(np.c_[features.to_numpy(dtype=float), y, clinic])


# --- columns


def test_without_features_all_columns_but_the_roles_and_the_excluded_are_taken(path):
    federation = load_federation(spec(path), seed=0)
    frame = frame_of()
    features = pd.get_dummies(frame[["age", "bmi", "race"]], columns=["race"], dtype=float).fillna(0.0)
    assert federation.features == tuple(features.columns) == ("age", "bmi", "race_a", "race_b", "race_c")
    assert in_any_order(records(federation)) == expected(frame, features)
    assert federation.statistics == {
        "constant for missing age": "public",
        "constant for missing bmi": "public",
        "levels of race": "non-private",
    }


def test_stated_levels_are_public_and_others_are_zero_in_all(path):
    federation = load_federation(spec(path, levels={"race": ("c", "z", "a")}), seed=0)
    frame = frame_of()
    features = pd.DataFrame(
        {"age": frame["age"], "bmi": frame["bmi"].fillna(0)} | {level: frame["race"].eq(level) * 1.0 for level in "cza"}
    )
    assert federation.features == ("age", "bmi", "race_c", "race_z", "race_a")
    assert in_any_order(records(federation)) == expected(frame, features)
    assert federation.statistics["levels of race"] == "public"


def test_levels_found_are_those_of_the_sites_in_use(path):
    frame = frame_of()
    frame.loc[frame["site"] == "bern", "race"] = "only here"
    frame.to_csv(path, index=False)
    assert load_federation(spec(path, sites=("bern",)), seed=0).features[2:] == ("race_only here",)


def test_drop_for_all_leaves_out_the_columns_that_lack_a_value(path):
    federation = load_federation(spec(path, missing="drop"), seed=0)
    frame = frame_of()
    assert federation.features[0] == "age"
    assert "bmi" not in federation.features
    assert list(frame[["age", "bmi"]].dropna(axis=1)) == ["age"]
    assert federation.statistics["which columns are dropped for missing values"] == "non-private"


def test_positive_values_become_class_1_and_all_others_class_0(path):
    frame = frame_of()
    for positive, name in (("<30", "<30"), (("<30", ">30"), "<30 or >30")):
        federation = load_federation(spec(path, positive=positive), seed=0)
        assert federation.classes == (f"not {name}", name)
        y = np.concatenate([federation.train.y, federation.test.y])
        assert y.sum() == frame["result"].isin([positive] if isinstance(positive, str) else positive).sum()


def test_positive_numbers_may_be_written_in_either_way(path):
    frame_of().assign(result=lambda f: f["result"].map({"<30": 1.0, ">30": 2.0, "NO": 0.0})).to_csv(path, index=False)
    federation = load_federation(spec(path, positive=1), seed=0)
    assert federation.classes == ("not 1", "1")
    assert federation.train.y.sum() + federation.test.y.sum() == (frame_of()["result"] == "<30").sum()


def test_scaling_treats_levels_like_numbers(path):
    federation = load_federation(spec(path, scaling="pooled"), seed=0)
    np.testing.assert_allclose(federation.train.x.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(federation.train.x.std(0, ddof=1), 1, atol=1e-5)
    public = load_federation(spec(path, scaling="public", ranges={"age": (20, 90), "bmi": (10, 60)}), seed=0)
    assert set(np.unique(public.train.x[:, 2:])) == {0.0, 1.0}


# --- patients


def people(federation, frame):
    """Return the people on each side, known by the row number that is kept as a feature."""
    return [set(frame["person"].iloc[part.x[:, 0].astype(int)]) for part in (federation.train, federation.test)]


PATIENTS = {"exclude": ("age", "bmi", "race"), "categorical": (), "patient": "person"}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), share=st.floats(0.1, 0.8), validation=st.sampled_from([0.0, 0.3]))
def test_a_patient_is_never_on_two_sides(tmp_path_factory, seed, share, validation):
    frame = frame_of(120, seed=7)
    path = tmp_path_factory.getbasetemp() / "people.csv"
    if not path.exists():
        frame.to_csv(path, index=False)
    for keys in ({}, {"split": "dirichlet", "clinics": 4, "alpha": 2.0}, {"split": "iid", "clinics": 5}):
        federation = load_federation(
            spec(path, **PATIENTS, **keys, test_share=share, validation_share=validation), seed=seed
        )
        train, test = people(federation, frame)
        held = set(frame["person"].iloc[federation.validation.x[:, 0].astype(int)])
        assert not train & test
        assert not (train | test) & held
        rows = records(federation)
        assert sorted(rows[:, 0]) == list(range(120))
        if keys:  # whole patients move: all rows of a person are at one clinic
            clinics = pd.Series(rows[:, -1]).groupby(frame["person"].to_numpy()[rows[:, 0].astype(int)]).nunique()
            assert (clinics == 1).all()


@pytest.mark.parametrize("most", [1, 2])
def test_most_records_of_a_patient_keep_the_first_in_file_order(path, most):
    keys = PATIENTS | {"max_records_per_patient": most}
    rows = records(load_federation(spec(path, **keys), seed=0))
    assert sorted(rows[:, 0]) == frame_of().groupby("person").head(most)["id"].tolist()
    in_bern = records(load_federation(spec(path, **keys, sites=("bern",)), seed=0))
    own = frame_of().query("site == 'bern'").groupby("person").head(most)
    assert sorted(in_bern[:, 0]) == own["id"].tolist()


def test_patients_are_stratified_by_their_rarest_class(tmp_path):
    people = np.repeat(np.arange(40), 3)
    frame = pd.DataFrame({"site": "a", "who": people, "x": np.arange(120), "y": 0})
    frame.loc[frame["who"].between(0, 9) & (frame["x"] % 3 == 1), "y"] = 1  # 10 people with one ill row of three
    frame.to_csv(tmp_path / "p.csv", index=False)
    data = Csv(
        path=tmp_path / "p.csv",
        label="y",
        clinic="site",
        patient="who",
        scaling="none",
        test_share=0.3,
        stratified=True,
    )
    federation = load_federation(data, seed=3)
    assert federation.test.y.sum() == 3  # 0.3 of the 10 ill people, with one ill row each
    assert len(federation.test.y) == 3 * (3 + 9)


# --- formats


@pytest.mark.parametrize("suffix", ["xz", "gz", "bz2", "zip"])
def test_compressed_text_is_the_same_table(path, suffix):
    packed = path.with_suffix(f".csv.{suffix}")
    frame_of().to_csv(packed, index=False)
    assert np.array_equal(records(load_federation(spec(packed), 0)), records(load_federation(spec(path), 0)))


def test_parquet_is_the_same_table(path):
    frame = frame_of()
    frame["race"] = frame["race"].astype("category")
    frame["age"] = frame["age"].astype("Int64")
    frame.set_index("person").to_parquet(path.with_suffix(".parquet"))
    for keys in ({}, {"patient": "person", "exclude": ("id",)}):
        text = load_federation(spec(path, **keys), seed=0)
        federation = load_federation(spec(path.with_suffix(".parquet"), Parquet, **keys), seed=0)
        assert set(federation.features) == set(text.features)
        assert federation.classes == text.classes
        assert np.array_equal(records(federation), records(text))


def test_parquet_numbers_name_clinics_and_classes_without_a_decimal_point(tmp_path):
    frame = pd.DataFrame({"site": [1.0, 1, 1, 2, 2, 2], "y": [0, 1, 0, 1, 0, 1], "sex": [True, False] * 3})
    frame["dose"] = [Decimal("1.5")] * 6
    frame.to_parquet(tmp_path / "p.parquet")
    data = Parquet(path=tmp_path / "p.parquet", label="y", clinic="site", scaling="none")
    federation = load_federation(data, seed=0)
    assert (federation.names, federation.classes, federation.features) == (("1", "2"), ("0", "1"), ("sex", "dose"))
    assert set(federation.train.x.ravel()) == {0.0, 1.0, 1.5}


# --- validation records


def test_validation_records_come_from_the_training_records_and_leave_the_others_alone(path):
    without = load_federation(spec(path), seed=3)
    federation = load_federation(spec(path, validation_share=0.25), seed=3)
    assert np.array_equal(without.test.x, federation.test.x)
    assert not len(without.validation.y)
    assert without.validation.x.shape == (0, 5)
    assert in_any_order(np.r_[federation.train.x, federation.validation.x]) == in_any_order(without.train.x)
    before, held = np.diff(without.train.offsets), np.diff(federation.validation.offsets)
    assert held.tolist() == np.floor(0.25 * before + 0.5).tolist()
    by_class = load_federation(spec(path, validation_share=0.25, stratified=True), seed=3)
    without = load_federation(spec(path, stratified=True), seed=3)
    for clinic in range(2):
        before, held = (
            np.bincount(part.y[part.offsets[clinic] : part.offsets[clinic + 1]], minlength=3)
            for part in (without.train, by_class.validation)
        )
        assert held.tolist() == np.floor(0.25 * before + 0.5).tolist()


def test_per_clinic_scaling_does_not_see_validation_records(path):
    federation = load_federation(spec(path, scaling="per-clinic", validation_share=0.4), seed=0)
    for start, stop in zip(federation.train.offsets, federation.train.offsets[1:], strict=False):
        np.testing.assert_allclose(federation.train.x[start:stop].mean(0), 0, atol=1e-5)


# --- a network of small hospitals


def test_many_small_hospitals_load_without_special_care(tmp_path):
    rng = np.random.default_rng(5)
    sizes = rng.integers(2, 24, 186)
    n = sizes.sum()
    frame = pd.DataFrame(rng.normal(size=(n, 40)), columns=[f"lab{i}" for i in range(40)])
    frame = frame.mask(rng.random((n, 40)) < 0.4)
    frame.insert(0, "hospital", np.repeat([f"h{k:03}" for k in range(186)], sizes))
    frame["died"] = (rng.random(n) < 0.09).astype(int)
    frame.sample(frac=1, random_state=0).to_csv(tmp_path / "p.csv", index=False)
    for scaling in ("none", "per-clinic"):
        data = Csv(path=tmp_path / "p.csv", label="died", clinic="hospital", missing=0.0, scaling=scaling)
        federation = load_federation(data, seed=0)
        total = np.diff(federation.train.offsets) + np.diff(federation.test.offsets)
        assert total.tolist() == sizes.tolist()
        assert (np.diff(federation.test.offsets) >= 1).all()
        assert (np.diff(federation.train.offsets) >= 1).all()
        assert federation.train.y.sum() + federation.test.y.sum() == frame["died"].sum()
        assert federation.train.x.shape[1] == 40
        assert np.isfinite(federation.train.x).all()
        assert np.isfinite(federation.test.x).all()
