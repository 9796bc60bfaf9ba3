"""Epsilon of what was released, and the noise that a target epsilon asks for.

A mechanism is described once, as a ``dp_accounting.DpEvent``; the functions here turn such a description into epsilon
under add-or-remove adjacency. The main accountant composes privacy loss distributions (PLD) discretised so that epsilon
is never underestimated [1]_; a composition of Gaussians without subsampling has an exact formula [2]_; Renyi DP [3]_ is
a looser second opinion.

References
----------
.. [1] Doroshenko et al., "Connect the dots: tighter discrete approximations of privacy loss distributions", PETS 2022.
.. [2] Balle & Wang, "Improving the Gaussian mechanism for differential privacy: analytical calibration and optimal
   denoising", ICML 2018.
.. [3] Mironov et al., "Renyi differential privacy of the sampled Gaussian mechanism", arXiv:1908.10530, 2019.
"""

import math
from collections import Counter
from collections.abc import Mapping
from functools import cache
from operator import index
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from dp_accounting import DpEvent

Accountant = Literal["pld", "rdp"]
Adjacency = Literal["add-or-remove", "replace"]

MIN_DELTA = 1e-12  # below it the rounding of the Fourier transform, not the mechanism, sets epsilon
MIN_NOISE, MAX_NOISE = 1e-2, 1e6  # noise multipliers between which calibrate searches


def dp_sgd_event(sample_rate: float, noise_multiplier: float, steps: int) -> "DpEvent":
    """Describe ``steps`` steps of DP-SGD (Abadi et al., CCS 2016).

    Parameters
    ----------
    sample_rate : float
        Probability with which each record enters a batch (Poisson sampling), in (0, 1].
    noise_multiplier : float
        Standard deviation of the noise on the summed gradient over the clipping norm; 0 is no privacy.
    steps : int
        Number of steps really executed.

    Returns
    -------
    dp_accounting.DpEvent
        In canonical form, see :func:`compose`.
    """
    import dp_accounting as dp

    _check_dp_sgd(sample_rate, steps)
    step = dp.PoissonSampledDpEvent(float(sample_rate), dp.GaussianDpEvent(float(noise_multiplier)))
    return compose(flatten(dp.SelfComposedDpEvent(step, index(steps))))


def flatten(event: "DpEvent") -> "Counter[DpEvent]":
    """Break an event into its atoms and count them.

    Two descriptions of the same composition have the same atoms: nesting and order vanish, equal events are counted
    together, zero noise becomes ``NonPrivateDpEvent``, a sampling rate of 1 disappears, and what reveals nothing (no
    steps, infinite noise) is left out. An impossible noise, sampling probability or count is a ``ValueError``.

    Parameters
    ----------
    event : dp_accounting.DpEvent
        Kinds that are not known here are atoms.

    Returns
    -------
    collections.Counter
        How often each atom is applied.
    """
    import dp_accounting as dp

    match event:
        case dp.NoOpDpEvent():
            return Counter()
        case dp.ComposedDpEvent():
            atoms: Counter[DpEvent] = Counter()
            for part in event.events:
                atoms.update(flatten(part))
            return atoms
        case dp.SelfComposedDpEvent():
            if event.count < 0:
                raise ValueError(f"an event cannot be applied {event.count} times")
            return Counter({atom: n * index(event.count) for atom, n in flatten(event.event).items() if event.count})
        case dp.GaussianDpEvent():
            if not event.noise_multiplier >= 0:
                raise ValueError(f"the noise multiplier must be a number >= 0, got {event.noise_multiplier}")
            if event.noise_multiplier == 0:
                return Counter({dp.NonPrivateDpEvent(): 1})
            return Counter() if math.isinf(event.noise_multiplier) else Counter({event: 1})
        case dp.PoissonSampledDpEvent():
            if not 0 <= event.sampling_probability <= 1:
                raise ValueError(f"the sampling probability must lie in [0, 1], got {event.sampling_probability}")
            inner = flatten(event.event)
            if dp.NonPrivateDpEvent() in inner:
                return Counter({dp.NonPrivateDpEvent(): 1})
            if event.sampling_probability == 1:
                return inner
            if inner.total() > 1:
                raise ValueError(f"only one mechanism can be applied to a sample, not several as in {event}")
            probability = event.sampling_probability
            return Counter({dp.PoissonSampledDpEvent(probability, atom): 1 for atom in inner if probability})
        case _:
            return Counter({event: 1})


