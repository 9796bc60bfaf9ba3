"""Faults in a table of the user's own: each is told in one line, without values."""

import lzma

import numpy as np
import pandas as pd
import pytest
from tables import frame_of, spec
from test_data import problems

from sim.scenario.data import Csv, Parquet


@pytest.fixture
def path(tmp_path):
    frame_of().to_csv(tmp_path / "p.csv", index=False)
    return tmp_path / "p.csv"


MISSING = frame_of()["bmi"].isna().to_numpy()


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"label": "resul"}, 'label: there is no column "resul"; did you mean "result"?'),
        ({"patient": "persona"}, 'patient: there is no column "persona"; did you mean "person"?'),
        ({"exclude": ("idd", "person")}, 'exclude: there is no column "idd"; did you mean "id"?'),
        (
            {"categorical": ()},
            'features: column "race" holds no numbers; '
            "list it in data.categorical, or put the column into data.exclude",
        ),
        ({"categorical": ("race", "racy")}, 'categorical: "racy" is not one of the features; did you mean "race"?'),
        (
            {"categorical": ("race", "site")},
            'categorical: "site" is not one of the features; choose "age", "bmi" or "race"',
        ),
        (
            {"levels": {"race": ("x", "y")}},
            'levels: no record has a level stated for "race"; write them as in the file',
        ),
        (
            {"missing": {"bmi": 1, "race": 2}},
            'missing: "race" is categorical; give "unknown" for a level of its own, or take it out',
        ),
        ({"ranges": {"race": (0, 1)}}, 'ranges: "race" is categorical, and its levels are 0 or 1; take it out'),
        (
            {"missing": {}},
            f'missing: column "bmi" has {MISSING.sum()} missing values, the first in row {MISSING.argmax() + 2}; '
            'state a public constant as data.missing."bmi", or "drop" the column there',
        ),
        ({"positive": "<31"}, 'positive: column "result" has no value "<31"; write it as in the file, capitals too'),
        (
            {"exclude": ("id", "person", "age", "race"), "categorical": (), "missing": "drop"},
            "missing: every feature is dropped; keep at least one",
        ),
        (
            {"exclude": ("id", "person", "age", "race", "bmi"), "categorical": ()},
            "features: there is no column left; exclude fewer",
        ),
        (
            {"scaling": "public"},
            'ranges: no public range is stated for "age", "bmi"; '
            'state [lowest, highest] for each, or for all others as "*", or set data.scaling to "none" or "per-clinic"',
        ),
    ],
)
def test_each_fault_is_exactly_one_line(path, keys, expected):
    assert problems(spec(path, **keys)) == [f"scenario: data.{expected}"]


@pytest.mark.parametrize(
    ("written", "form"),
    [
        (("95%", "90.5 %"), "a percent sign; write them without"),
        (("1,5", "-20,25"), "a decimal comma; write a point"),
        (("1,000,500", "2,000.5"), "commas between thousands; write them without"),
        (("<0.3", "> 100"), "a sign of comparison; write the bound, or leave the cell empty"),
    ],
)
def test_numbers_in_another_form_are_no_categories(path, written, form):
    frame = frame_of()
    frame["sat"] = ["3", *np.resize(written, len(frame) - 1)]
    frame.to_csv(path, index=False)
    out = f'column "sat" holds numbers with {form}, or put the column into data.exclude'
    assert problems(spec(path)) == [f"scenario: data.features: {out}"]


def test_many_clinics_of_one_record_are_left_out_by_a_number(path):
    frame = frame_of()
    frame["site"] = range(len(frame))
    frame.to_csv(path, index=False)
    [line] = problems(spec(path))
    assert line.endswith("leave small clinics out with data.min-records, or name another column as data.clinic")


def test_many_faults_are_told_at_once_and_without_values(path):
    frame = frame_of()
    frame["note"] = "Mrs Miller"
    frame["empty"] = np.nan
    frame.loc[3, "age"] = np.inf
    frame.loc[5, "site"] = ""
    frame.to_csv(path, index=False)
    found = problems(spec(path, missing={}, categorical=("race", "racy")))
    assert [line.split(": ")[1] for line in found] == [
        *("data.categorical", "data.features", "data.missing", "data.features", "data.features", "data.clinic"),
    ]
    assert "Miller" not in "".join(found)


def test_categories_without_a_value_and_with_far_too_many(tmp_path):
    frame = pd.DataFrame({"site": "a", "y": np.arange(1200) % 2, "who": np.arange(1200), "none": ""})
    frame.to_csv(tmp_path / "p.csv", index=False)
    data = Csv(path=tmp_path / "p.csv", label="y", clinic="site", categorical=("who", "none"))
    assert problems(data) == [
        'scenario: data.categorical: column "who" has more than 1000 levels; '
        'state those to use as data.levels."who", or put the column into data.exclude',
        'scenario: data.features: column "none" has no value at all; put the column into data.exclude',
    ]


def test_a_clinic_whose_patients_leave_nothing_to_test(tmp_path):
    frame = pd.DataFrame(
        {"site": ["a"] * 7 + ["b"] * 3, "who": [0, 1, 2, 3, 4, 5, 6, 8, 8, 8], "y": [0, 1] * 5, "x": 1}
    )
    frame.to_csv(tmp_path / "p.csv", index=False)
    data = Csv(path=tmp_path / "p.csv", label="y", clinic="site", patient="who", scaling="none")
    assert problems(data) == [
        "scenario: data: clinic 2 of 2 by name has no held-out record; put it into data.exclude-sites",
    ]


def test_parquet_dates_are_no_numbers_and_rows_count_from_one(tmp_path):
    frame = pd.DataFrame(
        {"site": ["a"] * 6, "y": [0, 1] * 3, "when": pd.Timestamp("2020-01-01"), "x": [1, 2, np.inf] * 2}
    )
    frame.to_parquet(tmp_path / "p.parquet")
    data = Parquet(path=tmp_path / "p.parquet", label="y", clinic="site", scaling="none")
    assert problems(data) == [
        'scenario: data.features: column "when" holds no numbers; '
        "list it in data.categorical, or put the column into data.exclude",
        'scenario: data.features: column "x" has an infinite or too large value in row 3; correct it',
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv.xz", b"no xz at all"),
        ("p.csv.xz", lzma.compress(b"site,y\n" * 99)[:-20]),
        ("p.csv.gz", b"no gzip"),
        ("p.csv.zip", b"no zip"),
        ("p.csv.bz2", b"no bz2"),
        ("p.csv.zst", b"no zstandard"),
    ],
)
def test_a_broken_archive_is_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    [line] = problems(spec(tmp_path / name))
    assert line == (
        f"scenario: data.path: {tmp_path / name} cannot be unpacked; "
        "check that it is whole and that its name ends as its format asks"
    )


def test_a_broken_parquet_file_is_one_line(tmp_path):
    for content in (b"", b"PAR1 and then nothing"):
        (tmp_path / "p.parquet").write_bytes(content)
        [line] = problems(spec(tmp_path / "p.parquet", Parquet))
        assert line.endswith("is no Parquet file, or not whole; save it again")
