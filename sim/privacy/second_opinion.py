"""Epsilon by a second route, with which ``suture verify`` holds what is claimed.

It shares no code with :mod:`sim.privacy.accounting`: Gaussian noise without subsampling by the formula of Balle & Wang
(2018), solved here; everything else by dp-accounting's privacy loss distributions, on a grid whose interval follows
from the variance of the loss and on finer ones until they agree. Two accountants that round upwards differ a little:
an epsilon is held to be the same within one percent and 0.001.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import dp_accounting as dp
import numpy as np
from dp_accounting import DpEvent
from dp_accounting.dp_event import MixtureOfGaussiansDpEvent
from dp_accounting.pld import privacy_loss_distribution as pld
from numpy.typing import NDArray
from scipy.special import gammaln, logsumexp
from scipy.stats import norm

from sim.privacy.loss import Adjacency

RELATIVE, ABSOLUTE = 1e-2, 1e-3
LARGE = 50.0  # beyond this a pure epsilon stands for itself: no grid is of use


def same(one: float, other: float) -> bool:
    """Say whether two epsilons are equal within what two accountants may differ by."""
    return one == other or math.isclose(one, other, rel_tol=RELATIVE, abs_tol=ABSOLUTE)


def second_epsilon(
    mechanisms: Mapping[tuple[Adjacency, DpEvent], int], delta: float, *, replace_one: bool = False
) -> float:
    """Return the epsilon of Gaussian, Poisson-sampled Gaussian, Laplace, randomised-response or un-noised mechanisms.

    Noise is over the sensitivity under the adjacency. Where any is stated for replacement, or ``replace_one``, all are
    held to be: a sum that one record moves by at most C moves by 2 C where it is replaced.
    """
    present = {key: count for key, count in mechanisms.items() if count}
    if not present:
        return 0.0
    if any(isinstance(atom, dp.NonPrivateDpEvent) for _, atom in present):
        return math.inf
    replaced = replace_one or any(way == "replace" for way, _ in present)
    return _epsilon(tuple(sorted(present.items(), key=repr)), delta, replaced)


def second_drawn(
    mean: int,
    delta: float,
    trials: Sequence[Mapping[tuple[Adjacency, DpEvent], int]],
    runs: Sequence[Mapping[tuple[Adjacency, DpEvent], int]],
) -> float:
    """Return the epsilon of the best of a geometric number of trials, and of one of the runs after it.

    Theorem 2 of Papernot & Steinke (2022) at eta = 1 and gamma = 1 / mean: of order a, where a trial has rdp(a),
    ``rdp(a) + 2 min_b((1 - 1/b) rdp(b) + log(mean) / b) + log(mean) / (a - 1)``. Conversion as of Canonne et al.
    (2020), proposition 12. Of Gaussian noise, and of Poisson-sampled Gaussian noise under adding or removing a record.
    """
    orders = np.array([*range(2, 65), *range(72, 257, 8), 512, 1024])
    one, run = (
        np.max([sum(n * _renyi(atom, orders) for (_, atom), n in e.items()) + 0.0 * orders for e in of], axis=0)
        for of in (trials, runs)
    )
    best = 2 * min((1 - 1 / orders) * one + math.log(mean) / orders)
    chosen = one + best + math.log(mean) / (orders - 1)
    found = chosen + run + np.log1p(-1 / orders) - np.log(delta * orders) / (orders - 1)
    return max(0.0, float(min(found)))


def _renyi(atom: DpEvent, orders: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the Renyi divergence of whole orders: of sampled noise by Mironov et al. (2019), section 3.3."""
    match atom:
        case dp.GaussianDpEvent(sigma):
            return np.asarray(orders / (2 * sigma**2), dtype=np.float64)
        case dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(sigma)):
            found = []
            for order in orders.tolist():
                k = np.arange(order + 1)
                binomial = gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1)
                terms = binomial + k * math.log(rate) + (order - k) * math.log1p(-rate) + (k * k - k) / (2 * sigma**2)
                found.append(float(logsumexp(terms)) / (order - 1))
            return np.array(found)
        case _:
            raise ValueError(f"no second opinion on the Renyi divergence of {atom}")


def of_patient(
    mechanisms: Mapping[tuple[Adjacency, DpEvent], int], most: int
) -> Mapping[tuple[Adjacency, DpEvent], int]:
    """Return what mechanisms for a record are to a patient with so many at one clinic.

    A Poisson batch holds a binomial number of them; noise without subsampling is moved so many times as far; each has
    a label that is answered for.
    """
    found: Counter[tuple[Adjacency, DpEvent]] = Counter()
    for (way, atom), count in mechanisms.items():
        match atom:
            case dp.PoissonSampledDpEvent(q, dp.GaussianDpEvent(sigma)):
                moves = tuple(range(most + 1))
                likely = tuple(math.comb(most, j) * q**j * (1 - q) ** (most - j) for j in moves)
                found[way, MixtureOfGaussiansDpEvent(sigma, moves, likely)] += count
            case dp.GaussianDpEvent(sigma):
                found[way, dp.GaussianDpEvent(sigma / most)] += count
            case dp.LaplaceDpEvent(scale):
                found[way, dp.LaplaceDpEvent(scale / most)] += count
            case dp.RandomizedResponseDpEvent():
                found[way, atom] += count * most
            case _:
                found[way, atom] += count
    return found