def compose(atoms: "Mapping[DpEvent, int]") -> "DpEvent":
    """Build the one canonical event that applies every atom as often as it is counted.

    Parameters
    ----------
    atoms : mapping of dp_accounting.DpEvent to int
        As :func:`flatten` returns them.

    Returns
    -------
    dp_accounting.DpEvent
        ``NoOpDpEvent`` for no atoms, else the atoms in a fixed order, repeated ones self-composed.
    """
    import dp_accounting as dp

    parts = [dp.SelfComposedDpEvent(atom, n) if n > 1 else atom for atom, n in sorted(atoms.items(), key=repr)]
    if not parts:
        return dp.NoOpDpEvent()
    return parts[0] if len(parts) == 1 else dp.ComposedDpEvent(parts)


def epsilon(event: "DpEvent", delta: float, accountant: Accountant = "pld") -> float:
    """Return the epsilon of an event at a given delta, under add-or-remove adjacency.

    Parameters
    ----------
    event : dp_accounting.DpEvent
        Composition of (Poisson-sampled) Gaussians, un-noised releases and nothings.
    delta : float
        From ``MIN_DELTA`` to below 1; the caller sees to it that it is below 1 / number of records.
    accountant : {"pld", "rdp"}
        ``"pld"``: exact where nothing is subsampled, otherwise dp-accounting's PLD, pessimistic and within 1e-3
        (relative) or 1e-4 (absolute) of the true value. ``"rdp"``: dp-accounting's Renyi accountant.

    Returns
    -------
    float
        ``inf`` where something is released without noise, 0 where nothing is released.

    Raises
    ------
    ValueError
        For a delta or an accountant that is not on offer, and for any other kind of event: dp-accounting 0.6 has, for
        example, randomised response under replacement only, and there its PLD ignores how often it is applied.
    """
    _check_delta(delta)
    if accountant not in get_args(Accountant):
        raise ValueError(f"the accountant must be one of {', '.join(get_args(Accountant))}, got {accountant!r}")
    return _epsilon(tuple(sorted(flatten(event).items(), key=repr)), float(delta), accountant)


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
        As for :func:`epsilon` and :func:`dp_sgd_event`.

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

    if not target_epsilon > 0:
        raise ValueError(f"the target epsilon must be positive, got {target_epsilon}")
    _check_delta(delta)
    _check_dp_sgd(sample_rate, steps)
    if math.isinf(target_epsilon) or steps == 0:
        return 0.0

    @cache
    def excess(log_sigma: float) -> float:
        spent = epsilon(dp_sgd_event(sample_rate, math.exp(log_sigma), steps), delta)
        return math.log(min(max(spent / target_epsilon, 0.1), 10.0))

    least, most = math.log(MIN_NOISE), math.log(MAX_NOISE)
    mu = math.sqrt(2) * (math.sqrt(target_epsilon - math.log(delta)) - math.sqrt(-math.log(delta)))
    guess = -0.5 * math.log(math.log1p((mu / sample_rate) ** 2 / steps))
    low = high = min(max(guess, least), most)
    while excess(high) > 0:  # epsilon falls about as fast as sigma grows, or faster: one step mostly suffices
        if high == most:
            raise ValueError(f"no noise multiplier up to {MAX_NOISE:g} reaches epsilon {target_epsilon:g}")
        low, high = high, min(most, high + 1.2 * excess(high) + 0.02)
    while excess(low) <= 0:
        if low == least:
            return MIN_NOISE
        low, high = max(least, low + 1.2 * excess(low) - 0.02), low
    log_sigma = float(brentq(excess, low, high, xtol=2e-4))
    while excess(log_sigma) > 0:
        log_sigma += 2e-4
    return math.exp(log_sigma)


def _check_delta(delta: float) -> None:
    if not MIN_DELTA <= delta < 1:
        raise ValueError(f"delta must lie in [{MIN_DELTA:g}, 1), got {delta}")


