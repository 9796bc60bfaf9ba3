"""Epsilon of what was released.

A mechanism is described once, as a ``dp_accounting.DpEvent``; the functions here turn such a description into epsilon.
The main accountant composes privacy loss distributions (PLD) discretised so that epsilon
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
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from operator import index
from typing import Any, Literal, TypeAlias, get_args

from sim.foundation.lazy import Lazy
from sim.privacy.events import DpEvent, dp
from sim.privacy.loss import Adjacency, Atoms, along, first_epsilon, loss_variance, settled
from sim.scenario.privacy import MIN_DELTA

optimize: Any = Lazy("scipy.optimize")
special: Any = Lazy("scipy.special")

Accountant = Literal["pld", "rdp"]
Mechanisms: TypeAlias = "Mapping[tuple[Adjacency, DpEvent], int]"


def dp_sgd_event(sample_rate: float, noise_multiplier: float, steps: int) -> "DpEvent":
    """Describe ``steps`` executed steps of DP-SGD (Abadi et al., CCS 2016), in the form of :func:`compose`.

    Each record enters a batch with probability ``sample_rate``, in (0, 1]; ``noise_multiplier`` is the standard
    deviation of the noise on the summed gradient over the clipping norm, and 0 is no privacy.
    """
    check_dp_sgd(sample_rate, steps)
    step = dp.PoissonSampledDpEvent(float(sample_rate), dp.GaussianDpEvent(float(noise_multiplier)))
    return compose(flatten(dp.SelfComposedDpEvent(step, index(steps))))


def flatten(event: "DpEvent") -> "Counter[DpEvent]":
    """Break an event into its atoms and count them; kinds that are not known here are atoms.

    Two descriptions of the same composition have the same atoms: nesting and order vanish, equal events are counted
    together, zero noise becomes ``NonPrivateDpEvent``, a sampling rate of 1 disappears, and what reveals nothing (no
    steps, infinite noise) is left out. An impossible noise, sampling probability or count is a ``ValueError``.
    """
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
        case dp.LaplaceDpEvent() if event.noise_multiplier == 0:
            return Counter({dp.NonPrivateDpEvent(): 1})
        case dp.RandomizedResponseDpEvent() if event.num_buckets == 1 or event.noise_parameter == 1:
            return Counter()
        case dp.RandomizedResponseDpEvent() if event.noise_parameter == 0:
            return Counter({dp.NonPrivateDpEvent(): 1})
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

    ``NoOpDpEvent`` for no atoms, else the atoms in a fixed order, repeated ones self-composed.
    """
    parts = [dp.SelfComposedDpEvent(atom, n) if n > 1 else atom for atom, n in sorted(atoms.items(), key=repr)]
    if not parts:
        return dp.NoOpDpEvent()
    return parts[0] if len(parts) == 1 else dp.ComposedDpEvent(parts)


def epsilon(
    event: "DpEvent", delta: float, accountant: Accountant = "pld", adjacency: Adjacency = "add-or-remove"
) -> float:
    """Return an event's epsilon, as :func:`composed_epsilon`; noise is over the sensitivity under ``adjacency``."""
    return composed_epsilon({(adjacency, atom): n for atom, n in flatten(event).items()}, delta, accountant)


def composed_epsilon(mechanisms: Mechanisms, delta: float, accountant: Accountant = "pld") -> float:
    """Return the epsilon of mechanisms that may differ in their adjacency.

    One that holds under replacement alone makes the whole a statement about replacement: a mechanism stated for adding
    or removing is then converted, removal and addition moving its output by twice its sensitivity.

    Parameters
    ----------
    mechanisms : mapping of (Adjacency, DpEvent) to int
        How often each atom, as :func:`flatten` returns them, is applied: (Poisson-sampled) Gaussians, Laplace noise,
        randomised response, un-noised releases.
    delta : float
        0, or from ``MIN_DELTA`` to below 1; the caller sees to it that it is below 1 / number of records. At 0 pure
        epsilons add up, and Gaussian noise has none.
    accountant : {"pld", "rdp"}
        ``"pld"``: exact where all noise is Gaussian and nothing is subsampled, otherwise pessimistic and within 1e-3
        (relative) or 1e-4 (absolute) of the true value. ``"rdp"``: dp-accounting's Renyi accountant.

    Returns
    -------
    float
        ``inf`` where something is released without noise, 0 where nothing is released.

    Raises
    ------
    ValueError
        For a delta or an accountant that is not on offer, and for a mechanism that this accountant does not take.
    """
    if delta != 0:
        check_delta(delta)
    if accountant not in get_args(Accountant):
        raise ValueError(f"the accountant must be one of {', '.join(get_args(Accountant))}, got {accountant!r}")
    atoms, adjacency = under_one_adjacency(mechanisms)
    return _epsilon(in_order(atoms), float(delta), accountant, adjacency)[0]


