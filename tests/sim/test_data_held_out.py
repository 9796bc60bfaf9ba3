"""Which records are held out must not depend on what any record says."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from sim.data.federation import load_federation
from sim.foundation.problems import ScenarioError
from sim.scenario.data import Csv

ROWS = 90
LAWS = {
    "plain": {"clinic": "site"},
    "patients": {"clinic": "site", "patient": "person"},
    "iid": {"split": "iid", "clinics": 4},
    "iid of patients": {"split": "iid", "clinics": 4, "patient": "person"},
    "quantity": {"split": "quantity", "clinics": 4, "alpha": 1.0},
}


def frame_of(seed=0):
    rng = np.random.default_rng(seed)
    rows = np.arange(ROWS)
    return pd.DataFrame(
        {
            "id": rows,
            "person": rows // 2,
            "site": rng.choice(["bern", "lyon", "oslo"], ROWS // 2)[rows // 2],
            "ill": rng.choice([0, 0, 0, 1, 2], ROWS),
            "dose": rng.normal(size=ROWS),
        }
    )


def loaded(path, frame, law, **keys):
    frame.to_csv(path, index=False)
    own = LAWS[law] | {"validation_share": 0.25} | keys
    unused = tuple({"person", "site"} - {own.get("clinic"), own.get("patient")})
    return load_federation(Csv(path=path, label="ill", scaling="none", exclude=unused, **own), seed=1)


def places(federation):
    """Return the side and the clinic of each record by its id."""
    parts = {"train": federation.train, "validation": federation.validation, "test": federation.test}
    return {
        int(number): (side, clinic)
        for side, part in parts.items()
        for clinic in range(len(federation.names))
        for number in part.x[part.offsets[clinic] : part.offsets[clinic + 1], 0]
    }


def problems(data, seed):
    try:
        load_federation(data, seed)
    except ScenarioError as error:
        return error.problems
    return []


@pytest.mark.parametrize("law", LAWS)
def test_one_record_moves_no_record(tmp_path, law):
    frame, path = frame_of(), tmp_path / "p.csv"
    before = places(loaded(path, frame, law))
    assert sorted(before) == list(range(ROWS))
    assert {side for side, _ in before.values()} == {"train", "validation", "test"}
    for row in range(0, ROWS, 7):
        for column, value in (("ill", (frame["ill"][row] + 1) % 3), ("dose", 1e6)):
            changed = frame.copy()
            changed.loc[row, column] = value
            assert places(loaded(path, changed, law)) == before


@pytest.mark.parametrize("law", ["plain", "patients"])
def test_by_class_one_label_moves_others_and_that_is_marked(tmp_path, law):
    frame, path = frame_of(), tmp_path / "p.csv"
    marked = {"held-out records drawn by class": "non-private"}
    plain, by_class = loaded(path, frame, law), loaded(path, frame, law, stratified=True)
    assert (plain.statistics, by_class.statistics) == ({}, marked)
    before, moved = places(by_class), 0
    for row in range(0, ROWS, 7):
        changed = frame.copy()
        changed.loc[row, "ill"] = (frame["ill"][row] + 1) % 3
        after = places(loaded(path, changed, law, stratified=True))
        moved = max(moved, sum(after[each] != before[each] for each in before if each != row))
    assert moved > 1


@pytest.mark.parametrize(
    ("split", "keys"), [("dirichlet", {"alpha": 0.5}), ("pathological", {"classes_per_clinic": 2})]
)
def test_a_deal_by_label_is_marked_as_part_of_the_simulation(tmp_path, split, keys):
    frame_of().to_csv(tmp_path / "p.csv", index=False)
    own = {"split": split, "clinics": 4, "exclude": ("person", "site"), "scaling": "none", **keys}
    assert load_federation(Csv(path=tmp_path / "p.csv", label="ill", **own), seed=0).statistics == {
        "records dealt to clinics by label": "simulated"
    }


@pytest.mark.parametrize("share", [0.01, 0.34, 0.5, 0.99])
def test_the_stated_share_of_every_clinic_is_held_out_and_one_record_at_least_stays(tmp_path, share):
    sizes = np.array([2, 3, 7, 24, 50])
    frame = pd.DataFrame({"site": np.repeat(list("abcde"), sizes), "ill": np.arange(86) % 2, "id": np.arange(86)})
    frame.to_csv(tmp_path / "p.csv", index=False)
    data = Csv(path=tmp_path / "p.csv", label="ill", clinic="site", scaling="none", test_share=share)
    for seed in range(3):
        federation = load_federation(data.model_copy(update={"validation_share": 0.99}), seed)
        held_out = np.clip(np.floor(share * sizes + 0.5), 1, sizes - 1)
        assert np.diff(federation.test.offsets).tolist() == held_out.tolist()
        assert np.diff(federation.train.offsets).tolist() == [1] * 5


def test_a_clinic_whose_every_patient_validates_elsewhere_is_told_and_not_left_empty(tmp_path):
    """The patients of "b" were first at "a": nothing keeps one of the two in training."""
    frame = pd.DataFrame({"site": list("aaaaaabb"), "person": [0, 1, 2, 3, 4, 5, 0, 1], "ill": [0, 1] * 4})
    frame["id"] = frame.index
    frame.to_csv(tmp_path / "p.csv", index=False)
    plain = Csv(path=tmp_path / "p.csv", label="ill", clinic="site", patient="person", scaling="none", test_share=0.5)
    told = 0
    for seed in range(20):
        if problems(plain, seed):
            continue  # both patients stand on the same side
        found = problems(plain.model_copy(update={"validation_share": 0.6}), seed)
        assert [line for line in found if "clinic 2 of 2 by name has no training record" not in line] == []
        told += len(found)
    assert told


def test_the_training_prevalence_of_small_clinics_tells_nothing_of_their_held_out_records(tmp_path):
    """186 hospitals of 2 to 23 records that do not differ: by class, the training rate alone predicts who died."""
    aucs = {}
    for by_class in (False, True):
        found = []
        for seed in range(8):
            rng = np.random.default_rng(seed)
            sizes = rng.integers(2, 24, 186)
            frame = pd.DataFrame({"site": np.repeat(np.arange(186), sizes), "died": rng.random(sizes.sum()) < 0.12})
            frame["age"] = rng.normal(size=len(frame))
            frame.astype({"died": int}).to_csv(tmp_path / "p.csv", index=False)
            data = Csv(path=tmp_path / "p.csv", label="died", clinic="site", scaling="none", stratified=by_class)
            federation = load_federation(data, seed)
            train, test = federation.train, federation.test
            rates = [train.y[a:b].mean() for a, b in zip(train.offsets, train.offsets[1:], strict=False)]
            found.append(roc_auc_score(test.y, np.repeat(rates, np.diff(test.offsets))))
        aucs[by_class] = np.mean(found)
    assert aucs[False] == pytest.approx(0.5, abs=0.03)
    assert aucs[True] > 0.65
