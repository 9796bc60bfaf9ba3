"""What a guarantee for one record is worth for a patient with several records at a clinic.

A batch of DP-SGD holds a binomial number of the patient's records, so that a step is a mixture of Gaussians whose means
lie 0 to m sensitivities away [1]_; its privacy loss composes like any other. Under noise without subsampling m records
move a release m times as far.

References
----------
.. [1] Ganesh, "Tight group-level DP guarantees for DP-SGD with sampling via mixture of Gaussians mechanisms",
   arXiv:2401.10294, 2024.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeAlias

from sim.foundation.lazy import Lazy
from sim.privacy.accounting import Mechanisms, largest_epsilon
from sim.privacy.events import DpEvent, dp
from sim.privacy.ledger import Adversary, Ledger
from sim.privacy.loss import Adjacency

stats: Any = Lazy("scipy.stats")

EXACT_COMBINATIONS = 40
"""Of more ways than this to share out a patient's records among so many clinics, a bound is counted instead."""

_Shares: TypeAlias = tuple[tuple[int, int], ...]


def of_patient(mechanisms: Mechanisms, most: int) -> Mechanisms:
    """Return what mechanisms for a record, as of ``Ledger.mechanisms``, are to a patient with so many.

    Noise is over a record's sensitivity in mixtures, and otherwise over the patient's.
    """
    atoms: Counter[tuple[Adjacency, DpEvent]] = Counter()
    for (way, atom), count in mechanisms.items():
        match atom:
            case dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(sigma)) if most > 1:
                moves = tuple(range(most + 1))
                likely = tuple(float(p) for p in stats.binom.pmf(moves, most, rate))
                atoms[way, dp.dp_event.MixtureOfGaussiansDpEvent(sigma, moves, likely)] += count
            case dp.GaussianDpEvent(sigma):
                atoms[way, dp.GaussianDpEvent(sigma / most)] += count
            case dp.LaplaceDpEvent(scale):
                atoms[way, dp.LaplaceDpEvent(scale / most)] += count
            case dp.RandomizedResponseDpEvent():
                atoms[way, atom] += count * most
            case _:
                atoms[way, atom] += count
    return atoms


def patient_epsilon(
    ledger: Ledger, adversary: Adversary, clinics: int, most: int, delta: float, *, stays: int = 1
) -> float:
    """Return the epsilon of a patient with at most so many records at one clinic, or dealt out among several.

    The largest over every choice of up to `stays` different clinics and every way to share out `most` records among
    them, what each clinic releases composed; clinics that release the same are told apart only by their number. Where c
    clinics allow more than ``EXACT_COMBINATIONS`` of these, for them a bound: c times a clinic with the highest
    sampling rate, the least noise and the most steps, with most - c + 1 records each.
    """
    alike = Counter(tuple(sorted(ledger.mechanisms(adversary, k).items(), key=repr)) for k in range(clinics))
    kinds: list[Mechanisms] = [dict(mechanisms) for mechanisms in alike]
    return largest_epsilon(_choices(kinds, list(alike.values()), most, min(stays, most, clinics)), delta)


def _choices(kinds: Sequence[Mechanisms], alike: Sequence[int], most: int, stays: int) -> Iterator[Mechanisms]:
    for c in range(1, stays + 1):
        ways = list(islice(_shared_out(alike, most, c), EXACT_COMBINATIONS + 1))
        if len(ways) > EXACT_COMBINATIONS:
            yield composed((of_patient(no_better_than(kinds), most - c + 1),) * c)
        else:
            yield from (composed(of_patient(kinds[kind], own) for kind, own in way) for way in ways)


def composed(parts: Iterable[Mechanisms]) -> Mechanisms:
    """Return mechanisms that are applied one after another as one."""
    whole: Counter[tuple[Adjacency, DpEvent]] = Counter()
    for mechanisms in parts:
        whole.update(mechanisms)
    return whole


def _shared_out(alike: Sequence[int], records: int, clinics: int, chosen: _Shares = ()) -> Iterator[_Shares]:
    """Yield the ways to share out records among so many clinics, as pairs of a kind of clinic and its records.

    Of each kind there are ``alike[kind]``; pairs come in order, so that no way comes twice.
    """
    if not clinics:
        yield chosen
        return
    first, least = chosen[-1] if chosen else (0, 1)
    for kind in range(first, len(alike)):
        if sum(one == kind for one, _ in chosen) == alike[kind]:
            continue
        rest = records - clinics + 1
        for own in range(least if kind == first else 1, rest + 1) if clinics > 1 else (rest,):
            if clinics > 1 or kind > first or own >= least:
                yield from _shared_out(alike, records - own, clinics - 1, (*chosen, (kind, own)))


def no_better_than(clinics: Sequence[Mechanisms]) -> Mechanisms:
    """Return mechanisms that protect no better than any clinic's."""
    gaussian: dict[Adjacency, tuple[float, float, int]] = {}
    others: Counter[tuple[Adjacency, DpEvent]] = Counter()
    for mechanisms in clinics:
        steps: Counter[Adjacency] = Counter()
        for (way, atom), count in mechanisms.items():
            match atom:
                case dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(sigma)):
                    pass
                case dp.GaussianDpEvent(sigma):
                    rate = 1.0
                case _:
                    others[way, atom] = max(count, others[way, atom])
                    continue
            steps[way] += count
            highest, least, longest = gaussian.get(way, (rate, sigma, 0))
            gaussian[way] = max(highest, rate), min(least, sigma), max(longest, steps[way])
    for way, (rate, sigma, count) in gaussian.items():
        one = dp.GaussianDpEvent(sigma)
        others[way, one if rate == 1 else dp.PoissonSampledDpEvent(rate, one)] += count
    return others