def settled_interval(event: "DpEvent", delta: float) -> float:
    """Return the interval of the grid on which an event's epsilon by ``"pld"`` has settled, 0 where none is needed."""
    return _epsilon(in_order(flatten(event)), float(delta), "pld", "add-or-remove")[1]


def epsilons_along(prefixes: Sequence[Mechanisms], delta: float) -> list[float]:
    """Return the epsilon after each of several rounds, by ``"pld"``, of all that is released up to the end of each.

    The rounds' privacy losses are composed one after another on one grid, that of the last epsilon: as exact as
    composing each anew, and far quicker.
    """
    if not prefixes:
        return []
    totals = [under_one_adjacency(mechanisms) for mechanisms in prefixes]
    last, adjacency = totals[-1]
    whole, interval = _epsilon(in_order(last), float(delta), "pld", adjacency)
    if not interval or math.isinf(interval) or any(way != adjacency for _, way in totals):
        return [composed_epsilon(mechanisms, delta) for mechanisms in prefixes]
    before: Counter[DpEvent] = Counter()
    steps = []
    for total, _ in totals:
        steps.append(in_order(total - before))
        before = total
    return list(along(tuple(steps), adjacency, float(delta), whole, interval))


def in_order(atoms: "Mapping[DpEvent, int]") -> Atoms:
    """Return atoms in a fixed order."""
    return tuple(sorted(atoms.items(), key=repr))


def under_one_adjacency(mechanisms: Mechanisms) -> "tuple[Counter[DpEvent], Adjacency]":
    """Convert to replacement where anything is stated for it; noise over the sensitivity under the result."""
    replaced = any(way == "replace" and not isinstance(atom, dp.NonPrivateDpEvent) for way, atom in mechanisms)
    atoms: Counter[DpEvent] = Counter()
    for (way, atom), count in mechanisms.items():
        atoms[halved(atom) if replaced and way == "add-or-remove" else atom] += count
    return atoms, "replace" if replaced else "add-or-remove"


def halved(atom: "DpEvent") -> "DpEvent":
    """Return the same noise over twice the sensitivity; ``ValueError`` for an atom that has no noise to halve."""
    found = atom if isinstance(atom, dp.NonPrivateDpEvent) else rescaled(atom, 0.5)
    if found is None:
        raise ValueError(f"no accountant here takes {atom} under adding or removing a record")
    return found


def rescaled(atom: "DpEvent", factor: float) -> "DpEvent | None":
    """Return an atom with its noise multiplied; None for one that has none, or none with a scale."""
    match atom:
        case dp.GaussianDpEvent(sigma):
            return dp.GaussianDpEvent(sigma * factor)
        case dp.dp_event.MixtureOfGaussiansDpEvent(sigma, moves, likely):
            return dp.dp_event.MixtureOfGaussiansDpEvent(sigma * factor, moves, likely)
        case dp.LaplaceDpEvent(scale):
            return dp.LaplaceDpEvent(scale * factor)
        case dp.PoissonSampledDpEvent(rate, inner) if (noised := rescaled(inner, factor)) is not None:
            return dp.PoissonSampledDpEvent(rate, noised)
    return None


def check_delta(delta: float) -> None:
    """Raise ``ValueError`` unless delta is one that the accountants can tell from 0, and below 1."""
    if not MIN_DELTA <= delta < 1:
        raise ValueError(f"delta must lie in [{MIN_DELTA:g}, 1), got {delta}")


def check_dp_sgd(sample_rate: float, steps: int) -> None:
    """Raise ``ValueError`` for a sampling rate outside (0, 1] or a negative number of steps."""
    if not 0 < sample_rate <= 1:
        raise ValueError(f"the sample rate must lie in (0, 1], got {sample_rate}")
    if steps < 0:
        raise ValueError(f"the number of steps must not be negative, got {steps}")


