import csv

import numpy as np
import pytest
from test_data import both, in_any_order, problems

from sim.data.federation import load_federation
from sim.scenario.data import Csv


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


def test_csv_is_sorted_by_clinic_and_scaled_by_the_stated_ranges(write):
    federation = load_federation(table_spec(write()), seed=0)
    assert (federation.names, federation.features, federation.classes) == (("bern", "lyon"), ("age", "bmi"), ("0", "1"))
    assert np.diff(federation.test.offsets).tolist() == [1, 2]  # of 4 and 6 records
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


def test_csv_one_class_is_kept(write):
    path = write([("oslo", 1, 1, 1), ("oslo", 1, 2, 2)])
    federation = load_federation(table_spec(path), seed=0)
    assert (federation.classes, len(federation.train.y), len(federation.test.y)) == (("1",), 1, 1)


LEAVE_OUT = "put it into data.exclude-sites"


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
        (GOOD, {"sites": ("lyons", "bern")}, 'data.sites: unknown site "lyons"; write it as in the file'),
        (GOOD, {"sites": ("paris",)}, 'data.sites: unknown site "paris"; write it as in the file'),
        (
            [*GOOD, ("oslo", 1, 1, 1)],
            {},
            f"data: clinic 3 of 3 by name has 1 record, too few to train and to test; {LEAVE_OUT}",
        ),
        (
            [*GOOD, ("oslo", 1, 1, 1), ("oslo", 1, 2, 2)],
            {"one_class": "refuse"},
            f'data: clinic 3 of 3 by name has records of one class only; {LEAVE_OUT}, or set data.one-class = "keep"',
        ),
        (
            [*GOOD, ("oslo", 1, 1, 1), ("oslo", 0, 2, 2)],
            {"one_class": "refuse", "stratified": True},
            f"data: clinic 3 of 3 by name has no two records of the same class, so none can be held out; {LEAVE_OUT}, "
            'or set data.one-class = "keep"',
        ),
        (
            GOOD,
            {"ranges": {}},
            'data.ranges: no public range is stated for "age", "bmi"; '
            'state [lowest, highest] for each, or for all others as "*", or set data.scaling to "none" or "per-clinic"',
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
    places = [line.split(": ")[1] for line in problems(table_spec(path, ranges={"age": (0, 1)}, one_class="refuse"))]
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
        (b"site;ill;age;bmi\na;1;2,5;3\n", 'is separated by ";"; save it again as comma-separated text'),
        (b"site\till\tage\tbmi\na\t1\t2\t3\n", r'is separated by "\t"; save it again as comma-separated text'),
        (b"site,ill,age,bmi,age\na,1,2,3,4\n", 'has 2 columns "age"; name each once'),
        (b"ill,site,ill,age,bmi,ill\n1,a,1,2,3,1\n", 'has 3 columns "ill"; name each once'),
    ],
)
def test_csv_unreadable_file_is_one_line(tmp_path, content, fault):
    path = tmp_path / "patients.csv"
    path.write_bytes(content)
    [line] = problems(table_spec(path))
    assert line.startswith(f"scenario: data.path: {path} {fault}")


def test_a_column_that_stands_twice_is_no_fault_where_it_is_not_used(write):
    twice = write([(*row, 7, 8) for row in GOOD], ("site", "ill", "age", "bmi", "note", "note"))
    assert load_federation(table_spec(twice), seed=0).features == ("age", "bmi")
    [line] = problems(table_spec(twice, features=None, scaling="none", ranges={}))
    assert line.endswith(' has 2 columns "note"; name each once')


def test_a_row_number_without_a_name_is_no_feature(write):
    numbered = write([(number, *row) for number, row in enumerate(GOOD)], ("", "site", "ill", "age", "bmi"))
    every = {"features": None, "scaling": "none", "ranges": {}}
    assert problems(table_spec(numbered, **every)) == [
        'scenario: data.features: column 1 has no name; give it one, or put "Unnamed: 0" into data.exclude'
    ]
    excluded = load_federation(table_spec(numbered, **every, exclude=("Unnamed: 0",)), seed=0)
    assert excluded.features == ("age", "bmi")
    assert load_federation(table_spec(numbered), seed=0).features == ("age", "bmi")


@pytest.mark.parametrize(
    "sign", ["\x07", "\x1b", "\n", "\x9b", "\u202e", "\u2066", "\u200b", "\u2028", "\u2029", "\ue000", "\U000e0041"]
)
def test_a_control_or_formatting_character_in_a_name_is_one_line(write, sign):
    rows = [(site.replace("bern", f"b{sign}ern"), ill, *rest) for site, ill, *rest in GOOD]
    assert problems(table_spec(write(rows))) == [
        "scenario: data: 1 of 2 clinics (the first is number 1) with a control or formatting character in the name; "
        "take it out"
    ]
    rows = [(site, f"{ill}{sign}!", *rest) for site, ill, *rest in GOOD]
    assert problems(table_spec(write(rows))) == [
        "scenario: data: 2 of 2 classes (the first is number 1) with a control or formatting character in the name; "
        "take it out"
    ]
    header = ("site", "ill", f"a{sign}ge", "bmi")
    assert problems(table_spec(write(GOOD, header), features=header[2:], ranges={}, scaling="none")) == [
        "scenario: data: 1 of 2 features (the first is number 1) with a control or formatting character in the name; "
        "take it out"
    ]


def test_other_signs_that_are_not_printed_may_stand_in_names(write):
    rows = [(site.replace("bern", "b\u00a0ern"), ill, *rest) for site, ill, *rest in GOOD]
    assert load_federation(table_spec(write(rows)), seed=0).names == ("b\u00a0ern", "lyon")


def test_csv_missing_file_is_one_line(tmp_path):
    path = tmp_path / "no.csv"
    assert problems(table_spec(path)) == [f"scenario: data.path: {path} does not exist; check the path"]
