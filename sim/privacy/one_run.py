"""A lower bound on epsilon from one training run, by guessing which canaries were in the training data.

Each of m canaries is put into the training data or left out by a fair coin of its own. After the run the auditor scores
every canary and guesses the coins of those that it is surest of. If the run is (epsilon, delta)-DP, the number of right
guesses is hardly larger than that of as many independent randomised responses (Steinke, Nasr & Jagielski, "Privacy
auditing with one (1) training run", NeurIPS 2023, arXiv:2305.08846, theorem 5.2).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.foundation.lazy import Lazy

special: Any = Lazy("scipy.special")
stats: Any = Lazy("scipy.stats")

Floats = NDArray[np.float64]
Coins = NDArray[np.bool_]
_PRECISION = 1e-6


def audit_one_run(
    scores: Floats, included: Coins, inside: int, outside: int, delta: float, confidence: float = 0.95
) -> float:
    """Guess the coins of the canaries with the highest and the lowest scores, and return the bound on epsilon.

    Parameters
    ----------
    scores : ndarray
        ``[canary]``, high where the run looks as if the canary had been in it.
    included : ndarray of bool
        ``[canary]`` how the coins fell.
    inside, outside : int
        How many guesses say "in", to the highest scores, and "out", to the lowest. To be fixed before the scores are
        seen. ``ValueError`` if there is no guess, or more than there are canaries.
    """
    guesses = inside + outside
    if min(inside, outside) < 0 or not 0 < guesses <= len(scores):
        raise ValueError(f"{guesses} guesses on {len(scores)} canaries; from one to that many are needed")
    order = np.argsort(scores, kind="stable")
    correct = int(np.sum(~included[order[:outside]]) + np.sum(included[order[len(order) - inside :]]))
    return epsilon_lower_bound(len(scores), guesses, correct, delta, confidence)


def epsilon_lower_bound(canaries: int, guesses: int, correct: int, delta: float, confidence: float = 0.95) -> float:
    """Return the largest epsilon, less a millionth, that so many right guesses refute; 0 if they refute none.

    ``canaries >= guesses >= correct >= 0`` and ``0 <= delta < 1``. The bound is above the true epsilon with at most the
    probability that ``confidence`` leaves.
    """
    allowed = 1 - confidence
    low, high = 0.0, 1.0
    if p_value(canaries, guesses, correct, low, delta) >= allowed:
        return 0.0
    while p_value(canaries, guesses, correct, high, delta) < allowed:
        low, high = high, 2 * high
    while high - low > _PRECISION:
        middle = (low + high) / 2
        if p_value(canaries, guesses, correct, middle, delta) < allowed:
            low = middle
        else:
            high = middle
    return low


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Bound the probability that an (epsilon, delta)-DP run lets so many guesses, or more, be right.

    With W binomial of ``guesses`` trials that succeed with e^epsilon / (1 + e^epsilon), and v = ``correct``, it is
    P[W >= v] + 2 m delta max_i P[v > W >= v - i] / i, with i from 1 to v. ``ValueError`` for numbers out of range.
    """
    if not 0 <= correct <= guesses <= canaries:
        raise ValueError(f"{correct} right of {guesses} guesses on {canaries} canaries is not possible")
    if epsilon < 0 or not 0 <= delta < 1:
        raise ValueError(f"epsilon must not be negative and delta lie in [0, 1); got {epsilon} and {delta}")
    accuracy = float(special.expit(epsilon))
    tail = float(stats.binom.sf(correct - 1, guesses, accuracy))
    if delta == 0 or correct == 0:
        return min(1.0, tail)
    below = np.cumsum(stats.binom.pmf(np.arange(correct - 1, -1, -1), guesses, accuracy))
    worst = float(np.max(below / np.arange(1, correct + 1)))
    return min(1.0, tail + 2 * canaries * delta * worst)
