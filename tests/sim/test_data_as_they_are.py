"""What a table holds that its settings do not expect is said, counted, or refused in one line."""

import numpy as np
import pandas as pd
import pytest
from sklearn.impute import MissingIndicator
from sklearn.preprocessing import OneHotEncoder

from sim.data.federation import load_federation
from sim.foundation.problems import ScenarioError
from sim.scenario.data import Csv
from sim.scenario.file import validated

ROWS = 200
NUMERIC = ["sex", "age", "lactate"]


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(7)
    found = pd.DataFrame(
        {
            "site": rng.choice(["bern", "lyon"], ROWS),
            "ill": rng.integers(2, size=ROWS),
            "race": rng.choice(["asian", "black", "white", None], ROWS, p=[0.2, 0.3, 0.29, 0.21]),
            "sex": rng.integers(2, size=ROWS),
            "age": rng.integers(18, 99, size=ROWS),
            "lactate": rng.exponential(2, ROWS).round(2),
        }
    )
    found.loc[rng.random(ROWS) < 0.1, "lactate"] = np.nan
    return found


@pytest.fixture(scope="module")
def path(frame, tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "patients.csv"
    frame.to_csv(path, index=False)
    return path


def of(path, **keys):
    table = {
        "label": "ill",
        "clinic": "site",
        "categorical": ("race",),
        "missing": {"lactate": 1.5, "race": "unknown"},
        "ranges": {"age": (18, 100), "lactate": (0, 15), "*": (0, 1)},
    }
    return Csv(path=path, **table | keys)


def rows_of(path, **keys):
    """Return the features by name, in the order of the file."""
    found = load_federation(of(path, **keys), 0)
    parts = (found.train, found.test)
    x = np.concatenate([part.x for part in parts])[np.argsort(np.concatenate([part.row for part in parts]))]
    return dict(zip(found.features, x.T, strict=True)), found


def problem(path, **keys):
    with pytest.raises(ScenarioError) as caught:
        load_federation(of(path, **keys), 0)
    [line] = caught.value.problems
    return line.removeprefix("scenario: ")


@pytest.mark.parametrize("missing", [{"lactate": 1.5, "race": "unknown"}, "unknown"])
def test_missing_values_of_a_category_may_be_a_level(frame, path, missing):
    exclude = ("lactate",) if missing == "unknown" else ()
    ranges = {"age": (18, 100), "*": (0, 1)} | ({} if exclude else {"lactate": (0, 15)})
    found, federation = rows_of(path, missing=missing, exclude=exclude, ranges=ranges)
    encoder = OneHotEncoder(sparse_output=False)
    expected = encoder.fit_transform(frame[["race"]].fillna("unknown"))
    for level, column in zip(encoder.categories_[0], expected.T, strict=True):
        np.testing.assert_array_equal(found[f"race_{level}"], column)
    assert not any("race" in line for line in federation.remarks)


def test_missing_values_of_a_category_that_have_no_level_are_counted(frame, path):
    _, federation = rows_of(path, missing={"lactate": 1.5})
    count = frame["race"].isna().sum()
    [line] = [line for line in federation.remarks if "categories" in line]
    assert f'"race" {count} ({count / ROWS:.1%})' in line
    assert '"unknown"' in line


def test_levels_that_are_not_stated_are_counted_and_not_written(frame, path):
    _, federation = rows_of(path, levels={"race": ("asian", "white")})
    count = (frame["race"] == "black").sum()
    [line] = [line for line in federation.remarks if line.startswith("data.levels")]
    assert f'"race" {count} ({count / ROWS:.1%})' in line
    assert "black" not in line


def test_values_outside_their_range_are_moved_to_its_end_and_counted(frame, path):
    found, federation = rows_of(path, ranges={"age": (30, 80), "lactate": (0, 15), "sex": (0, 1)})
    outside = (frame["age"] < 30) | (frame["age"] > 80)
    np.testing.assert_allclose(found["age"], 2 * (frame["age"].clip(30, 80) - 30) / 50 - 1, atol=1e-6)
    [line] = [line for line in federation.remarks if line.startswith("data.ranges")]
    assert f'"age" {outside.sum()} ({outside.mean():.1%})' in line
    assert '"sex"' not in line


@pytest.mark.parametrize("code", [-999.0, 99.0])
def test_one_value_outside_a_range_is_named_a_code_for_missing_values(frame, tmp_path, code):
    coded = frame.assign(lactate=frame["lactate"].fillna(code).clip(upper=15 if code < 0 else None))
    coded.to_csv(tmp_path / "p.csv", index=False)
    remarks = rows_of(tmp_path / "p.csv")[1].remarks
    assert (
        sum('"lactate" outside its range are the same, as a code for missing values' in line for line in remarks) == 1
    )
    coded.loc[0, "lactate"] = -1
    coded.to_csv(tmp_path / "p.csv", index=False)
    assert not any("code for missing" in line for line in rows_of(tmp_path / "p.csv")[1].remarks)


@pytest.mark.parametrize(
    ("repeat", "categorical"),
    [
        (lambda ill, rng: np.where(ill == 1, "dead", rng.choice(["home", "ward"], ROWS)), True),
        (lambda ill, rng: np.where(ill == 1, "dead", ""), True),
        (lambda ill, rng: ill, False),
        (lambda ill, rng: ill / 2 + rng.random(ROWS) / 2, False),
        (lambda ill, rng: np.where(ill == 1, rng.random(ROWS), np.nan), False),
    ],
)
def test_a_column_that_repeats_the_label_is_named(frame, tmp_path, repeat, categorical):
    rng = np.random.default_rng(0)
    keys = {"categorical": ("race", "after") if categorical else ("race",)}
    keys["missing"] = {"lactate": 1.5, "race": "unknown", "after": "unknown" if categorical else 0.5}
    for said in (True, False):  # then one record contradicts
        table = frame.assign(after=repeat(frame["ill"].to_numpy(), rng))
        if not said:
            table.loc[0, "ill"] = 1 - table.loc[0, "ill"]
        table.to_csv(tmp_path / "p.csv", index=False)
        remarks = rows_of(tmp_path / "p.csv", **keys)[1].remarks
        assert ['"after" alone tells the label' in line for line in remarks].count(True) == said
        assert not any("age" in line for line in remarks)


def test_a_few_cases_are_told_by_chance_and_a_name_for_each_record_tells_nothing(frame, tmp_path):
    table = frame.assign(number=range(ROWS), ill=[*[1] * 4, *[0] * (ROWS - 4)])
    for cases in (4, ROWS // 2):
        table["ill"] = [*[1] * cases, *[0] * (ROWS - cases)] if cases == 4 else [0, 1] * (ROWS // 2)
        table.to_csv(tmp_path / "p.csv", index=False)
        remarks = rows_of(
            tmp_path / "p.csv", ranges={"number": (0, ROWS), "age": (18, 100), "lactate": (0, 15), "*": (0, 1)}
        )[1].remarks
        assert not any("alone" in line for line in remarks)


def test_an_indicator_says_where_a_constant_was_filled_in(frame, path):
    for wanted in (True, ("lactate",)):
        found, federation = rows_of(path, missing_indicator=wanted)
        expected = MissingIndicator().fit_transform(frame[["lactate"]])[:, 0]
        np.testing.assert_array_equal(found["lactate_missing"], expected)
        assert not any("filled in" in line for line in federation.remarks)
    found, federation = rows_of(path)
    assert "lactate_missing" not in found
    count = frame["lactate"].isna().sum()
    [line] = [line for line in federation.remarks if "filled in" in line]
    assert f'"lactate" {count} ({count / ROWS:.1%})' in line
    every, _ = rows_of(path, missing=1.5, missing_indicator=True)
    assert {name for name in every if name.endswith("_missing")} == {f"{name}_missing" for name in NUMERIC}


def test_one_range_for_all_columns_of_zero_and_one(frame, path):
    found, _ = rows_of(path)
    np.testing.assert_array_equal(found["sex"], 2.0 * frame["sex"] - 1)
    line = problem(path, ranges={"lactate": (0, 15), "*": (0, 1)})
    assert line == (
        f'data.ranges: "*" gives column "age" a range that {ROWS} values of it lie outside; '
        'state its own as data.ranges."age"'
    )


def test_an_amount_is_no_label(frame, path):
    keys = {"label": "age", "exclude": ("ill",), "ranges": {"lactate": (0, 15), "*": (0, 1)}}
    line = problem(path, **keys)
    assert f'column "age" holds {len(set(frame["age"]))} different numbers, as an amount or an identifier does' in line
    assert "data.positive" in line
    fine = load_federation(of(path, **keys, positive=tuple(str(age) for age in set(frame["age"]) if age > 65)), 0)
    assert len(fine.classes) == 2


def test_a_level_that_no_training_record_has_is_as_if_not_stated(tmp_path):
    frame = pd.DataFrame({"site": ["a"] * 6 + ["b"] * 6, "y": [0, 1] * 6, "kind": ["u", "v"] * 3 + ["w", "v"] * 3})
    frame.to_csv(tmp_path / "p.csv", index=False)
    keys = {"path": tmp_path / "p.csv", "label": "y", "clinic": "site", "categorical": ("kind",)}
    found = load_federation(Csv(**keys, test="held-out-clinics", test_sites=("b",)), 0)
    assert found.features == ("kind_u", "kind_v", "kind_w")
    assert set(found.test.x[:, 2]) == {0.0}
    np.testing.assert_array_equal(found.test.x[:, 1], [0, 1] * 3)
    stated = {"levels": {"kind": ("u", "v", "w")}}
    found = load_federation(Csv(**keys, **stated, test="held-out-clinics", test_sites=("b",)), 0)
    np.testing.assert_array_equal(found.test.x[:, 2], [1, 0] * 3)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"missing": {"lactate": "unknown"}}, 'data.missing: "lactate" is no category and has no levels'),
        ({"missing": {"lactate": 1, "race": 2}}, 'data.missing: "race" is categorical; give "unknown"'),
        ({"missing": "unknown"}, 'data.missing: column "lactate" has'),
        ({"missing_indicator": ("age",)}, 'data.missing-indicator: "age" has no constant to fill in'),
        ({"missing_indicator": ("race",)}, 'data.missing-indicator: "race" is categorical'),
        ({"missing_indicator": ("lactat",)}, 'data.missing-indicator: "lactat" is not one of the features; did you'),
    ],
)
def test_what_cannot_be_meant_is_one_line(path, keys, expected):
    assert problem(path, **keys).startswith(expected)


@pytest.mark.parametrize(
    "keys",
    [
        {"missing": "mean"},
        {"missing": {"race": "other"}},
        {"missing": True},
        {"missing-indicator": 1},
        {"missing-indicator": ["a", "a"]},
        {"missing-indicator": "lactate"},
        {"ranges": {"*": [1, 0]}},
    ],
)
def test_what_is_no_setting_is_one_line(keys):
    with pytest.raises(ScenarioError) as caught:
        validated(Csv, {"source": "csv", "path": "c.csv", "label": "y", "clinic": "c"} | keys)
    [line] = caught.value.problems
    assert "\n" not in line
