"""The noise that a target epsilon asks for."""

import math
from functools import cache
from typing import TYPE_CHECKING

from sim.privacy.accounting import (
    check_delta,
    check_dp_sgd,
    dp_sgd_event,
    epsilon,
    flatten,
    gaussian_epsilon,
    settled_interval,
)
from sim.privacy.loss import grid_epsilon

if TYPE_CHECKING:
    from dp_accounting import RandomizedResponseDpEvent

MIN_NOISE, MAX_NOISE = 1e-2, 1e6  # noise multipliers between which calibrate searches


def calibrate_gaussian(target_epsilon: float, delta: float, releases: int = 1) -> float:
    """Find the noise of Gaussian releases without subsampling, by the exact formula of Balle & Wang (2018).

    Parameters
    ----------
    target_epsilon : float
        Positive; ``inf`` asks for no noise.
    delta : float
    releases : int
        How many releases of the same unit are composed.

    Returns
    -------
    float
        Standard deviation over the sensitivity: a row of norm C under replacement is noised by this times 2 C. Its
        epsilon is at most the target and at least 1 - 1e-9 times it.
    """
    from scipy.optimize import brentq

    _check_target(target_epsilon)
    check_delta(delta)
    if math.isinf(target_epsilon) or releases == 0:
        return 0.0

    def excess(log_mu: float) -> float:
        return gaussian_epsilon(math.exp(log_mu), delta) - target_epsilon * (1 - 1e-10)

    low, high = -math.log(MAX_NOISE), -math.log(MIN_NOISE)
    if excess(low) > 0:
        raise ValueError(f"no noise multiplier up to {MAX_NOISE:g} reaches epsilon {target_epsilon:g}")
    if excess(high) <= 0:
        return MIN_NOISE * math.sqrt(releases)
    mu = math.exp(float(brentq(excess, low, high, xtol=1e-13)))
    while gaussian_epsilon(mu, delta) > target_epsilon:
        mu *= 1 - 1e-12
    return math.sqrt(releases) / mu


def calibrate_laplace(target_epsilon: float, releases: int = 1) -> float:
    """Return the scale over the L1 sensitivity with which Laplace releases have this epsilon at delta 0 in all."""
    _check_target(target_epsilon)
    return releases / target_epsilon


def calibrate_randomised_response(target_epsilon: float, classes: int) -> "RandomizedResponseDpEvent":
    """Return k-ary randomised response of this epsilon: the truth with probability e^eps / (e^eps + k - 1).

    The event's ``noise_parameter`` is the probability of a uniform answer, k / (e^eps + k - 1).
    """
    import dp_accounting as dp

    return dp.RandomizedResponseDpEvent(uniform_answers(target_epsilon, classes), classes)


def uniform_answers(target_epsilon: float, classes: int) -> float:
    """Return the probability of a uniform answer in :func:`calibrate_randomised_response`."""
    _check_target(target_epsilon)
    tail = math.exp(-target_epsilon)  # k e^-eps / (1 + (k - 1) e^-eps) does not overflow
    return classes * tail / (1 + (classes - 1) * tail)


def _check_target(target_epsilon: float) -> None:
    if not target_epsilon > 0:
        raise ValueError(f"the target epsilon must be positive, got {target_epsilon}")


@cache
def calibrate(target_epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """Find the least noise with which DP-SGD meets a target epsilon by the accountant of :func:`epsilon`.

    The search starts from the central limit of the composition (Bu et al., "Deep learning with Gaussian differential
    privacy", 2020), which alone would underestimate epsilon.

    Parameters
    ----------
    target_epsilon : float
        Positive; ``inf`` asks for no noise.
    delta, sample_rate, steps
        As for :func:`sim.privacy.accounting.epsilon` and :func:`sim.privacy.accounting.dp_sgd_event`.

    Returns
    -------
    float
        Noise multiplier whose epsilon is at most the target, at most 1e-3 (relative) above the least such; 0 if the
        target is ``inf`` or there are no steps, otherwise at least ``MIN_NOISE``.

    Raises
    ------
    ValueError
        If a parameter is out of its range, or not even ``MAX_NOISE`` meets the target.
    """
    from scipy.optimize import brentq

    _check_target(target_epsilon)
    check_delta(delta)
    check_dp_sgd(sample_rate, steps)
    if math.isinf(target_epsilon) or steps == 0:
        return 0.0

    @cache
    def excess(log_sigma: float) -> float:
        spent = epsilon(dp_sgd_event(sample_rate, math.exp(log_sigma), steps), delta)
        return math.log(min(max(spent / target_epsilon, 0.1), 10.0))

    least, most = math.log(MIN_NOISE), math.log(MAX_NOISE)
    mu = math.sqrt(2) * (math.sqrt(target_epsilon - math.log(delta)) - math.sqrt(-math.log(delta)))
    guess = -0.5 * math.log(math.log1p((mu / sample_rate) ** 2 / steps))
    low = high = _improved(min(max(guess, least), most), target_epsilon, delta, sample_rate, steps)
    while excess(high) > 0:  # epsilon falls about as fast as sigma grows, or faster: one step mostly suffices
        if high == most:
            raise ValueError(f"no noise multiplier up to {MAX_NOISE:g} reaches epsilon {target_epsilon:g}")
        low, high = high, min(most, high + 1.2 * excess(high) + 0.02)
    if -1e-3 <= excess(high) <= 0:
        return math.exp(high)
    while excess(low) <= 0:
        if low == least:
            return MIN_NOISE
        low, high = max(least, low + 1.2 * excess(low) - 0.02), low
    log_sigma = float(brentq(excess, low, high, xtol=2e-4))
    while excess(log_sigma) > 0:
        log_sigma += 2e-4
    return math.exp(log_sigma)


def _improved(guess: float, target_epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """Follow the secant of log epsilon in log sigma to just above the solution, on the guess's own grid.

    The error of a grid hardly changes near by, and one grid is a fraction of the work of refining it every time.
    """
    event = dp_sgd_event(sample_rate, math.exp(guess), steps)
    interval = settled_interval(event, delta)
    excess = math.log(max(epsilon(event, delta), 1e-9) / target_epsilon)
    if not 0 < interval < math.inf or abs(excess) > 1:
        return guess
    precision = math.exp(-2 * guess)
    log_sigma, slope = guess, precision / math.expm1(-precision)  # that of the central limit
    for _ in range(6):
        if -5e-4 <= excess <= 0:
            break
        before, last = log_sigma, excess
        log_sigma -= (excess + 2.5e-4) / slope
        atoms = tuple(flatten(dp_sgd_event(sample_rate, math.exp(log_sigma), steps)).items())
        spent = grid_epsilon(atoms, "add-or-remove", delta, 3 * target_epsilon, interval)
        excess = math.log(max(spent, 1e-9) / target_epsilon)
        slope = min((excess - last) / (log_sigma - before), -0.5)
    return log_sigma