@cache
def _epsilon(atoms: Atoms, delta: float, accountant: Accountant, adjacency: Adjacency) -> tuple[float, float]:
    """Return epsilon, and the interval of the grid that it was found on, 0 where none was needed."""
    if not atoms:
        return 0.0, 0.0
    if any(isinstance(atom, dp.NonPrivateDpEvent) for atom, _ in atoms):
        return math.inf, 0.0
    squared_mu, pure, sampled = 0.0, 0.0, False
    for atom, count in atoms:
        sampled |= isinstance(atom, dp.PoissonSampledDpEvent)
        match atom:
            case dp.GaussianDpEvent(sigma) | dp.PoissonSampledDpEvent(_, dp.GaussianDpEvent(sigma)):
                squared_mu += count / sigma**2
            case dp.dp_event.MixtureOfGaussiansDpEvent(sigma, moves, _):
                squared_mu, sampled = squared_mu + count * (max(moves) / sigma) ** 2, True
                if accountant != "pld":
                    raise ValueError(f"only pld takes {atom}")
            case dp.LaplaceDpEvent() | dp.RandomizedResponseDpEvent():
                pure += count * pure_epsilon(atom)
                if isinstance(atom, dp.RandomizedResponseDpEvent) and adjacency != "replace":
                    raise ValueError(f"no accountant here takes {atom} under adding or removing a record")
            case _:
                raise ValueError(f"no accountant here takes {atom}")
    if delta == 0:
        return math.inf if squared_mu else pure, 0.0
    if accountant != "pld":
        if pure or (sampled and adjacency == "replace"):
            what = "subsampling under replacement" if not pure else "Laplace noise or randomised response"
            raise ValueError(f"the accountant {accountant} does not take {what}; use pld")
        # Without subsampling the loss depends on noise over sensitivity alone, so that both adjacencies are one case.
        return float(dp.rdp.RdpAccountant().compose(compose(dict(atoms))).get_epsilon(delta)), 0.0
    mu = math.sqrt(squared_mu)
    if not sampled and not pure:
        return gaussian_epsilon(mu, delta), 0.0
    if mu == 0 and (pure > 50 or (len(atoms) == 1 and atoms[0][1] == 1)):
        return pure, 0.0  # one release of a pure mechanism, or so little noise that a grid is of no use
    bound = pure + (_zcdp_epsilon(mu, delta) if mu else 0.0)
    return settled(atoms, adjacency, delta, bound)


def pure_epsilon(atom: "DpEvent") -> float:
    """Return epsilon at delta 0 of Laplace noise or of randomised response, applied once.

    Randomised response of k buckets answers truly with probability 1 - p and uniformly otherwise (Kairouz et al. 2016).
    """
    match atom:
        case dp.LaplaceDpEvent(scale):
            return math.inf if scale == 0 else 1 / scale
        case dp.RandomizedResponseDpEvent(p, k):
            return 0.0 if k == 1 else math.inf if p == 0 else math.log((1 - p) * k / p + 1)
        case _:
            raise ValueError(f"{atom} has no pure epsilon")


def _zcdp_epsilon(mu: float, delta: float) -> float:
    """Upper bound on epsilon of Gaussians of total sensitivity over noise mu (Bun & Steinke, TCC 2016, prop. 1.3)."""
    return mu**2 / 2 + mu * math.sqrt(-2 * math.log(delta))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Solve Phi(mu/2 - eps/mu) - exp(eps) Phi(-mu/2 - eps/mu) = delta (Balle & Wang 2018, theorem 8) for eps."""
    if mu > 1e4:
        return _zcdp_epsilon(mu, delta)  # astronomic, and the formula overflows

    def missing(eps: float) -> float:
        upper, lower = special.log_ndtr(mu / 2 - eps / mu), eps + special.log_ndtr(-mu / 2 - eps / mu)
        return -math.exp(upper) * math.expm1(lower - upper) - delta

    return float(optimize.brentq(missing, 0.0, _zcdp_epsilon(mu, delta), xtol=1e-12)) if missing(0.0) > 0 else 0.0


def largest_epsilon(candidates: Iterable[Mechanisms], delta: float) -> float:
    """Return the largest epsilon of compositions as of :func:`sim.privacy.accounting.composed_epsilon`, 0 of none.

    They are counted from the one whose loss varies most. A coarse grid overstates epsilon: what it puts below one that
    was found already is not counted again on finer ones.
    """
    noised: list[Mechanisms] = []
    bare: list[Mechanisms] = []
    for mechanisms in candidates:
        un_noised = any(isinstance(atom, dp.NonPrivateDpEvent) for _, atom in mechanisms)
        (bare if un_noised else noised).append(mechanisms)
    counted = [(in_order(atoms), adjacency) for atoms, adjacency in map(under_one_adjacency, noised) if atoms]
    if bare:
        return composed_epsilon(bare[0], delta)
    largest = 0.0
    for atoms, adjacency in sorted(counted, key=lambda each: loss_variance(each[0])[0], reverse=True):
        coarse = 0 < largest <= 1e8 and delta
        if not coarse or first_epsilon(atoms, adjacency, delta, largest) >= largest:
            largest = max(largest, composed_epsilon({(adjacency, atom): n for atom, n in atoms}, delta))
    return largest
