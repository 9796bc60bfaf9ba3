"""Which clinics of a source take part, and what is said of those that are too small to be scored."""

import re
from itertools import product

import numpy as np
import pandas as pd
import pytest
from support import write_csv

from sim.commands.explain import comparable_pairs
from sim.data.federation import load_federation
from sim.foundation.problems import ScenarioError
from sim.scenario.data import Csv, HeartDisease, Synthetic
from sim.scenario.file import validated

SIZES = (3, 9, 40, 5, 64)


@pytest.fixture
def path(tmp_path):
    return write_csv(tmp_path / "clinics.csv", SIZES, classes=3)


def of(path, **keys):
    return Csv(path=path, label="label", clinic="clinic", scaling="none", **keys)


def sizes(federation):
    held = sum(np.diff(part.offsets) for part in (federation.train, federation.validation, federation.test))
    return dict(zip(federation.names, held.tolist(), strict=True))


def test_excluded_sites_are_those_that_sites_leave_out(path):
    one = load_federation(of(path, exclude_sites=("k0", "k2")), 3)
    other = load_federation(of(path, sites=("k1", "k3", "k4")), 3)
    assert sizes(one) == {"k1": 9, "k3": 5, "k4": 64}
    assert one.facts == other.facts
    heart = load_federation(HeartDisease(exclude_sites=("va",)), 0)
    assert heart.names == ("cleveland", "hungarian", "switzerland")


def test_clinics_with_fewer_records_are_left_out_and_counted(path):
    found = load_federation(of(path, min_records=9), 0)
    assert sizes(found) == {"k1": 9, "k2": 40, "k4": 64}
    assert found.remarks == (
        "data.min-records: 2 of 5 clinics have fewer than 9 records and are left out, with 8 of 121 records",
    )
    assert not load_federation(of(path, min_records=3), 0).remarks
    same = load_federation(of(path, sites=("k1", "k2", "k4")), 0)
    assert found.facts.fingerprint == same.facts.fingerprint


def test_small_clinics_that_are_made_are_left_out_too():
    data = Synthetic(clinics=30, records=300)
    every = sizes(load_federation(data, 1))
    kept = sizes(load_federation(data.model_copy(update={"min_records": 8}), 1))
    assert kept == {name: size for name, size in every.items() if size >= 8}
    assert 0 < len(kept) < 30


def test_a_class_that_only_small_clinics_have_is_none(tmp_path):
    frame = pd.DataFrame({"site": ["a"] * 8 + ["b"] * 2, "y": [0, 1] * 4 + [2, 2], "x": range(10)})
    frame.to_csv(tmp_path / "p.csv", index=False)
    data = Csv(path=tmp_path / "p.csv", label="y", clinic="site", scaling="none", min_records=3)
    found = load_federation(data, 0)
    assert found.classes == ("0", "1")
    assert set(found.train.y) <= {0, 1}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"exclude_sites": ("k9",)}, 'data.exclude-sites: unknown site "k9"; write it as in the file'),
        ({"exclude_sites": ("k0", "k1", "k2", "k3", "k4")}, "data.exclude-sites: no record is left; exclude fewer"),
        ({"min_records": 65}, "data.min-records: no clinic has 65 records, and the largest has 64; ask for fewer"),
    ],
)
def test_each_fault_is_exactly_one_line(path, keys, expected):
    with pytest.raises(ScenarioError) as caught:
        load_federation(of(path, **keys), 0)
    assert list(caught.value.problems) == [f"scenario: {expected}"]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"sites": ["k0"], "exclude-sites": ["k1"]}, "exclude-sites: has no effect beside data.sites"),
        ({"exclude-sites": []}, "exclude-sites"),
        ({"exclude-sites": ["k1", "k1"]}, "exclude-sites"),
        ({"min-records": 0}, "min-records"),
        ({"min-records": 2.5}, "min-records"),
        ({"exclude-sites": ["k1"], "clinic": None, "split": "iid", "clinics": 2}, "clinic: is missing"),
    ],
)
def test_what_cannot_be_meant_is_refused_when_it_is_read(keys, words):
    table = {"source": "csv", "path": "c.csv", "label": "y", "clinic": "c"} | keys
    with pytest.raises(ScenarioError, match=words) as caught:
        validated(Csv, {key: value for key, value in table.items() if value is not None})
    assert len(caught.value.problems) == 1


def test_comparable_pairs_are_those_counted_one_by_one():
    rng = np.random.default_rng(0)
    for classes in (2, 3, 5):
        labels = [rng.integers(classes, size=size) for size in (0, 1, 7, 12)]
        counts = np.array([np.bincount(own, minlength=classes) for own in labels])
        told = [1] if classes == 2 else range(classes)
        expected = [sum(a == c and b != c for c in told for a, b in product(own, own)) for own in labels]
        assert comparable_pairs(counts).tolist() == expected


def test_check_says_which_clinics_cannot_be_scored_and_who_decides(suture, tmp_path):
    (tmp_path / "s.toml").write_text(
        'name="s"\nseeds=[4]\n[data]\nsource="synthetic"\nclinics=40\nrecords=500\nmin-records=4\n[model]\n'
        'name="logistic"\n[train]\nrounds=1\nbatch-size=8\nlearning-rate=0.1\n[[clinics]]\nprofile="hospital"\n'
        '[[strategies]]\nname="fedavg"\n',
        encoding="utf-8",
    )
    code, out, err = suture("check", "s.toml")
    assert code == 0
    federation = load_federation(Synthetic(clinics=40, records=500, min_records=4), 4)
    own = np.split(federation.test.y, federation.test.offsets[1:-1])
    pairs = np.array([int((y == 1).sum() * (y == 0).sum()) for y in own])
    said = " ".join(out.split())
    share = re.search(r"rests on (\d+) pairs .*; (clinic-\d+) has (\d+)% of them", said)
    assert share.groups() == (
        str(pairs.sum()),
        federation.names[pairs.argmax()],
        f"{100 * pairs.max() / pairs.sum():.0f}",
    )
    assert f"without an AUC: {(pairs == 0).sum()} of {len(pairs)}." in said
    assert f"to mean much: {((pairs > 0) & (pairs < 5)).sum()}." in said
    largest = np.sort(pairs)[-(len(pairs) // 10) :].sum()
    assert f"a tenth of all, have {100 * largest / pairs.sum():.0f}%" in said
    [remark] = federation.remarks
    assert remark in " ".join(err.split())