@cache
def _epsilon(atoms: tuple[tuple[tuple[Adjacency, DpEvent], int], ...], delta: float, replaced: bool) -> float:
    mu_squared, pure, sampled = 0.0, 0.0, 0.0
    variances: list[tuple[float, int]] = []
    for (way, atom), count in atoms:
        moved = 2.0 if replaced and way == "add-or-remove" else 1.0
        match atom:
            case dp.GaussianDpEvent(sigma):
                mu_squared += count * (moved / sigma) ** 2
            case dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(sigma)):
                mu = moved / sigma
                sampled += count * mu**2
                variances.append((min(rate * mu**2 * (1 + mu**2), rate**2 * math.expm1(min(mu**2, 50.0))), count))
            case MixtureOfGaussiansDpEvent(sigma, moves, likely) if not replaced:
                sampled += count * (moves[-1] / sigma) ** 2
                squares = [(p, (move / sigma) ** 2) for p, move in zip(likely, moves, strict=True)]
                often = sum(p * square * (1 + square) for p, square in squares)
                variances.append((min(often, sum(p * p * math.expm1(min(x, 50.0)) for p, x in squares)), count))
            case dp.LaplaceDpEvent(scale):
                pure += count * moved / scale
                variances.append(((moved / scale) ** 2, count))
            case dp.RandomizedResponseDpEvent(uniform, classes):
                pure += count * response_epsilon(uniform, classes)
                variances.append((response_epsilon(uniform, classes) ** 2, count))
            case _:
                raise ValueError(f"no second opinion on {atom}")
    if not sampled and not pure:
        return _gaussian(math.sqrt(mu_squared), delta)
    if not sampled and not mu_squared and (delta == 0 or pure > LARGE or sum(n for _, n in variances) == 1):
        return pure
    if delta == 0:
        return math.inf
    total = mu_squared + sampled
    bound = pure + total / 2 + math.sqrt(-2 * total * math.log(delta))
    mean = (sum(v * n for v, n in variances) + mu_squared) / (sum(n for _, n in variances) + bool(mu_squared))
    interval = min(max(math.sqrt(0.02 * mean), 1e-6), bound / 2000, 0.05)
    found = math.inf
    while True:  # a coarse grid overstates: on until the next finer one says nearly the same
        before, loss = found, _composed(atoms, mu_squared, replaced, interval)
        found = _inverse(loss.get_delta_for_epsilon, delta, bound)
        if before - found <= RELATIVE / 2 * found + ABSOLUTE / 2:
            return found
        interval /= 4


def response_epsilon(uniform: float, classes: int) -> float:
    """Return the epsilon of randomised response that answers uniformly with this probability."""
    return math.log1p((1 - uniform) * classes / uniform) if uniform else math.inf


def _composed(atoms: Any, mu_squared: float, replaced: bool, interval: float) -> Any:
    way = dp.NeighboringRelation.REPLACE_ONE if replaced else dp.NeighboringRelation.ADD_OR_REMOVE_ONE
    whole = pld.identity(value_discretization_interval=interval)
    if mu_squared:
        one = pld.from_gaussian_mechanism(1 / math.sqrt(mu_squared), value_discretization_interval=interval)
        whole = whole.compose(one)
    for (stated, atom), count in atoms:
        match atom:
            case dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(sigma)):
                over_norm = sigma if stated == "add-or-remove" else 2 * sigma
                one = pld.from_gaussian_mechanism(
                    over_norm,
                    value_discretization_interval=interval,
                    sampling_prob=rate,
                    neighboring_relation=way,
                )
            case MixtureOfGaussiansDpEvent(sigma, moves, likely):
                one = pld.from_mixture_gaussian_mechanism(sigma, moves, likely, value_discretization_interval=interval)
            case dp.LaplaceDpEvent(scale):
                moved = 2.0 if replaced and stated == "add-or-remove" else 1.0
                one = pld.from_laplace_mechanism(scale / moved, value_discretization_interval=interval)
            case dp.RandomizedResponseDpEvent(uniform, classes):
                one = pld.from_randomized_response(
                    uniform, classes, value_discretization_interval=interval, neighboring_relation=way
                )
            case _:
                continue
        whole = whole.compose(one.self_compose(count) if count > 1 else one)
    return whole


def _gaussian(mu: float, delta: float) -> float:
    """Return the epsilon at which Phi(mu/2 - e/mu) - exp(e) Phi(-mu/2 - e/mu) is delta."""

    def missed(epsilon: float) -> float:
        far = float(norm.logcdf(-mu / 2 - epsilon / mu)) + epsilon
        return float(norm.cdf(mu / 2 - epsilon / mu)) - math.exp(min(far, 0.0))

    if delta == 0:
        return math.inf
    return _inverse(missed, delta, mu**2 / 2 + mu * math.sqrt(-2 * math.log(delta)))


def _inverse(delta_of: Any, delta: float, high: float) -> float:
    """Halve the range in which a falling function comes down to delta."""
    low = 0.0
    if float(delta_of(low)) <= delta:
        return 0.0
    for _ in range(200):
        middle = (low + high) / 2
        if high - low <= 1e-9 * max(1.0, high):
            break
        low, high = (middle, high) if float(delta_of(middle)) > delta else (low, middle)
    return high
