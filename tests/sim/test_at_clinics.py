"""What sets some clinics' records apart, on any source: labels flipped, columns absent, features shifted."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sim import run
from sim.api.preparing import prepare
from sim.data.at_clinics import load_records
from sim.data.federation import load_federation
from sim.data.heart import FEATURES
from sim.foundation.problems import ScenarioError
from sim.scenario import parse_scenario
from sim.scenario.spec import expand

HEART = {"source": "heart-disease", "validation-share": 0.2}
SYNTHETIC = {"source": "synthetic", "clinics": 4, "records": 400, "validation-share": 0.2}
SOURCES = {
    "heart": HEART,
    "dirichlet": HEART | {"split": "dirichlet", "clinics": 5, "alpha": 0.5},
    "synthetic": SYNTHETIC,
}
ALL = [{"profile": "hospital"}]


def checked(data, clinics, **further):
    return parse_scenario(
        {
            "name": "apart",
            "seeds": [0],
            "data": data,
            "model": {"name": "logistic"},
            "train": {"rounds": 2, "batch-size": 32, "learning-rate": 0.3},
            "clinics": clinics,
            "strategies": [{"name": "fedavg"}],
        }
        | further,
        Path(),
    )


def both(data, clinics, seed=0):
    """Return a federation as its source has it, and as it is at its clinics."""
    scenario = checked(data, clinics)
    return load_federation(scenario.data, seed), load_records(scenario.data, scenario.clinics, seed)


def of(part, clinic):
    return slice(*part.offsets[clinic : clinic + 2])


@pytest.mark.parametrize("source", SOURCES)
def test_a_share_of_one_clinics_training_labels_is_wrong_and_nothing_else(source):
    first = load_federation(checked(SOURCES[source], ALL).data, 0).names[1]
    plain, noisy = both(SOURCES[source], [{"profile": "hospital", "sites": [first], "label-noise": 0.3}, *ALL])
    wrong = plain.train.y != noisy.train.y
    own = of(plain.train, 1)
    assert wrong[own].sum() == int(0.3 * (own.stop - own.start) + 0.5)
    assert wrong.sum() == wrong[own].sum()
    for part in ("train", "test", "validation"):
        assert np.array_equal(getattr(plain, part).x, getattr(noisy, part).x)
    assert np.array_equal(plain.test.y, noisy.test.y)
    assert np.array_equal(plain.validation.y, noisy.validation.y)
    assert not noisy.train.y.flags.writeable
    assert noisy.statistics[f"0.3 of the training labels wrong at {first}"] == "simulated"


def test_which_labels_are_wrong_is_drawn_by_the_seed_and_the_clinic_alone():
    def wrong(seed, clinics):
        plain, noisy = both(SYNTHETIC, clinics, seed)
        return [(plain.train.y != noisy.train.y)[of(plain.train, k)] for k in range(4)]

    everywhere = [{"profile": "hospital", "label-noise": 0.5}]
    alone = [{"profile": "hospital", "sites": ["clinic-3"], "label-noise": 0.5}, *ALL]
    assert np.array_equal(wrong(0, everywhere)[2], wrong(0, alone)[2])
    assert not np.array_equal(wrong(0, everywhere)[2], wrong(1, everywhere)[2])


def test_a_wrong_label_of_several_classes_is_any_other_one():
    data = {"source": "synthetic", "clinics": 2, "records": 6000, "classes": 3}
    plain, noisy = both(data, [{"profile": "hospital", "label-noise": 1.0}])
    moved = (noisy.train.y - plain.train.y) % 3
    assert set(moved) == {1, 2}
    assert np.mean(moved == 1) == pytest.approx(0.5, abs=0.03)


def test_absent_columns_are_zero_in_all_records_of_these_clinics():
    clinics = [{"profile": "hospital", "sites": ["va", "hungarian"], "missing-columns": ["chol", "cp"]}, *ALL]
    plain, lacking = both(HEART, clinics)
    absent = [plain.features.index(name) for name in ("chol", "cp_2", "cp_3", "cp_4")]
    for part in ("train", "test", "validation"):
        before, after = getattr(plain, part), getattr(lacking, part)
        for k, name in enumerate(plain.names):
            was, now = before.x[of(before, k)], after.x[of(after, k)].copy()
            if name in ("va", "hungarian"):
                assert (now[:, absent] == 0).all()
                now[:, absent] = was[:, absent]
            assert np.array_equal(now, was)
        assert np.array_equal(before.y, after.y)


def test_an_indicator_says_what_is_absent(tmp_path):
    frame = pd.DataFrame({"site": ["a", "b"] * 20, "y": [0, 1, 1, 0] * 10, "lab": [1.0, None, 3.0, 4.0] * 10})
    frame["age"] = range(40)
    frame.to_csv(tmp_path / "lab.csv", index=False)
    data = {
        "source": "csv",
        "path": str(tmp_path / "lab.csv"),
        "label": "y",
        "clinic": "site",
        "ranges": {"lab": [0, 10], "age": [0, 40]},
        "missing": {"lab": 2},
        "missing-indicator": True,
    }
    _, lacking = both(data, [{"profile": "hospital", "sites": ["a"], "missing-columns": ["lab"]}, *ALL])
    lab = [lacking.features.index(name) for name in ("lab", "lab_missing")]
    assert (lacking.train.x[of(lacking.train, 0)][:, lab] == [0, 1]).all()
    assert (lacking.train.x[of(lacking.train, 1)][:, lab] != [0, 1]).any()


@pytest.mark.parametrize("source", SOURCES)
def test_a_shift_is_affine_the_same_in_all_parts_and_of_the_stated_size(source):
    plain, moved = both(SOURCES[source], [{"profile": "hospital", "feature-shift": 0.5}])
    factors = []
    for k in range(len(plain.names)):
        x, there = plain.train.x[of(plain.train, k)], moved.train.x[of(moved.train, k)]
        varies = x.std(axis=0) > 0
        scale = there.std(axis=0)[varies] / x.std(axis=0)[varies]
        shift = there.mean(axis=0)[varies] - scale * x.mean(axis=0)[varies]
        held_out, found = plain.test.x[of(plain.test, k)][:, varies], moved.test.x[of(moved.test, k)][:, varies]
        np.testing.assert_allclose(found, scale * held_out + shift, atol=1e-4)
        factors += [*np.log(scale), *shift]
    assert 0.3 < np.std(factors) < 0.7


def test_a_clinic_that_is_held_out_as_a_whole_has_its_columns_away_too():
    data = HEART | {"test": "held-out-clinics", "test-sites": ["va"], "validation-share": 0.0}
    _, lacking = both(data, [{"profile": "hospital", "sites": ["va"], "missing-columns": ["age"]}, *ALL])
    age = lacking.features.index("age")
    assert (lacking.test.x[:, age] == 0).all()
    assert (lacking.train.x[:, age] != 0).any()


def test_a_sweep_is_a_dose_response_curve_with_a_column_of_its_own(tmp_path):
    scenario = checked(
        HEART,
        [{"profile": "hospital", "sites": ["cleveland"]}, {"profile": "hospital"}],
        sweep={"clinics.0.label-noise": [0.0, 0.5, 1.0]},
        train={"rounds": 10, "batch-size": 32, "learning-rate": 0.3},
        strategies=[{"name": "local"}],
    )
    study = run(scenario, tmp_path, progress=False)
    runs = study.runs[study.runs["strategy"] == "local"].set_index("clinics.0.label-noise")
    own = study.clinics[study.clinics["name"] == "cleveland"].set_index("run_id")["auc"]
    scores = own.loc[runs["run_id"]].tolist()
    assert scores[0] > 0.8
    assert scores[0] > scores[1] > scores[2]
    assert scores[2] < 0.2, "all wrong is the right answer upside down"
    others = study.clinics[study.clinics["name"] != "cleveland"].groupby("name")["auc"].nunique()
    assert (others <= 2).all(), "the reference's and one's own"
    drawn = study.figures["dose"].spec["datasets"]["doses"]
    of_local = {row["dose"]: row["mean"] for row in drawn if row["series"] == "Local"}
    assert of_local == pytest.approx(runs["within_clinic_auc"].to_dict())
    page = study.report().read_text(encoding="utf-8")
    assert "training labels wrong at cleveland" in page
    assert len(study.runs[study.runs["strategy"] == "prevalence"]) == 3


def test_keys_that_change_nothing_change_no_id():
    def ids(*groups):
        return {expand(checked(SYNTHETIC, [ALL[0] | group]))[0].run_id for group in groups}

    assert len(ids({}, {"label-noise": 0.0, "missing-columns": [], "feature-shift": 0.0})) == 1
    assert len(ids({}, {"label-noise": 0.1}, {"missing-columns": ["x1"]}, {"feature-shift": 0.1})) == 4
    assert len(ids({}, {"hostile": "noise"}, {"hostile": "noise", "hostile-strength": 3.0})) == 3


@pytest.mark.parametrize(
    ("clinics", "further", "told"),
    [
        ([ALL[0] | {"label-noise": 1.5}], {}, "clinics.0.label-noise"),
        (
            [ALL[0] | {"missing-columns": ["ages"]}],
            {},
            'missing-columns: there is no feature "ages"; did you',
        ),
        ([ALL[0] | {"feature-shift": -1}], {}, "clinics.0.feature-shift"),
        (
            [ALL[0] | {"sites": ["va"], "missing-columns": [*FEATURES]}, ALL[0]],
            {},
            "clinics.0.missing-columns: nothing is left to predict from",
        ),
        ([ALL[0] | {"hostile-strength": 10.0}], {}, "clinics.0.hostile-strength: has no effect without hostile"),
        ([ALL[0]], {"sweep": {"clinics.0.hostile-strength": [1, 2]}}, "hostile-strength: has no effect without"),
        ([ALL[0] | {"hostile": "noise"}], {}, "clinics.hostile: every clinic that trains is hostile"),
        ([ALL[0] | {"sites": ["va"], "hostile": "row-noise"}, ALL[0]], {}, "clinics.hostile: row-noise is on rows at"),
        (ALL, {"sweep": {"clinics.0.profile": ["hospital"]}}, "cannot be swept; of [[clinics]] sweep"),
        (ALL, {"sweep": {"clinics.4.label-noise": [0.1]}}, "sweep.clinics.4.label-noise"),
        (ALL, {"sweep": {"clinics.0.label-noise": [2.0]}}, "sweep.clinics.0.label-noise"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, clinics, further, told):
    with pytest.raises(ScenarioError) as caught:
        run(checked(HEART, clinics, **further), tmp_path, progress=False)
    [line] = caught.value.problems
    assert told in line


def test_noise_on_rows_is_for_studies_in_which_a_method_sends_some():
    strategies = [{"name": "fedavg"}, {"name": "split", "cut": "vanilla"}]
    clinics = [ALL[0] | {"count": 1, "hostile": "row-noise"}, ALL[0]]
    further = {"model": {"name": "mlp", "hidden": [4, 4], "cut": 1}, "strategies": strategies}
    study = checked(SYNTHETIC, clinics, **further)
    assert {plan.spec.strategy.name for plan in prepare(study).plans} >= {"fedavg", "split"}
    assert prepare(study, ["fedavg"]).plans
    with pytest.raises(ScenarioError, match="no strategy here sends any"):
        prepare(checked(SYNTHETIC, clinics, **further | {"strategies": strategies[:1]}))


def test_times_have_no_wrong_labels(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"site": ["a", "b"] * 60, "days": rng.integers(1, 99, 120), "died": 1, "x": rng.normal(size=120)}
    )
    data = {"outcome": "time", "time": "days", "event": "died", "horizon": 50, "clinic": "site", "scaling": "none"}
    written = {
        "name": "times",
        "seeds": [0],
        "data": data,
        "model": {"name": "mlp", "hidden": [4]},
        "train": {"rounds": 1, "batch-size": 16, "learning-rate": 0.1},
        "clinics": [{"profile": "hospital", "label-noise": 0.1}],
        "strategies": [{"name": "fedavg-finetuned"}],
    }
    with pytest.raises(ScenarioError, match="label-noise: flips classes, and what is predicted here has none"):
        run(written, tmp_path, data=frame, progress=False)
    assert run(written, tmp_path, data=frame, set={"clinics.0.label-noise": 0.0}, progress=False).ok