def _check_dp_sgd(sample_rate: float, steps: int) -> None:
    if not 0 < sample_rate <= 1:
        raise ValueError(f"the sample rate must lie in (0, 1], got {sample_rate}")
    if steps < 0:
        raise ValueError(f"the number of steps must not be negative, got {steps}")


@cache
def _epsilon(atoms: "tuple[tuple[DpEvent, int], ...]", delta: float, accountant: Accountant) -> float:
    import dp_accounting as dp

    if not atoms:
        return 0.0
    if any(isinstance(atom, dp.NonPrivateDpEvent) for atom, _ in atoms):
        return math.inf
    squared_mu, sampled = 0.0, False
    for atom, count in atoms:
        sampled |= isinstance(atom, dp.PoissonSampledDpEvent)
        match atom:
            case dp.GaussianDpEvent(sigma) | dp.PoissonSampledDpEvent(_, dp.GaussianDpEvent(sigma)):
                squared_mu += count / sigma**2
            case _:
                raise ValueError(f"no accountant here takes {atom}")
    mu, event = math.sqrt(squared_mu), compose(dict(atoms))
    if accountant == "rdp":
        return float(dp.rdp.RdpAccountant().compose(event).get_epsilon(delta))
    return _pld_epsilon(event, delta, _zcdp_epsilon(mu, delta)) if sampled else _gaussian_epsilon(mu, delta)


def _zcdp_epsilon(mu: float, delta: float) -> float:
    """Upper bound on epsilon of Gaussians of total sensitivity over noise mu (Bun & Steinke, TCC 2016, prop. 1.3)."""
    return mu**2 / 2 + mu * math.sqrt(-2 * math.log(delta))


def _gaussian_epsilon(mu: float, delta: float) -> float:
    """Solve Phi(mu/2 - eps/mu) - exp(eps) Phi(-mu/2 - eps/mu) = delta (Balle & Wang 2018, theorem 8) for eps."""
    from scipy.optimize import brentq
    from scipy.special import log_ndtr

    def missing(eps: float) -> float:
        upper, lower = log_ndtr(mu / 2 - eps / mu), eps + log_ndtr(-mu / 2 - eps / mu)
        return -math.exp(upper) * math.expm1(lower - upper) - delta

    return float(brentq(missing, 0.0, _zcdp_epsilon(mu, delta), xtol=1e-12)) if missing(0.0) > 0 else 0.0


def _pld_epsilon(event: "DpEvent", delta: float, bound: float) -> float:
    """Refine the grid of the privacy loss until epsilon has settled, beginning as coarsely as the bound suggests.

    Every grid gives an upper bound, with an error that falls at least as fast as the interval and mostly as its square.
    A fixed interval would let time and memory grow without limit as the noise shrinks, and overstate epsilon where much
    noise is spread over many steps. ``bound`` is an upper bound on epsilon; if astronomic, it is the answer.
    """
    if bound > 1e8:
        return bound
    level = min(max(math.ceil(math.log(bound / 1e3, 4)), -5), 3)
    coarser, value = math.inf, _grid_epsilon(event, delta, bound, 4.0**level)
    while level > -8 and (value == bound or not math.isclose(value, coarser, rel_tol=2e-3, abs_tol=5e-5)):
        level -= 1
        coarser, value = value, _grid_epsilon(event, delta, value, 4.0**level)
    return value


def _grid_epsilon(event: "DpEvent", delta: float, bound: float, interval: float) -> float:
    """Epsilon on one grid, or the bound; found from delta, as the library's own inverse overflows near epsilon 700."""
    from dp_accounting.pld import PLDAccountant
    from scipy.optimize import brentq

    pld = PLDAccountant(value_discretization_interval=interval).compose(event)

    @cache
    def log_excess(eps: float) -> float:
        return math.log(max(float(pld.get_delta(eps)), 1e-300) / delta)

    if log_excess(bound) >= 0:
        return bound
    low = 0.95 * bound if log_excess(0.95 * bound) > 0 else 0.0
    return float(brentq(log_excess, low, bound, xtol=1e-8)) if log_excess(low) > 0 else 0.0
