"""LiRA's scores against closed forms: deviations, rounds, variances, and records that no shadow model lacks."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from sim.attacks.lira import moderated, scores
from sim.attacks.membership_game import Guesses


def test_scores_that_move_by_one_deviation_are_told_apart_as_the_closed_form_says():
    rng = np.random.default_rng(0)
    inside = rng.random((200, 150)) < 0.5
    own = np.exp(rng.normal(0, 0.5, 150))
    logits = rng.normal(size=150) * 5 + own * (inside + rng.normal(size=inside.shape))
    guesses = Guesses.of(scores(logits[None], inside)[0], inside, np.ones(150, dtype=bool))
    auc, _, tpr = guesses.measured(np.ones(200), np.ones(150))
    assert auc == pytest.approx(norm.cdf(1 / math.sqrt(2)), abs=0.01)
    assert tpr == pytest.approx(norm.cdf(norm.ppf(0.01) + 1), abs=0.012)


def test_the_offline_attack_is_the_score_in_deviations_of_models_without_the_record():
    rng = np.random.default_rng(1)
    inside = rng.random((300, 40)) < 0.5
    logits = 2 * rng.normal(size=inside.shape) + 3
    offline = scores(logits[None], inside)[1]
    assert offline == pytest.approx((logits - 3) / 2, abs=0.6)


def test_rounds_are_weighed_as_the_best_linear_rule_of_their_covariance():
    rng = np.random.default_rng(2)
    inside = rng.random((100, 200)) < 0.5
    covariance = np.array([[1.0, 0.8], [0.8, 1.0]])
    noise = np.linalg.cholesky(covariance) @ rng.normal(size=(2, inside.size))
    moved = np.array([0.2, 1.0])
    logits = noise.reshape(2, *inside.shape) + moved[:, None, None] * inside
    guesses = Guesses.of(scores(logits, inside)[0], inside, np.ones(200, dtype=bool))
    distance = math.sqrt(moved @ np.linalg.solve(covariance, moved))
    assert guesses.measured(np.ones(100), np.ones(200))[0] == pytest.approx(
        norm.cdf(distance / math.sqrt(2)), abs=0.012
    )
    assert distance > 1.3, "further than either round alone"


def test_variances_are_drawn_to_the_common_one_as_far_as_they_truly_agree():
    """The posterior mean of Smyth 2004 with the true prior, which simulated variances are drawn from."""
    rng = np.random.default_rng(3)
    d0, common, freedom = 6.0, 2.5, 5
    true = d0 * common / rng.chisquare(d0, 20000)
    squares = true * rng.chisquare(freedom, 20000)
    expected = (d0 * common + squares) / (d0 + freedom)
    assert moderated(squares, np.full(20000, float(freedom))) == pytest.approx(expected, rel=0.1)
    alike = 2.5 * rng.chisquare(freedom, 20000)
    assert moderated(alike, np.full(20000, float(freedom))) == pytest.approx(2.5, rel=0.15)


def test_a_record_that_no_shadow_lacks_is_judged_by_what_training_does_to_others():
    rng = np.random.default_rng(4)
    inside = rng.random((60, 50)) < 0.5
    inside[:, 0] = np.arange(60) > 0
    logits = rng.normal(size=inside.shape) + 3 * inside
    online, offline = scores(logits[None], inside)
    assert online[0, 0] < 0 < online[1:, 0].mean(), "the one model without it has shadows with it alone"
    assert offline[0, 0] == 0


def test_few_shadow_models_tell_nearly_as_much_as_the_truth():
    """Each record moves by as much: means and variances of eight models' own would lose half of that."""
    rng = np.random.default_rng(6)
    inside = rng.random((9, 2000)) < 0.5
    logits = rng.normal(size=2000) * 5 + 0.5 * inside + rng.normal(size=inside.shape)
    guesses = Guesses.of(scores(logits[None], inside)[0], inside, np.ones(2000, dtype=bool))
    best = norm.cdf(0.5 / math.sqrt(2))
    assert guesses.measured(np.ones(9), np.ones(2000))[0] == pytest.approx(best, abs=0.02)
