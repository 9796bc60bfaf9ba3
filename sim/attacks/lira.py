"""Membership by the likelihood ratio of a record's score under models that trained on it and models that did not.

Carlini et al., "Membership Inference Attacks From First Principles", S&P 2022: online, and offline for an adversary
who trains no model on the record. As there, a model's score of a record is log(p / (1 - p)) of the record's class, and
taken as normal. Variances are neither each record's own nor one for all, but between the two as far as the records say
(empirical Bayes: Smyth, "Linear models and empirical Bayes methods for assessing differential expression", 2004); with
few shadow models it is nearly one for all. Who sees the models of rounds weighs their scores by Fisher's linear
discriminant of the shadow models.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.optimize import brentq
from scipy.special import digamma, polygamma
from scipy.stats import norm

from sim.attacks.attack import Attack, Finding, Target
from sim.attacks.membership_game import findings
from sim.attacks.shadows import Floats, Mask, trials_of

LEAST_VARIANCE = 1e-10


def carry_out(target: Target) -> Iterator[Finding]:
    """Return the findings on the final model and on the models of rounds; nothing without held-out records."""
    trials = trials_of(target)
    if trials is None:
        return
    found: dict[int, tuple[Floats, Floats]] = {}
    for adversary, logits in trials.logits.items():
        if id(logits) not in found:  # the server and its clinics may see the same
            found[id(logits)] = scores(logits, trials.inside)
        online, offline = found[id(logits)]
        yield from findings(target, trials, adversary, online)
        if len(logits) == 1:
            yield from findings(target, trials, adversary, offline, "offline_")


def scores(logits: Floats, inside: Mask) -> tuple[Floats, Floats]:
    """Return the log likelihood ratios of membership, online and offline, ``[model, record]`` each.

    Parameters
    ----------
    logits : ndarray
        ``[round, model, record]``.
    inside : ndarray of bool
        ``[model, record]``. Each model is the target in turn, and the others are its shadows.
    """
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
        record. 0 where there is no model with, or without it.
    """
    gaps = combined(shadows - observed[:, None], inside)
    (mean_in, variance_in), (mean_out, variance_out) = (normal(gaps, mask) for mask in (inside, ~inside))
    ratio = norm.logpdf(0, mean_in, np.sqrt(variance_in)) - norm.logpdf(0, mean_out, np.sqrt(variance_out))
    excess = -mean_out / np.sqrt(variance_out)
    return np.nan_to_num(ratio), np.nan_to_num(excess)


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


def normal(gaps: Floats, mask: Mask) -> tuple[Floats, Floats]:
    """Return ``[record]`` mean and moderated variance over the models of the mask; NaN as mean where it has none."""
    counts = mask.sum(0)
    mean = np.where(counts > 0, np.where(mask, gaps, 0).sum(0) / np.maximum(counts, 1), np.nan)
    squares = np.square(np.where(mask, gaps - mean, 0)).sum(0)
    return mean, moderated(squares, np.maximum(counts - 1, 0))


def moderated(squares: Floats, freedom: Floats) -> Floats:
    """Return each record's variance, drawn towards that of all.

    True variances are taken as scattered about a common one as an inverse chi-square with d0 degrees of freedom; both
    are fitted to the mean and the variance of the log sample variances (Smyth 2004, section 6.2).

    Parameters
    ----------
    squares, freedom : ndarray
        ``[record]`` sums of squares and their degrees of freedom.
    """
    known = (freedom > 0) & (squares > 0)
    if known.sum() < 2:
        return np.full(len(squares), max(float(squares.sum()) / max(float(freedom.sum()), 1.0), LEAST_VARIANCE))
    half = freedom[known] / 2
    logs = np.log(squares[known] / freedom[known]) - digamma(half) + np.log(half)
    scatter = float(logs.var(ddof=1) - polygamma(1, half).mean())
    if scatter <= 1e-8:
        return np.full(len(squares), max(float(np.exp(logs.mean())), LEAST_VARIANCE))
    prior = brentq(lambda d0: polygamma(1, d0 / 2) - scatter, 1e-8, 1e9)
    common = np.exp(logs.mean() + digamma(prior / 2) - np.log(prior / 2))
    return np.asarray(np.maximum((prior * common + squares) / (prior + freedom), LEAST_VARIANCE))


ATTACK = Attack(
    name="lira",
    sentence="membership by the likelihood ratio of shadow models (Carlini et al. 2022)",
    adversary="model-user",
    uses="training and held-out records, exact: the scores of single records are compared",
    carry_out=carry_out,
    applies=lambda job: job.method.trains,
    options={"shadows": 63, "rounds": 5},
)
