"""Membership by how much likelier a record is under the model than under others, compared with other records.

Zarifzadeh, Liu & Shokri, "Low-Cost High-Power Membership Inference Attacks", ICML 2024: a record x is taken for a
member if p(x | model) / p(x) exceeds p(z | model) / p(z) for many records z (gamma is 1, as in the published code).
p(x) is the mean over shadow models with and without x, half each; offline, where no model is trained on x, (1 + a)/2
times the mean of those without, plus (1 - a)/2. All records of the population serve as z, members or not, since the
adversary cannot tell. Who sees the models of rounds multiplies their ratios.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import scipy

from sim.attacks.membership_game import played, shadowed
from sim.attacks.shadows import Floats, Mask

A = 0.3


def scores(logits: Floats, inside: Mask) -> tuple[Floats, Floats]:
    """Return shares of records whose ratio is exceeded, as :func:`sim.attacks.membership_game.played` takes them."""
    online, offline = log_ratios(logits, inside)
    return pairwise(online), pairwise(offline)


def log_ratios(logits: Floats, inside: Mask) -> tuple[Floats, Floats]:
    """Return the logarithms of p(x | model) / p(x), online and offline, ``[model, record]`` each.

    0 where there is no other model with, or without the record.
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


ATTACK = shadowed(
    name="rmia",
    sentence="membership by pairwise likelihood ratios of shadow models (Zarifzadeh et al. 2024)",
    carry_out=partial(played, scores=scores),
)
