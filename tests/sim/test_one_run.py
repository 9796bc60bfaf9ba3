import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from sim.privacy.audited import audit_one_run, epsilon_lower_bound, p_value


@pytest.mark.parametrize(
    ("counts", "delta", "printed"),
    [((1000, 100, 75), 1e-4, 0.673), ((100_000, 1510, 1439), 1e-5, 2.675)],
    ids=["appendix D", "section 7"],
)
def test_the_papers_printed_bounds(counts, delta, printed):
    assert epsilon_lower_bound(*counts, delta) == pytest.approx(printed, abs=1e-3)


@pytest.mark.parametrize("guesses", [1, 10, 200])
def test_without_a_wrong_guess_the_bound_has_a_closed_form(guesses):
    accuracy = 0.05 ** (1 / guesses)
    bound = epsilon_lower_bound(guesses, guesses, guesses, 0.0)
    assert bound == pytest.approx(max(0.0, math.log(accuracy / (1 - accuracy))), abs=1e-5)


@given(st.integers(1, 30), st.integers(0, 30), st.integers(0, 20), st.floats(0, 5), st.floats(0, 0.01))
def test_the_p_value_is_the_formula_written_out(guesses, correct, silent, epsilon, delta):
    correct, canaries = min(correct, guesses), guesses + silent
    accuracy = math.exp(epsilon) / (1 + math.exp(epsilon))
    mass = [binom.pmf(w, guesses, accuracy) for w in range(guesses + 1)]
    alpha = max((2 / i * sum(mass[correct - i : correct]) for i in range(1, correct + 1)), default=0.0)
    expected = min(1.0, sum(mass[correct:]) + canaries * delta * alpha)
    assert p_value(canaries, guesses, correct, epsilon, delta) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=30)
@given(st.integers(2, 200), st.data())
def test_the_bound_is_monotonic_and_below_the_log_ratio(guesses, data):
    correct = data.draw(st.integers(1, guesses - 1))
    bound = epsilon_lower_bound(guesses, guesses, correct, 0.0)
    assert bound <= epsilon_lower_bound(guesses, guesses, correct + 1, 0.0)
    assert bound >= epsilon_lower_bound(guesses, guesses, correct, 1e-3)
    assert bound >= epsilon_lower_bound(guesses, guesses, correct, 0.0, confidence=0.99)
    assert bound <= max(0.0, math.log(correct / (guesses - correct)))


@pytest.mark.parametrize("epsilon", [1.0, 3.0])
def test_the_bound_on_randomised_response_is_wrong_no_more_often_than_stated(epsilon):
    draws = np.random.default_rng(0)
    audits = []
    for _ in range(200):
        coins = draws.random(100) < 0.5
        kept = draws.random(100) < math.exp(epsilon) / (1 + math.exp(epsilon))
        scores = np.where(kept, coins, ~coins) + 1e-3 * draws.random(100)
        audits.append(audit_one_run(scores, coins, 30, 30, 0.0))
    assert np.mean(np.array(audits) > epsilon) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)
    assert np.mean(audits) > epsilon / 3, "the bound has no power"


def test_the_highest_scores_are_guessed_in_and_the_lowest_out():
    included = np.array([True, False, False, True, False, True])
    scores = np.array([9.0, 8.0, 0.0, 1.0, -4.0, 5.0])
    found = [audit_one_run(scores, included, 2, 2, 0.0, confidence) for confidence in (0.2, 0.5, 0.7)]
    assert found == [epsilon_lower_bound(6, 4, 3, 0.0, confidence) for confidence in (0.2, 0.5, 0.7)]
    assert found[0] > 0


@pytest.mark.parametrize(("inside", "outside"), [(0, 0), (4, 3), (-1, 2)])
def test_no_or_too_many_guesses_are_refused(inside, outside):
    with pytest.raises(ValueError, match="from one to that many"):
        audit_one_run(np.zeros(6), np.zeros(6, dtype=bool), inside, outside, 0.0)


@pytest.mark.parametrize(
    "arguments", [(5, 6, 1, 1.0, 0.0), (9, 6, 7, 1.0, 0.0), (9, 6, 1, -1.0, 0.0), (9, 6, 1, 1.0, 1.0)]
)
def test_impossible_numbers_are_refused(arguments):
    with pytest.raises(ValueError, match=r"not possible|must not"):
        p_value(*arguments)
