"""Images and signals in NumPy archives."""

import pickle
import zipfile

import numpy as np
import pytest
from test_data import problems

from sim.data.federation import load_federation
from sim.scenario.data import Npz

RNG = np.random.default_rng(3)
N = 40
Y = np.arange(N) % 2
SITE = np.arange(N) // 20 + 7
SIGNALS = RNG.normal(size=(N, 30)).astype(np.float32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "records.npz"


def saved(path, **arrays):
    np.savez(path, **({"x": SIGNALS, "y": Y, "site": SITE} | arrays))
    return Npz(path=path, x="x", label="y", clinic="site")


def in_any_order(x):
    return sorted(map(tuple, np.asarray(x, dtype=np.float32).round(5).reshape(len(x), -1)))


def everything(federation):
    return np.concatenate([federation.train.x, federation.test.x])


def test_signals_get_a_channel_axis_and_stay_as_they_are(path):
    federation = load_federation(saved(path), seed=0)
    assert (federation.names, federation.classes, federation.features) == (("7", "8"), ("0", "1"), ("channel-0",))
    assert federation.train.x.shape[1:] == (1, 30)
    assert federation.train.x.dtype == np.float32
    assert federation.statistics == {}
    for clinic, own in enumerate((SIGNALS[:20], SIGNALS[20:])):
        bounds = [
            (part, part.offsets[clinic], part.offsets[clinic + 1]) for part in (federation.train, federation.test)
        ]
        found = np.concatenate([part.x[start:stop] for part, start, stop in bounds])
        assert in_any_order(found) == in_any_order(own)


@pytest.mark.parametrize(
    ("x", "shape"),
    [
        (RNG.integers(0, 256, (N, 5, 6), dtype=np.uint8), (1, 5, 6)),
        (RNG.normal(size=(N, 12, 50)), (12, 50)),
        (RNG.normal(size=(N, 3, 5, 6)), (3, 5, 6)),
        (RNG.normal(size=(N, 5, 6, 3)), (3, 5, 6)),
        (RNG.normal(size=(N, 1, 8, 4)), (1, 8, 4)),
    ],
)
def test_axes(path, x, shape):
    federation = load_federation(saved(path, x=x), seed=0)
    assert federation.train.x.shape[1:] == shape
    assert federation.train.x.flags.c_contiguous
    assert len(federation.features) == shape[0]


def test_channels_last_are_moved_and_not_reshaped(path):
    x = RNG.normal(size=(N, 5, 6, 3))
    federation = load_federation(saved(path, x=x), seed=0)
    assert in_any_order(everything(federation)) == in_any_order(x.transpose(0, 3, 1, 2))


def test_bytes_are_mapped_from_0_to_255_and_others_from_the_stated_range(path):
    x = RNG.integers(0, 256, (N, 4, 4), dtype=np.uint8)
    federation = load_federation(saved(path, x=x), seed=0)
    assert in_any_order(everything(federation)) == in_any_order(x / 127.5 - 1)
    assert federation.statistics == {"range of channel-0": "public"}
    stated = load_federation(saved(path, x=x).model_copy(update={"range": (0.0, 100.0)}), seed=0)
    assert in_any_order(everything(stated)) == in_any_order(np.minimum(x / 50 - 1, 1))
    signals = (SIGNALS * 100).astype(np.int16)
    federation = load_federation(saved(path, x=signals).model_copy(update={"range": (-200.0, 300.0)}), seed=0)
    assert in_any_order(everything(federation)) == in_any_order(np.clip((signals - 50) / 250, -1, 1))


def test_labels_and_clinics_may_be_words_and_sites_chosen(path):
    spec = saved(path, y=np.array(["ill", "well"])[Y], site=np.array(["oslo", "bern"])[SITE - 7])
    federation = load_federation(spec, seed=0)
    assert (federation.names, federation.classes) == (("bern", "oslo"), ("ill", "well"))
    alone = load_federation(spec.model_copy(update={"sites": ("oslo",)}), seed=0)
    assert alone.names == ("oslo",)
    assert in_any_order(everything(alone)) == in_any_order(SIGNALS[:20])


def test_patients_stay_together(path):
    who = np.arange(N) // 4
    saved(path, who=who, x=np.c_[who, who].astype(np.float32))
    spec = Npz(path=path, x="x", label="y", patient="who", split="iid", clinics=3)
    federation = load_federation(spec, seed=1)
    train, test = (set(part.x[:, 0, 0].tolist()) for part in (federation.train, federation.test))
    assert not train & test
    assert train | test == set(range(10))


# --- MedMNIST


def medmnist(path, **arrays):
    """Write 60, 20 and 40 images whose first pixel is their number."""
    parts = {"train": (0, 60), "val": (60, 80), "test": (80, 120)}
    made = {}
    for part, (start, stop) in parts.items():
        images = np.zeros((stop - start, 4, 4), dtype=np.uint8)
        images[:, 0, 0] = np.arange(start, stop)
        made |= {f"{part}_images": images, f"{part}_labels": (np.arange(start, stop) % 3)[:, None]}
    made |= arrays
    np.savez(path, **{name: array for name, array in made.items() if array is not None})
    return Npz(path=path, split="dirichlet", clinics=4, alpha=1.0)


def numbers(part):
    return sorted((((part.x[:, 0, 0, 0] + 1) * 127.5).round()).astype(int).tolist())


def test_medmnist_train_and_val_are_training_records_and_test_the_held_out(path):
    for split in (
        {},
        {"split": "iid", "alpha": None},
        {"split": "pathological", "alpha": None, "classes_per_clinic": 2},
        {"split": "quantity"},
    ):
        federation = load_federation(medmnist(path).model_copy(update=split), seed=2)
        assert federation.train.x.shape == (80, 1, 4, 4)
        assert numbers(federation.train) == [*range(80)]
        assert numbers(federation.test) == [*range(80, 120)]
        assert federation.names == ("clinic-1", "clinic-2", "clinic-3", "clinic-4")


def test_medmnist_test_records_are_divided_like_the_training_records(path):
    federation = load_federation(medmnist(path), seed=2)
    train, test = (
        np.array([np.bincount(part.y[a:b], minlength=3) for a, b in zip(part.offsets, part.offsets[1:], strict=False)])
        for part in (federation.train, federation.test)
    )
    assert (np.abs(test / test.sum(0) - train / train.sum(0)) <= 1 / test.sum(0)).all()
    assert not test[train == 0].any()


def test_medmnist_validation_and_missing_val_arrays(path):
    spec = medmnist(path).model_copy(update={"split": "iid", "alpha": None, "validation_share": 0.25})
    federation = load_federation(spec, seed=0)
    assert numbers(federation.test) == [*range(80, 120)]
    assert len(federation.validation.y) == pytest.approx(20, abs=4)
    without = load_federation(medmnist(path, val_images=None, val_labels=None), seed=0)
    assert numbers(without.train) == [*range(60)]


# --- problems


def test_clinics_without_held_out_records_are_one_line(path):
    few = {"test_images": np.zeros((3, 4, 4), np.uint8), "test_labels": np.zeros((3, 1), np.uint8)}
    assert problems(medmnist(path, **few).model_copy(update={"split": "iid", "alpha": None})) == [
        'scenario: data.split: clinic "clinic-4" has no held-out record; take fewer data.clinics, or a milder split'
    ]


@pytest.mark.parametrize(
    ("arrays", "keys", "expected"),
    [
        ({}, {"x": "X"}, 'x: there is no array "X"; did you mean "x"?'),
        ({}, {"label": "labels"}, 'label: there is no array "labels"; choose "x", "y" or "site"'),
        ({}, {"clinic": "sites"}, 'clinic: there is no array "sites"; did you mean "site"?'),
        ({}, {"patient": "who"}, 'patient: there is no array "who"; choose "x", "y" or "site"'),
        ({"y": Y[:-1]}, {}, 'label: array "y" has 39 values for 40 records; give one a record'),
        ({"site": SITE[:-2]}, {}, 'clinic: array "site" has 38 values for 40 records; give one a record'),
        ({"y": np.eye(N)}, {}, 'label: array "y" has shape [40, 40]; give one value a record'),
        ({"y": Y + 0.5}, {}, "label: the array of labels holds numbers that are not whole; give a column of classes"),
        (
            {"y": np.where(Y, np.nan, 1.0)},
            {},
            'label: array "y" has a missing value in record 1, counted from 0; fill in or remove',
        ),
        (
            {"site": np.where(Y, "", "a")},
            {},
            'clinic: array "site" has a missing value in record 1, counted from 0; fill in or remove',
        ),
        ({"y": Y.astype(complex)}, {}, 'label: array "y" holds neither numbers nor text; save it as one of them'),
        ({"x": Y}, {}, 'x: array "x" has shape [40]; give images or signals, one a record'),
        ({"x": np.zeros((N, 0))}, {}, 'x: array "x" has shape [40, 0]; give images or signals, one a record'),
        ({"x": np.full((N, 3), "1")}, {}, 'x: array "x" does not hold numbers; save it as numbers'),
        *(
            (
                {"x": np.where(np.arange(N)[:, None] == 5, value, SIGNALS.astype(float))},
                {},
                'x: array "x" has a missing, infinite or too large value in record 5, counted from 0; correct it',
            )
            for value in (np.nan, np.inf, 1e39)
        ),
        ({}, {"sites": ("7", "9")}, 'sites: unknown site "9"; write it as in the file'),
        (
            {"y": np.arange(N)},
            {"one_class": "refuse", "stratified": True},
            ": clinic 1 of 2 by name has no two records of the same class, so none can be held out; "
            'put it into data.exclude-sites, or set data.one-class = "keep"',
        ),
    ],
)
def test_each_fault_is_exactly_one_line(path, arrays, keys, expected):
    found = problems(saved(path, **arrays).model_copy(update=keys))
    assert found[0] == (f"scenario: data.{expected}" if expected[0] != ":" else f"scenario: data{expected}")
    assert len(found) == 1 + (expected[0] == ":")  # the last fault is of both clinics


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"test_labels": None}, 'path: there is no array "test_labels" beside the others of MedMNIST; add it'),
        ({"val_images": None}, 'path: there is no array "val_images" beside the others of MedMNIST; add it'),
        (
            {"val_images": np.zeros((20, 5, 4), np.uint8)},
            "path: MedMNIST's arrays of images differ in the size of an image; make them equal",
        ),
        (
            {"val_labels": np.zeros((19, 1), np.uint8)},
            'label: array "val_labels" has 19 values for 20 records; give one a record',
        ),
    ],
)
def test_each_fault_of_medmnist_is_exactly_one_line(path, arrays, expected):
    assert problems(medmnist(path, **arrays)) == [f"scenario: data.{expected}"]


