"""Membership by the likelihood ratio of a record's score under models that trained on it and models that did not.

Carlini et al., "Membership Inference Attacks From First Principles", S&P 2022: online, and offline for an adversary
who trains no model on the record. As there, a model's score of a record is log(p / (1 - p)) of the record's class, and
taken as normal. With the tens of shadow models that a study affords, a record's own means and variances are poor
estimates, and one variance for all is a poor model; so each is drawn towards what is common to all records, as far as
records truly differ (empirical Bayes, as in BaVarIA, arXiv:2603.11799; here by moments, Smyth, "Linear models and
empirical Bayes methods for assessing differential expression", 2004): variances, one a record, of models with and
without it in one ratio for all; and by how much training on a record moves its score. Who sees the models of rounds
weighs their scores by Fisher's linear discriminant of the shadow models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import scipy

from sim.attacks.membership_game import played, shadowed
from sim.attacks.shadows import Floats, Mask

LEAST_VARIANCE = 1e-10


def scores(logits: Floats, inside: Mask) -> tuple[Floats, Floats]:
    """Return the log likelihood ratios of membership as :func:`sim.attacks.membership_game.played` takes them."""
    found = []
    for target in range(len(inside)):
        others = np.arange(len(inside)) != target
        found.append(against(logits[:, target], logits[:, others], inside[others]))
    online, offline = zip(*found, strict=True)
    return np.stack(online), np.stack(offline)


def against(observed: Floats, shadows: Floats, inside: Mask) -> tuple[Floats, Floats]:
    """Attack one model.

    Parameters
    ----------
    observed : ndarray
        ``[round, record]`` the model's scores.
    shadows, inside : ndarray
        ``[round, shadow, record]`` the shadow models' scores, ``[shadow, record]`` whether they trained on the record.

    Returns
    -------
    tuple of ndarray
        ``[record]`` the log likelihood ratio, and by how many deviations the score exceeds that of models without the
        record; 0 where all shadows trained on it.
    """
    gaps = combined(shadows - observed[:, None], inside)
    sides = _Side.of(gaps, inside), _Side.of(gaps, ~inside)
    common = moderated(sides[0].squares + sides[1].squares, sides[0].freedom + sides[1].freedom)
    variances = [np.maximum(common * side.ratio_to(common), LEAST_VARIANCE) for side in sides]
    logs = [
        scipy.stats.norm.logpdf(0, mean, np.sqrt(v))
        for mean, v in zip(_means(sides, variances), variances, strict=True)
    ]
    out = sides[1]
    excess = -out.mean / np.sqrt(moderated(out.squares, out.freedom))
    return logs[0] - logs[1], np.where(out.counts > 0, excess, 0.0)


def combined(gaps: Floats, inside: Mask) -> Floats:
    """Return ``[shadow, record]`` the sum over rounds that tells models with a record best from those without.

    Fisher's linear discriminant with one covariance for all records.
    """
    if len(gaps) == 1:
        return np.asarray(gaps[0])
    within, moved = np.zeros_like(gaps), 0.0
    for mask, sign in ((inside, 1), (~inside, -1)):
        mean = np.where(mask, gaps, 0).sum(1) / np.maximum(mask.sum(0), 1)
        within += np.where(mask, gaps - mean[:, None], 0)
        moved += sign * mean[:, inside.any(0) & ~inside.all(0)].mean(1)
    covariance = np.einsum("asr,bsr->ab", within, within) / inside.size
    ridge = 1e-6 * np.trace(covariance) + LEAST_VARIANCE
    return np.tensordot(np.linalg.solve(covariance + ridge * np.eye(len(gaps)), moved), gaps, 1)


@dataclass(frozen=True, eq=False)
class _Side:
    """Models with each record, or without it: ``[record]`` how many, their mean and their sum of squares about it."""

    counts: Floats
    mean: Floats
    squares: Floats

    @classmethod
    def of(cls, gaps: Floats, mask: Mask) -> _Side:
        counts = mask.sum(0).astype(np.float64)
        mean = np.where(mask, gaps, 0).sum(0) / np.maximum(counts, 1)
        return cls(counts, mean, np.square(np.where(mask, gaps - mean, 0)).sum(0))

    @property
    def freedom(self) -> Floats:
        return np.maximum(self.counts - 1, 0)

    def ratio_to(self, variance: Floats) -> float:
        """Return the ratio of this side's variances to those given, one for all records."""
        total = float(self.freedom.sum())
        return float((self.squares / variance).sum()) / total if total else 1.0


def _means(sides: tuple[_Side, _Side], variances: Sequence[Floats]) -> tuple[Floats, Floats]:
    """Return ``[record]`` the means with and without the record, their difference drawn towards that of all records."""
    with np.errstate(divide="ignore"):
        errors = [variance / side.counts for variance, side in zip(variances, sides, strict=True)]
    both = np.isfinite(errors[0] + errors[1])
    shift, error = (sides[0].mean - sides[1].mean)[both], (errors[0] + errors[1])[both]
    moved = np.full(len(both), shift.mean() if len(shift) else 0.0)
    if len(shift) > 1:
        spread = max(float(shift.var(ddof=1) - error.mean()), 0.0)
        moved[both] += (shift - moved[both]) * spread / (spread + error)
    weight = [1 / each for each in errors]
    share = weight[0] / (weight[0] + weight[1])
    middle = share * sides[0].mean + (1 - share) * sides[1].mean
    return middle + (1 - share) * moved, middle - share * moved


def moderated(squares: Floats, freedom: Floats) -> Floats:
    """Return ``[record]`` variances, from sums of squares and their degrees of freedom, drawn towards that of all.

    True variances are taken as scattered about a common one as an inverse chi-square with d0 degrees of freedom; both
    are fitted to the mean and the variance of the log sample variances (Smyth 2004, section 6.2).
    """
    known = (freedom > 0) & (squares > 0)
    if known.sum() < 2:
        return np.full(len(squares), max(float(squares.sum()) / max(float(freedom.sum()), 1.0), LEAST_VARIANCE))
    half = freedom[known] / 2
    logs = np.log(squares[known] / freedom[known]) - scipy.special.digamma(half) + np.log(half)
    scatter = float(logs.var(ddof=1) - scipy.special.polygamma(1, half).mean())
    if scatter <= 1e-8:
        return np.full(len(squares), max(float(np.exp(logs.mean())), LEAST_VARIANCE))
    prior = scipy.optimize.brentq(lambda d0: scipy.special.polygamma(1, d0 / 2) - scatter, 1e-8, 1e9)
    common = np.exp(logs.mean() + scipy.special.digamma(prior / 2) - np.log(prior / 2))
    return np.asarray(np.maximum((prior * common + squares) / (prior + freedom), LEAST_VARIANCE))


ATTACK = shadowed(
    name="lira",
    sentence="membership by the likelihood ratio of shadow models (Carlini et al. 2022)",
    carry_out=partial(played, scores=scores),
)
