"""Made-up patients of clinics that differ."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from test_data import problems

from sim.data import synthetic
from sim.data.deal import apportion
from sim.data.federation import load_federation
from sim.foundation.rng import stream
from sim.scenario.data import Synthetic


def made(seed=0, **keys):
    return synthetic.make(Synthetic(**({"clinics": 50, "records": 20_000, "features": 6} | keys)), seed)


def means(table):
    sizes = np.bincount(table.clinic)
    return np.stack([np.bincount(table.clinic, column) for column in table.x.T], axis=1) / sizes[:, None], sizes


def test_shapes_and_types():
    table = made(classes=3)
    assert (table.x.shape, table.x.dtype, table.y.dtype) == ((20_000, 6), np.float32, np.int64)
    assert (table.classes, table.features[0], table.names[49]) == (("0", "1", "2"), "x1", "clinic-50")
    assert (np.diff(table.clinic) >= 0).all()


def test_sizes_are_log_normal():
    truth = stream(7, "synthetic.truth")
    truth.standard_normal((6, 1))
    expected = apportion(np.exp(0.8 * truth.standard_normal(50)), 20_000, least=2)
    assert np.bincount(made(7, size_spread=0.8).clinic).tolist() == expected.tolist()
    assert set(np.bincount(made(size_spread=0).clinic)) == {400}
    sizes = np.bincount(made(clinics=1000, records=10**6, features=1, size_spread=1.2).clinic)
    assert np.log(sizes).std() == pytest.approx(1.2, rel=0.1)
    assert np.bincount(made(clinics=300, records=700, size_spread=3).clinic).min() == 2


def test_site_shifts_have_the_stated_deviation():
    table = made(clinics=400, records=400_000, feature_shift=0.7, size_spread=0)
    assert means(table)[0].std() == pytest.approx(0.7, rel=0.05)
    without = made(feature_shift=0, size_spread=0)
    assert means(without)[0].std() == pytest.approx(1 / np.sqrt(400), rel=0.2)


def test_intercept_shifts_have_the_stated_deviation():
    table = made(clinics=300, records=300_000, feature_shift=0, intercept_shift=0.8, signal=0, size_spread=0)
    share = np.bincount(table.clinic, table.y) / 1000
    assert np.log(share / (1 - share)).std() == pytest.approx(0.8, rel=0.1)


@pytest.mark.parametrize("prevalence", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("classes", [2, 4])
def test_prevalence_is_the_share_of_all_classes_but_the_first(prevalence, classes):
    table = made(prevalence=prevalence, classes=classes, records=100_000, signal=2)
    shares = np.bincount(table.y, minlength=classes) / len(table.y)
    assert shares[0] == pytest.approx(1 - prevalence, abs=0.005)
    np.testing.assert_allclose(shares[1:], prevalence / (classes - 1), atol=0.005)


def test_without_prevalence_all_classes_are_equally_frequent():
    np.testing.assert_allclose(np.bincount(made(classes=5).y) / 20_000, 0.2, atol=0.01)


def test_the_truth_is_logistic_with_weights_of_the_stated_length():
    table = made(3, records=200_000, clinics=2, feature_shift=0, intercept_shift=0, signal=2.0)
    found = LogisticRegression(C=1e6).fit(table.x, table.y).coef_[0]
    weights = stream(3, "synthetic.truth").standard_normal((6, 1))[:, 0]
    np.testing.assert_allclose(found, 2 * weights / np.linalg.norm(weights), atol=0.05)


def test_the_truth_is_softmax_for_more_classes():
    table = made(3, records=200_000, clinics=2, feature_shift=0, intercept_shift=0, signal=1.5, classes=3)
    found = LogisticRegression(C=1e6).fit(table.x, table.y).coef_
    weights = stream(3, "synthetic.truth").standard_normal((6, 2))
    expected = 1.5 * weights / np.linalg.norm(weights, axis=0)
    np.testing.assert_allclose((found[1:] - found[0]).T, expected, atol=0.05)


def test_no_signal_and_very_much():
    assert abs(np.corrcoef(made(signal=0, intercept_shift=0).x[:, 0], made(signal=0, intercept_shift=0).y)[0, 1]) < 0.03
    table = made(signal=50, prevalence=0.1, records=100_000)
    assert np.mean(table.y) == pytest.approx(0.1, abs=0.01)


def test_a_clinics_features_do_not_depend_on_the_others():
    few, many = made(clinics=2, records=400, size_spread=0), made(clinics=5, records=1000, size_spread=0)
    assert np.array_equal(few.x, many.x[:400])
    assert not np.array_equal(few.x, made(1, clinics=2, records=400, size_spread=0).x)


def test_sites_and_splits():
    spec = Synthetic(clinics=6, records=3000, sites=("clinic-5", "clinic-2"))
    federation = load_federation(spec, seed=0)
    assert federation.names == ("clinic-2", "clinic-5")
    assert problems(spec.model_copy(update={"sites": ("clinic-7",)})) == [
        'scenario: data.sites: unknown site "clinic-7"; did you mean "clinic-6"?'
    ]
    dealt = load_federation(Synthetic(clinics=6, records=3000, split="iid"), seed=0)
    assert set(np.diff(dealt.train.offsets) + np.diff(dealt.test.offsets)) == {500}


def test_a_million_records_of_a_thousand_clinics():
    federation = load_federation(Synthetic(clinics=1000, records=10**6, prevalence=0.1), seed=0)
    assert federation.train.x.shape[1] == 20
    assert len(federation.train.y) + len(federation.test.y) == 10**6
