"""Scores of rebuilt records against other programs' numbers, the papers' formulas and known truths."""

import numpy as np
import pytest

from sim.attacks.likeness import identification, likeness, structural_similarity


def test_structural_similarity_is_scikit_images():
    """The numbers are ``skimage.metrics.structural_similarity`` of 0.26 on the same images."""
    k = np.arange(100.0).reshape(10, 10)
    a = np.sin(k / 7)
    b = a + 0.3 * np.cos(k * k / 11)
    assert structural_similarity(a[None, None], b[None, None], 2.0) == pytest.approx(0.7779521656672856, abs=1e-12)
    two = structural_similarity(np.stack([a, a.T])[None], np.stack([b, a])[None], 2.0)
    assert two == pytest.approx(0.3892416705917203, abs=1e-12)


def test_structural_similarity_of_an_image_of_one_window_by_the_papers_formula():
    """Wang et al. 2004, equation 13, with sample covariances."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 1, 1, 3, 3))
    (va, cov), (_, vb) = np.cov(a.ravel(), b.ravel())
    c1, c2 = 0.04**2, 0.12**2
    expected = (2 * a.mean() * b.mean() + c1) * (2 * cov + c2)
    expected /= (a.mean() ** 2 + b.mean() ** 2 + c1) * (va + vb + c2)
    assert structural_similarity(a, b, 4.0) == pytest.approx(expected)


def scored(originals, rebuilt, known):
    return {finding.measure: finding for finding in likeness(originals, rebuilt, known)}


def test_what_is_rebuilt_exactly_has_the_best_scores_and_the_mean_has_chance():
    rng = np.random.default_rng(1)
    best = {"r2": 1, "recovered_share": 1, "correlation": 1, "ssim": 1, "psnr": 100, "identified_share": 1}
    for shape in ((5,), (2, 12), (3, 9, 8)):
        known, x = rng.normal(size=(2, 40, *shape))
        if len(shape) == 1:
            known[:, 2], x[:, 2] = rng.integers(2, size=(2, 40))
        assert {name: found.value for name, found in scored(x, x, known).items()} == pytest.approx(
            {name: best[name] for name in scored(x, x, known)}
        )
        for found in scored(x, np.broadcast_to(known.mean(0), x.shape), known).values():
            assert found.value == pytest.approx(found.chance)
            assert found.low <= found.chance <= found.high


def test_explained_variance_recovered_categories_and_identification_by_hand():
    x = np.array([[0.0, 1.0], [2.0, 0.0], [4.0, 1.0], [6.0, 1.0]])
    rebuilt = np.array([[1.0, 0.9], [2.0, 0.6], [3.0, 0.4], [6.0, 1.0]])
    known = np.array([[5.0, 1.0], [1.0, 0.0], [3.0, 1.0]])
    found = scored(x, rebuilt, known)
    missed = 1 + 0.01 + 0.36 + 1 + 0.36
    assert found["r2"].value == pytest.approx(1 - missed / (20 + 0.75))
    assert found["recovered_share"].value == 0.5
    assert found["recovered_share"].chance == 0.75
    assert found["identified_share"].value == 0.75
    assert found["identified_share"].chance == 0.25


def test_the_same_record_twice_is_told_apart_by_a_guess():
    x = np.array([[0.0], [1.0], [1.0], [3.0]])
    assert identification(x, x).value == pytest.approx((1 + 0.5 + 0.5 + 1) / 4)


def test_intervals_over_records_hold_the_truth_as_often_as_they_say():
    """Records with noise of known size: the share explained is 1 - .25 / 1."""
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(400):
        x = rng.normal(size=(150, 4))
        found = scored(x, x + rng.normal(size=x.shape) / 2, rng.normal(size=(99, 4)))["r2"]
        inside += found.low <= 0.75 <= found.high
    assert 0.91 < inside / 400 < 0.98
