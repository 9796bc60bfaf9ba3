"""Privacy loss distributions on a grid: the numerical part of the accountant.

Every grid gives an upper bound on epsilon [1]_. The loss of one mechanism is kept for the next composition of it.

References
----------
.. [1] Doroshenko et al., "Connect the dots: tighter discrete approximations of privacy loss distributions", PETS 2022.
"""

import math
from collections.abc import Callable
from functools import cache, lru_cache
from itertools import accumulate
from typing import Any, Literal, TypeAlias

from sim.foundation.lazy import Lazy
from sim.privacy.events import DpEvent, dp
from sim.privacy.remembered import remembered
from sim.privacy.sampled_gaussian import LARGEST, delta_of_steps, misplaced

library: Any = Lazy("dp_accounting.pld.privacy_loss_distribution")
optimize: Any = Lazy("scipy.optimize")

Adjacency = Literal["add-or-remove", "replace"]
Atoms: TypeAlias = "tuple[tuple[DpEvent, int], ...]"


@cache
@remembered
def settled(atoms: Atoms, adjacency: Adjacency, delta: float, bound: float) -> tuple[float, float]:
    """Refine the grid of the privacy loss until epsilon has settled; return it and the last grid's interval.

    The error of a grid falls at least as fast as its interval and mostly as its square. A fixed interval would let time
    and memory grow without limit as the noise shrinks, and overstate epsilon where much noise is spread over many
    steps; the first one follows from the variance of the loss. ``bound`` is an upper bound on epsilon; if astronomic,
    it is the answer.
    """
    if bound > 1e8:
        return bound, math.inf
    level = _first_level(atoms, bound)
    coarser, value = math.inf, grid_epsilon(atoms, adjacency, delta, bound, 4.0**level)
    while level > -8 and (value == bound or not math.isclose(value, coarser, rel_tol=2e-3, abs_tol=5e-5)):
        level -= 1
        coarser, value = value, grid_epsilon(atoms, adjacency, delta, value, 4.0**level)
    return value, 4.0**level


@remembered
def first_epsilon(atoms: Atoms, adjacency: Adjacency, delta: float, bound: float) -> float:
    """Return epsilon on the grid that :func:`settled` begins with, which it never exceeds; at most the bound."""
    return grid_epsilon(atoms, adjacency, delta, bound, 4.0 ** _first_level(atoms, bound))


def _first_level(atoms: Atoms, bound: float) -> int:
    """Return the power of 4 of an interval h of which the grid adds about a percent to epsilon.

    Rounding a loss to a grid adds about h^2 / 6 to its variance, and epsilon grows as the deviation of the sum.
    """
    variance, parts = loss_variance(atoms)
    return min(math.ceil(math.log(min(max(math.sqrt(0.024 * variance / parts), 4.0**-6), bound / 1e3), 4)), 3)


def loss_variance(atoms: Atoms) -> tuple[float, int]:
    """Return about the variance of the privacy loss of all atoms, and how many random parts it has."""
    variance, parts = 0.0, 0
    for atom, count in atoms:
        match atom:
            case dp.GaussianDpEvent(sigma):
                variance, parts = variance + count / sigma**2, parts + 1
            case dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(sigma)):
                mu_squared = 1 / sigma**2
                often = rate * mu_squared * (1 + mu_squared / 4)
                rare = rate**2 * math.expm1(min(mu_squared, 100.0))
                variance, parts = variance + count * min(often, rare), parts + count
            case dp.dp_event.MixtureOfGaussiansDpEvent(sigma, moves, likely):
                weighed = [(p, (c / sigma) ** 2) for p, c in zip(likely, moves, strict=True)]
                often = sum(p * mu_squared * (1 + mu_squared / 4) for p, mu_squared in weighed)
                variance, parts = variance + count * often * (1 - likely[0]), parts + count
            case dp.LaplaceDpEvent(scale):
                variance, parts = variance + count / scale**2, parts + count
            case _:
                variance, parts = variance + count, parts + count
    return variance, parts


@lru_cache(maxsize=4)
def privacy_loss(atoms: Atoms, adjacency: Adjacency, interval: float) -> Any:
    """Compose the privacy loss distribution of atoms on a grid.

    Repetition is ours: dp-accounting's PLDAccountant ignores it for randomised response, and takes no Laplace noise
    under replacement, which is to it the same shift over a smaller scale.
    """
    whole = library.identity(value_discretization_interval=interval)
    for atom, count in atoms:
        if isinstance(atom, dp.GaussianDpEvent):
            whole = whole.compose(
                _loss(dp.GaussianDpEvent(atom.noise_multiplier / math.sqrt(count)), "replace", interval)
            )
        else:
            one = _loss(atom, adjacency, interval)
            whole = whole.compose(one.self_compose(count) if count > 1 else one)
    return whole


