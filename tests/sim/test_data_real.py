"""Real clinical sets, where they lie beside the project; each is counted by other means too."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sim.data.federation import load_federation
from sim.scenario.data import Csv, Npz

FOLDER = Path(__file__).parents[3] / "shared" / "data"


def real(name):
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(f"the real data set {path} is absent")
    return path


def by_clinic(part, classes):
    return np.array(
        [np.bincount(part.y[a:b], minlength=classes) for a, b in zip(part.offsets, part.offsets[1:], strict=False)]
    )


def test_pneumonia_images_of_ten_dirichlet_clinics():
    path = real("pneumoniamnist_28.npz")
    spec = Npz(path=path, split="dirichlet", clinics=10, alpha=0.5, validation_share=0.1)
    federation = load_federation(spec, seed=0)
    with np.load(path) as archive:
        labels = {part: archive[f"{part}_labels"].ravel() for part in ("train", "val", "test")}
        test = archive["test_images"]
    train, validation, held_out = (by_clinic(p, 2) for p in (federation.train, federation.validation, federation.test))
    assert (train + validation).sum(axis=0).tolist() == np.bincount(np.r_[labels["train"], labels["val"]]).tolist()
    assert (train + validation).sum(axis=0).tolist() == [1349, 3883]
    assert held_out.sum(axis=0).tolist() == np.bincount(labels["test"]).tolist() == [234, 390]
    assert set((train + validation).sum(axis=1)) == {523, 524}
    share = (train + validation) / (train + validation).sum(axis=0)
    assert (np.abs(held_out - share * held_out.sum(axis=0)) < 1).all()
    assert federation.train.x.shape[1:] == (1, 28, 28)
    assert (federation.train.x.min(), federation.train.x.max()) == (-1, 1)
    assert federation.test.x.sum() == pytest.approx((test / 127.5 - 1).sum(), rel=1e-4)
    assert federation.statistics == {
        "range of channel-0": "public",
        "records dealt to clinics by label": "simulated",
    }


def test_heartbeats_with_a_clinic_for_each_of_48_records():
    path = real("mitdb_beats_125hz_128.npz")
    spec = Npz(path=path, x="x", label="y", clinic="record", range=(-500, 500), stratified=True)
    federation = load_federation(spec, seed=0)
    with np.load(path) as archive:
        y, record, x = archive["y"], archive["record"], archive["x"]
    counts = by_clinic(federation.train, 5) + by_clinic(federation.test, 5)
    assert federation.names == tuple(map(str, np.unique(record)))
    assert len(federation.names) == 48
    assert counts.tolist() == pd.crosstab(record, y).to_numpy().tolist()
    assert counts.sum() == 16_912
    held_out = np.minimum(np.floor(0.34 * counts + 0.5), np.maximum(counts - 1, 0))
    assert by_clinic(federation.test, 5).tolist() == held_out.tolist()
    assert federation.train.x.shape[1:] == (1, 128)
    total = federation.train.x.sum(dtype=float) + federation.test.x.sum(dtype=float)
    assert total == pytest.approx(np.clip(x / 500, -1, 1).sum(), rel=1e-4)


def test_heartbeats_dealt_by_patient():
    path = real("mitdb_beats_125hz_128.npz")
    spec = Npz(path=path, x="x", label="y", patient="record", split="iid", clinics=8, range=(-1000, 1000))
    federation = load_federation(spec, seed=0)
    with np.load(path) as archive:
        person = {row.tobytes(): int(record) for row, record in zip(archive["x"], archive["record"], strict=True)}
    train, test = (
        {person[np.rint(row * 1000).astype(np.int16).tobytes()] for row in part.x[:, 0]}
        for part in (federation.train, federation.test)
    )
    assert len(train) + len(test) == len(train | test) == 48
    assert len(test) >= 8  # one for each clinic


LARGE = ("Cardiology", "Emergency/Trauma", "Family/GeneralPractice", "InternalMedicine", "Surgery-General")
CATEGORICAL = ("race", "gender", "age", "admission_type_id", "A1Cresult", "insulin", "change", "diabetesMed")
NUMERIC = ("time_in_hospital", "num_lab_procedures", "num_medications", "number_inpatient", "number_diagnoses")


@pytest.fixture(scope="module")
def admissions():
    return pd.read_csv(real("diabetic_data.csv.xz"), dtype=str, keep_default_na=False)


def diabetes(**keys):
    return Csv(
        path=real("diabetic_data.csv.xz"),
        label="readmitted",
        positive="<30",
        clinic="medical_specialty",
        patient="patient_nbr",
        features=(*NUMERIC, *CATEGORICAL),
        categorical=CATEGORICAL,
        scaling="none",
        **keys,
    )


def test_readmissions_by_specialty_with_whole_patients(admissions):
    federation = load_federation(diabetes(sites=LARGE), seed=0)
    own = admissions[admissions["medical_specialty"].isin(LARGE)]
    counts = by_clinic(federation.train, 2) + by_clinic(federation.test, 2)
    assert federation.names == LARGE
    assert counts.tolist() == pd.crosstab(own["medical_specialty"], own["readmitted"] == "<30").to_numpy().tolist()
    assert federation.classes == ("not <30", "<30")
    levels = own[list(CATEGORICAL)].replace("?", pd.NA)
    dummies = pd.get_dummies(levels)
    assert federation.features == (*NUMERIC, *dummies.columns)
    x = np.r_[federation.train.x, federation.test.x]
    np.testing.assert_allclose(x[:, 5:].sum(axis=0), dummies.sum())
    np.testing.assert_allclose(x[:, :5].sum(axis=0), own[list(NUMERIC)].astype(float).sum())
    assert len(federation.test.y) / len(x) == pytest.approx(0.34, abs=0.02)
    assert federation.statistics["levels of race"] == "non-private"


def test_readmissions_one_record_a_patient_of_all(admissions):
    assert admissions["patient_nbr"].nunique() == 71_518
    everything = load_federation(diabetes(split="iid", clinics=20), seed=0)
    y = np.r_[everything.train.y, everything.test.y]
    assert len(y) == 101_766
    assert y.mean() == pytest.approx(0.112, abs=0.0005)
    first = load_federation(diabetes(split="iid", clinics=20, max_records_per_patient=1), seed=0)
    y = np.r_[first.train.y, first.test.y]
    assert len(y) == 71_518
    assert y.sum() == (admissions.drop_duplicates("patient_nbr")["readmitted"] == "<30").sum()
    assert set(np.diff(first.train.offsets) + np.diff(first.test.offsets)) == {3575, 3576}
