"""A lower bound on epsilon from trials: a canary is in the data by a fair coin, and the auditor guesses the coin.

Two bounds come of the same trials. The one free of assumptions [1]_ holds for any mechanism, and is far from the truth
where what is claimed shows only in rare events, as of Gaussian noise at a small delta. The other takes the shape of the
trade-off between the two errors as known, that of the claimed mechanisms with all their noise made larger or smaller by
one factor [2]_: so many right guesses need at least so little noise, and the accountant says what that is worth. Where
the noise is Gaussian and nothing is sampled this is Gaussian DP.

References
----------
.. [1] Steinke, Nasr & Jagielski, "Privacy auditing with one (1) training run", NeurIPS 2023, arXiv:2305.08846.
.. [2] Nasr et al., "Tight auditing of differentially private machine learning", USENIX Security 2023.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sim.foundation.lazy import Lazy
from sim.privacy.accounting import Mechanisms, composed_epsilon, gaussian_epsilon, rescaled, under_one_adjacency
from sim.privacy.events import DpEvent, dp
from sim.privacy.loss import Adjacency
from sim.privacy.risk import membership_risk

special: Any = Lazy("scipy.special")
stats: Any = Lazy("scipy.stats")

Floats = NDArray[np.float64]
Coins = NDArray[np.bool_]
_PRECISION: Final = 1e-6
"""Of the bound from one run."""
TO_CHOOSE: Final = 0.2
"""The share of the trials by which canaries and thresholds are chosen; the others are what counts."""
_SHARES: Final = ((0.5, 0.5), (0.25, 0.25), (0.1, 0.1), (0.03, 0.03), (0.25, 0.0), (0.1, 0.0), (0.03, 0.0))
"""Shares of the trials that are guessed "in" and "out"; of the others nothing is said."""
_STEPS: Final = 64
_LEAST_NOISE, _MOST_NOISE = -3 * _STEPS, 6 * _STEPS
"""The noise is taken to be 2^-3 to 2^6 times as large as claimed, in so many steps from one power to the next."""


@dataclass(frozen=True, kw_only=True)
class Trials:
    """What an auditor saw, ``[trial, canary]`` each."""

    scores: Floats  # High where the canary seems to have been in
    included: Coins  # How the coins fell


@dataclass(frozen=True, kw_only=True)
class Audited:
    """Lower bounds on epsilon."""

    guesses: int  # Coins that counted
    correct: int  # How many of them were guessed right
    shaped: float  # With the curve's shape taken as claimed; NaN where no noise is Gaussian
    free: float  # Without that assumption

    @property
    def epsilon(self) -> float:
        """The bound that stands for all."""
        return self.free if math.isnan(self.shaped) else self.shaped


def audited(trials: Trials, mechanisms: Mechanisms, delta: float, confidence: float = 0.95) -> Audited:
    """Bound the epsilon of what was released.

    Parameters
    ----------
    trials : Trials
        Independent of each other; canaries of one trial may share what does not depend on their coins.
    mechanisms : mapping of (Adjacency, DpEvent) to int
        The claimed ones, whose curve gives the shape.
    delta : float
    confidence : float
        Probability with which each of the bounds is not above the truth.
    """
    if len(trials.scores) == 1:
        trials = Trials(scores=trials.scores.T, included=trials.included.T)
    first = max(2, round(TO_CHOOSE * len(trials.scores)))
    chosen, judged = (
        Trials(scores=trials.scores[place], included=trials.included[place])
        for place in (slice(None, first), slice(first, None))
    )
    middle, spread, apart = _separation(chosen)
    kept = apart >= apart.max() / 2 - 2 / math.sqrt(len(chosen.scores))  # less its standard error
    known, scores = (((each.scores - middle) / spread)[:, kept].ravel() for each in (chosen, judged))
    known_coins, included = chosen.included[:, kept].ravel(), judged.included[:, kept].ravel()
    shares = _best_shares(known, known_coins, len(scores) / len(known), delta)
    correct = int(np.sum((scores > 0) == included))
    return Audited(
        guesses=len(scores),
        correct=correct,
        shaped=shaped_bound(correct, len(scores), mechanisms, delta, confidence),
        free=_free_bound(scores, included, shares, delta, confidence),
    )


def shaped_bound(correct: int, guesses: int, mechanisms: Mechanisms, delta: float, confidence: float = 0.95) -> float:
    """Return the epsilon of the claimed mechanisms with the most noise that allows so many right guesses.

    A guess is right with probability (1 + a) / 2 at most, where a is the largest difference of true and false positive
    rates that the mechanisms allow. NaN where no noise is Gaussian.
    """
    atoms, _ = under_one_adjacency(mechanisms)
    if not any(_is_gaussian(atom) for atom in atoms):
        return math.nan
    # The lower bound of Clopper & Pearson (1934) on the probability of a right guess
    accuracy = float(stats.beta.ppf(1 - confidence, correct, guesses - correct + 1)) if correct else 0.0
    advantage = 2 * accuracy - 1
    if advantage <= 0:
        return 0.0
    if all(isinstance(atom, dp.GaussianDpEvent) for atom in atoms):
        return gaussian_epsilon(2 * float(stats.norm.ppf((1 + advantage) / 2)), delta) if delta else math.inf

    key = tuple(sorted(mechanisms.items(), key=repr))
    if advantage <= _advantage(key, _MOST_NOISE):
        return 0.0
    low, high = _LEAST_NOISE, _MOST_NOISE
    while high - low > 1:
        middle = 0 if low < 0 < high and (low, high) == (_LEAST_NOISE, _MOST_NOISE) else (low + high) // 2
        low, high = (middle, high) if _advantage(key, middle) >= advantage else (low, middle)
    return composed_epsilon(with_noise_times(_factor(high), mechanisms), delta)


def with_noise_times(factor: float, mechanisms: Mechanisms) -> Counter[tuple[Adjacency, DpEvent]]:
    """Return the mechanisms with their noise multiplied; what has no scale stays."""
    atoms: Counter[tuple[Adjacency, DpEvent]] = Counter()
    for (way, atom), count in mechanisms.items():
        atoms[way, rescaled(atom, factor) or atom] += count
    return atoms


def _is_gaussian(atom: DpEvent) -> bool:
    inner = atom.event if isinstance(atom, dp.PoissonSampledDpEvent) else atom
    return isinstance(inner, dp.GaussianDpEvent | dp.dp_event.MixtureOfGaussiansDpEvent)


@cache
def _advantage(mechanisms: tuple[tuple[tuple[Adjacency, DpEvent], int], ...], step: int) -> float:
    return membership_risk(with_noise_times(_factor(step), dict(mechanisms)), 0.0).advantage


def _factor(step: int) -> float:
    return float(2.0 ** (step / _STEPS))


def _separation(trials: Trials) -> tuple[Floats, Floats, Floats]:
    """Return by canary the middle of the two means, the spread within them, and how far they lie apart over it."""
    means = []
    squares = np.zeros(trials.scores.shape[1])
    for side in (trials.included, ~trials.included):
        means.append(np.where(side, trials.scores, 0.0).sum(0) / np.maximum(side.sum(0), 1))
        squares += np.where(side, np.square(trials.scores - means[-1]), 0.0).sum(0)
    spread = np.maximum(np.sqrt(squares / len(trials.scores)), np.finfo(np.float64).tiny)
    return (means[0] + means[1]) / 2, spread, (means[0] - means[1]) / spread


def _counts(shares: tuple[float, float], trials: int) -> tuple[int, int]:
    return max(1, int(shares[0] * trials)), int(shares[1] * trials)


def _best_shares(scores: Floats, included: Coins, repeats: float, delta: float) -> tuple[float, float]:
    """Choose how many trials to guess, by the bound that as many more trials would give."""
    many = max(1, round(repeats))
    repeated, coins = np.tile(scores, many), np.tile(included, many)
    return max(_SHARES, key=lambda shares: _free_bound(repeated, coins, shares, delta, 0.95))


def _free_bound(scores: Floats, included: Coins, shares: tuple[float, float], delta: float, confidence: float) -> float:
    inside, outside = _counts(shares, len(scores))
    return audit_one_run(scores, included, inside, outside, delta, confidence)


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

    The number of right guesses is hardly larger than that of as many independent randomised responses (Steinke, Nasr &
    Jagielski 2023, theorem 5.2): with W binomial of ``guesses`` trials that succeed with e^epsilon / (1 + e^epsilon), m
    canaries and v = ``correct``, it is at most P[W >= v] + 2 m delta max_i P[v > W >= v - i] / i, with i from 1 to v.
    ``ValueError`` for numbers out of range.
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