@lru_cache(maxsize=16)
def _loss(atom: "DpEvent", adjacency: Adjacency, interval: float) -> Any:
    from sim.privacy.mixtures import replaced_mixture

    way = (
        dp.NeighboringRelation.ADD_OR_REMOVE_ONE if adjacency == "add-or-remove" else dp.NeighboringRelation.REPLACE_ONE
    )
    match atom:
        case dp.GaussianDpEvent(sigma):
            return library.from_gaussian_mechanism(sigma, value_discretization_interval=interval)
        case dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(sigma)):
            # The library states noise over a norm: replacement moves its sum by twice that.
            return library.from_gaussian_mechanism(
                sigma if adjacency == "add-or-remove" else 2 * sigma,
                value_discretization_interval=interval,
                sampling_prob=rate,
                neighboring_relation=way,
            )
        case dp.dp_event.MixtureOfGaussiansDpEvent(sigma, moves, likely) if adjacency == "replace":
            return replaced_mixture(2 * sigma, moves, likely, interval)
        case dp.dp_event.MixtureOfGaussiansDpEvent(sigma, moves, likely):
            return library.from_mixture_gaussian_mechanism(sigma, moves, likely, value_discretization_interval=interval)
        case dp.LaplaceDpEvent(scale):
            return library.from_laplace_mechanism(scale, value_discretization_interval=interval)
        case dp.RandomizedResponseDpEvent(p, k):
            return library.from_randomized_response(
                p, k, value_discretization_interval=interval, neighboring_relation=way
            )
        case _:
            raise ValueError(f"no accountant here takes {atom}")


@lru_cache(maxsize=256)
@remembered
def along(
    steps: tuple[Atoms, ...], adjacency: Adjacency, delta: float, bound: float, interval: float
) -> tuple[float, ...]:
    """Compose one step after another on one grid; return an upper bound on epsilon after each.

    ``bound`` is one after the last step, and ``interval`` that on which the last epsilon has settled: a grid's error
    relative to epsilon is the same for fewer steps.
    """
    if adjacency == "add-or-remove" and len({atom for atoms in steps for atom, _ in atoms}) == 1:
        counts = accumulate(sum(count for _, count in atoms) for atoms in steps)
        [atom] = {atom for atoms in steps for atom, _ in atoms}
        return tuple(grid_epsilon(((atom, n),) if n else (), adjacency, delta, bound, interval) for n in counts)
    parts = {atoms: privacy_loss(atoms, adjacency, interval) for atoms in dict.fromkeys(steps)}
    whole, spent = privacy_loss((), adjacency, interval), []
    for atoms in steps:
        whole = whole.compose(parts[atoms])
        spent.append(_inverted(whole.get_delta_for_epsilon, delta, bound))
    return tuple(spent)


def grid_epsilon(atoms: Atoms, adjacency: Adjacency, delta: float, bound: float, interval: float) -> float:
    """Return epsilon on one grid, or the bound if that is smaller."""
    match atoms:
        case ((dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(sigma)), steps),) if adjacency == "add-or-remove":
            most = min(bound, LARGEST)
            found = _inverted(delta_of_steps(rate, sigma, steps, interval), delta, most)
            if found < most or most == bound:
                return found
            if misplaced(steps) >= delta:  # no transform tells so small a delta, the library's neither
                renyi = dp.rdp.RdpAccountant().compose(dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(sigma)), steps)
                return min(bound, float(renyi.get_epsilon(delta)))
    return _inverted(privacy_loss(atoms, adjacency, interval).get_delta_for_epsilon, delta, bound)


def _inverted(delta_of: Callable[[float], Any], delta: float, bound: float) -> float:
    """Return the epsilon of a delta, or the bound; the library's own inverse overflows near epsilon 700."""

    @cache
    def log_excess(eps: float) -> float:
        return math.log(max(float(delta_of(eps)), 1e-300) / delta)

    if log_excess(bound) >= 0:
        return bound
    low = 0.95 * bound if log_excess(0.95 * bound) > 0 else 0.0
    return float(optimize.brentq(log_excess, low, bound, xtol=1e-8)) if log_excess(low) > 0 else 0.0
