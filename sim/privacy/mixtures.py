"""Privacy loss of a batch with a random number of a patient's records, where the patient is replaced by another.

The batch's sum is noised by N(0, s^2). With probability p_i the patient has i records in it, which moves the sum by at
most c_i, before and after the replacement; both patients are drawn into the batch by the same coins. So P is the
mixture of N(v_i, s^2) and Q that of N(w_i, s^2), of vectors with |v_i|, |w_i| <= c_i. The worst case is
v_i = c_i, w_i = -c_i in one dimension: a set S with N(0, s^2)(S) = Phi(z) has N(v_i, s^2)(S) <= Phi(z + c_i / s) and
N(w_i, s^2)(S) >= Phi(z - c_i / s) (Neyman-Pearson), so that for every a >= 0

    P(S) - a Q(S) <= sum_i p_i (Phi(z + c_i / s) - a Phi(z - c_i / s)),

and a half-line attains the right side in that case. It therefore dominates all others at every order, and its
compositions dominate theirs (Zhu, Dong & Wang, "Optimal accounting of differential privacy via characteristic
function", AISTATS 2022, theorem 10).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from dp_accounting.pld import pld_pmf
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution
from numpy.typing import NDArray
from scipy.special import log_ndtr, logsumexp

Floats = NDArray[np.float64]

_TAIL = 10.0
"""Standard deviations beyond which the loss counts as infinite: a mass of 1e-23."""


def replaced_mixture(deviation: float, moves: Sequence[float], likely: Sequence[float], interval: float) -> Any:
    """Discretise the privacy loss of one such batch, so that epsilon is never underestimated.

    ``deviation`` is s, ``moves`` are the c_i, each at least 0, and ``likely`` the p_i. Returns a
    ``PrivacyLossDistribution`` of dp-accounting on a grid of this interval.
    """
    c, p = np.array(moves, dtype=np.float64) / deviation, np.array(likely, dtype=np.float64)
    furthest = float(c.max()) + _TAIL
    most = max(1, math.ceil(float(_loss_at(np.array([furthest]), c, p)[0]) / interval))
    losses: Floats = np.arange(most + 1, dtype=np.float64) * interval
    above = _deltas(losses, c, p, furthest + 1.0)
    # P and Q are mirror images, so that delta(-e) = 1 - exp(-e) (1 - delta(e)).
    below = (1 - np.exp(-losses) * (1 - above))[:0:-1]
    deltas = np.clip(np.concatenate([below, above]), 0.0, 1.0)
    return PrivacyLossDistribution(pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(interval, -most, most, deltas))


def _loss_at(z: Floats, c: Floats, p: Floats) -> Floats:
    """Return log P / Q where the noised sum is z standard deviations."""
    towards, away = (logsumexp(sign * z[:, None] * c - c**2 / 2, axis=1, b=p) for sign in (1, -1))
    loss: Floats = towards - away
    return loss


def _deltas(losses: Floats, c: Floats, p: Floats, furthest: float) -> Floats:
    """Return P(z > t) - exp(loss) Q(z > t), where t is where the loss is found; it grows with z, from 0 at 0."""
    low, high = np.zeros_like(losses), np.full_like(losses, furthest)
    for _ in range(55):
        middle = (low + high) / 2
        over = _loss_at(middle, c, p) > losses
        high, low = np.where(over, middle, high), np.where(over, low, middle)
    t = ((low + high) / 2)[:, None]
    found: Floats = ((np.exp(log_ndtr(c - t)) - np.exp(losses[:, None] + log_ndtr(-c - t))) * p).sum(axis=1)
    return np.maximum.accumulate(found[::-1])[::-1]
