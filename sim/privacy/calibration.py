"""The noise that a target epsilon asks for."""

import math
from functools import cache
from typing import Any

from sim.foundation.lazy import Lazy
from sim.privacy.accounting import check_delta, check_dp_sgd, dp_sgd_event, epsilon, flatten, settled_interval
from sim.privacy.loss import grid_epsilon
from sim.privacy.remembered import remembered

optimize: Any = Lazy("scipy.optimize")

MIN_NOISE, MAX_NOISE = 1e-2, 1e6  # noise multipliers between which calibrate searches


@cache
@remembered
def calibrate(target_epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """Find the least noise with which DP-SGD meets a target epsilon by the accountant of :func:`epsilon`.

    The search starts from the central limit of the composition (Bu et al., "Deep learning with Gaussian differential
    privacy", 2020), which alone would underestimate epsilon.

    Returns
    -------
    float
        Noise multiplier of six digits whose epsilon is at most the target, at most 1e-3 (relative) above the least
        such; 0 if the target is ``inf`` or there are no steps, otherwise at least ``MIN_NOISE``.

    Raises
    ------
    ValueError
        If a parameter is out of its range, or not even ``MAX_NOISE`` meets the target.
    """
    if not target_epsilon > 0:
        raise ValueError(f"the target epsilon must be positive, got {target_epsilon}")
    check_delta(delta)
    check_dp_sgd(sample_rate, steps)
    if math.isinf(target_epsilon) or steps == 0:
        return 0.0

    @cache
    def excess(sigma: float) -> float:
        spent = epsilon(dp_sgd_event(sample_rate, sigma, steps), delta)
        return math.log(min(max(spent / target_epsilon, 0.1), 10.0))

    mu = math.sqrt(2) * (math.sqrt(target_epsilon - math.log(delta)) - math.sqrt(-math.log(delta)))
    guess = -0.5 * math.log(math.log1p((mu / sample_rate) ** 2 / steps))
    guess = min(max(guess, math.log(MIN_NOISE)), math.log(MAX_NOISE))
    low = high = six_digits(math.exp(_improved(guess, target_epsilon, delta, sample_rate, steps)))
    while excess(high) > 0:  # epsilon falls about as fast as sigma grows, or faster: one step mostly suffices
        if high == MAX_NOISE:
            raise ValueError(f"no noise multiplier up to {MAX_NOISE:g} reaches epsilon {target_epsilon:g}")
        low, high = high, min(MAX_NOISE, six_digits(high * math.exp(1.2 * excess(high) + 0.02)))
    if -1e-3 <= excess(high) <= 0:
        return high
    while excess(low) <= 0:
        if low == MIN_NOISE:
            return MIN_NOISE
        low, high = max(MIN_NOISE, low * math.exp(1.2 * excess(low) - 0.02)), low
    sigma = six_digits(
        math.exp(optimize.brentq(lambda log: excess(math.exp(log)), math.log(low), math.log(high), xtol=2e-4))
    )
    while excess(sigma) > 0:
        sigma = six_digits(sigma * (1 + 2e-4))
    return sigma


def six_digits(sigma: float) -> float:
    """Round up to six significant digits, so that another machine's last bits do not change a run's noise."""
    nearest = float(f"{sigma:.5e}")
    return nearest if nearest >= sigma else float(f"{nearest + 10.0 ** (math.floor(math.log10(sigma)) - 5):.5e}")


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