def test_an_archive_with_other_names_asks_for_them(path):
    saved(path)
    assert problems(Npz(path=path, split="iid", clinics=2)) == [
        "scenario: data.x: is missing; name the array of records (data.x) and the array of labels (data.label)"
    ]


class Trap:
    """Says so if it is ever unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def test_pickled_objects_are_never_loaded(path):
    spec = saved(path, y=np.array([Trap()] * N, dtype=object))
    assert problems(spec) == [
        f'scenario: data.path: {path} holds array "y" as pickled objects, which are never read; '
        "save it as numbers or text"
    ]
    with path.open("wb") as file:
        np.save(file, np.array([Trap()], dtype=object))
    assert problems(spec) == [f"scenario: data.path: {path} holds no named array; save it with numpy.savez"]
    path.write_bytes(pickle.dumps(Trap()))
    [line] = problems(spec)
    assert line.endswith("is no NumPy archive, or not whole; save it with numpy.savez")


def test_unreadable_archives_are_one_line(path):
    spec = saved(path)
    whole = path.read_bytes()
    for content in (b"", b"PK", b"no archive", whole[:200], whole[:-30]):
        path.write_bytes(content)
        [line] = problems(spec)
        assert line == f"scenario: data.path: {path} is no NumPy archive, or not whole; save it with numpy.savez"
    with path.open("wb") as file:
        np.save(file, SIGNALS)
    assert problems(spec) == [f"scenario: data.path: {path} holds no named array; save it with numpy.savez"]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00v\x00{'descr'")
    [line] = problems(spec)
    assert line.endswith('has a damaged array "x"; save it again')
    np.savez(path)
    assert problems(spec) == [f"scenario: data.path: {path} holds no named array; save it with numpy.savez"]
    path.unlink()
    assert problems(spec) == [f"scenario: data.path: {path} does not exist; check the path"]


def test_a_changed_archive_is_read_again(path):
    before = load_federation(saved(path), seed=0)
    after = load_federation(saved(path, x=-SIGNALS), seed=0)
    assert np.array_equal(before.train.x, -after.train.x)
