"""Membership by how much likelier a record is under the model than under others, compared with other records.

Zarifzadeh, Liu & Shokri, "Low-Cost High-Power Membership Inference Attacks", ICML 2024: a record x is taken for a
member if p(x | model) / p(x) exceeds p(z | model) / p(z) for many records z (gamma is 1, as in the published code).
p(x) is the mean over shadow models with and without x, half each; offline, where no model is trained on x, (1 + a)/2
times the mean of those without, plus (1 - a)/2. All records of the population serve as z, members or not, since the
adversary cannot tell. Who sees the models of rounds multiplies their ratios.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy

from sim.attacks.attack import Attack, Finding, Target
from sim.attacks.membership_game import findings
from sim.attacks.shadows import Floats, Mask, trials_of

A = 0.3


def carry_out(target: Target) -> Iterator[Finding]:
    """Return the findings on the final model and on the models of rounds; nothing without held-out records."""
    trials = trials_of(target)
    if trials is None:
        return
    population, inside = trials.population, trials.inside
    for adversary, logits in trials.logits.items():
        online, offline = log_ratios(logits, inside)
        yield from findings(target.plan, population, inside, pairwise(online), adversary)
        if len(logits) == 1:
            yield from findings(target.plan, population, inside, pairwise(offline), adversary, "offline_")


def log_ratios(logits: Floats, inside: Mask) -> tuple[Floats, Floats]:
    """Return the logarithms of p(x | model) / p(x), online and offline, ``[model, record]`` each.

    0 where there is no other model with, or without the record.

    Parameters
    ----------
    logits : ndarray
        ``[round, model, record]``.
    inside : ndarray of bool
        ``[model, record]``. Each model is the target in turn, and the others are its shadows.
    """
    p = scipy.special.expit(logits)
    means = []
    for mask in (inside, ~inside):
        own = np.where(mask, p, 0.0)
        others = mask.sum(0) - mask
        with np.errstate(invalid="ignore", divide="ignore"):
            means.append(np.where(others > 0, (own.sum(1, keepdims=True) - own) / others, np.nan))
    with_it, without = means
    found = [np.log(p / expected).sum(0) for expected in ((with_it + without) / 2, (1 + A) / 2 * without + (1 - A) / 2)]
    online, offline = (np.nan_to_num(ratio).round(9) for ratio in found)
    return online, offline


def pairwise(log_ratio: Floats) -> Floats:
    """Return ``[model, record]`` the share of records whose ratio is exceeded."""
    below = [np.searchsorted(np.sort(row), row, side="left") for row in log_ratio]
    return np.asarray(np.stack(below) / log_ratio.shape[1])


ATTACK = Attack(
    name="rmia",
    sentence="membership by pairwise likelihood ratios of shadow models (Zarifzadeh et al. 2024)",
    adversary="model-user",
    uses="training and held-out records, exact: the scores of single records are compared",
    carry_out=carry_out,
    applies=lambda job: job.method.trains,
    options={"shadows": 31, "rounds": 5},
)
