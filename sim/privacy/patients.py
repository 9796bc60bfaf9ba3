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
from typing import TYPE_CHECKING

from sim.privacy.accounting import Mechanisms, composed_epsilon
from sim.privacy.ledger import Adversary, Ledger
from sim.privacy.loss import Adjacency

if TYPE_CHECKING:
    from dp_accounting import DpEvent

EXACT_CLINICS = 8


def of_patient(mechanisms: Mechanisms, most: int) -> Mechanisms:
    """Return what mechanisms for a record are to a patient with so many.

    Parameters
    ----------
    mechanisms : mapping of (Adjacency, DpEvent) to int
        For one record, as ``Ledger.mechanisms`` returns them.
    most : int
        The largest number of records of a patient.

    Returns
    -------
    mapping of (Adjacency, DpEvent) to int
        With noise over a record's sensitivity in mixtures, and otherwise over the patient's.
    """
    import dp_accounting as dp
    from dp_accounting.dp_event import MixtureOfGaussiansDpEvent
    from scipy.stats import binom

    atoms: Counter[tuple[Adjacency, DpEvent]] = Counter()
    for (way, atom), count in mechanisms.items():
        match atom:
            case dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(sigma)) if most > 1:
                moves = tuple(range(most + 1))
                likely = tuple(float(p) for p in binom.pmf(moves, most, rate))
                atoms[way, MixtureOfGaussiansDpEvent(sigma, moves, likely)] += count
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

    Parameters
    ----------
    ledger : Ledger
        For one record.
    adversary : Adversary
    clinics : int
        How many there are.
    most : int
        The largest number of records of a patient, at all clinics together.
    delta : float
    stays : int
        The largest number of clinics that have records of one patient.

    Returns
    -------
    float
        At one clinic the largest over the clinics; where more than ``EXACT_CLINICS`` differ, that of a clinic with the
        highest sampling rate, the least noise and the most steps among them, which is no less. At c clinics that clinic
        c times over, with as many records each as one can have: most - c + 1.
    """
    different = {tuple(sorted(ledger.mechanisms(adversary, k).items(), key=repr)) for k in range(clinics)}
    found: list[Mechanisms] = [dict(mechanisms) for mechanisms in different]
    bound = _no_better_than(found)
    if len(found) > EXACT_CLINICS:
        found = [bound]
    at_one = max(composed_epsilon(of_patient(mechanisms, most), delta) for mechanisms in found)
    at_several = (
        composed_epsilon({atom: c * n for atom, n in of_patient(bound, most - c + 1).items()}, delta)
        for c in range(2, min(stays, most) + 1)
    )
    return max([at_one, *at_several])


def _no_better_than(clinics: list[Mechanisms]) -> Mechanisms:
    """Return mechanisms that protect no better than any clinic's."""
    import dp_accounting as dp

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
