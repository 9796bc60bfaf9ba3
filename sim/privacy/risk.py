"""What an epsilon means for one record: how well anyone can tell whether it was there.

The bounds hold for every attack: the largest difference of true and false positive rates (membership advantage), and
the true positive rate at a fixed false positive rate. They follow from the whole trade-off between the two errors,
not from one (epsilon, delta) [1]_.

References
----------
.. [1] Kulynych et al., "Attack-aware noise calibration for differential privacy", NeurIPS 2024 (``riskcal``).
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from sim.foundation.lazy import Lazy
from sim.privacy.accounting import Mechanisms, under_one_adjacency
from sim.privacy.loss import Adjacency, Atoms, privacy_loss
from sim.privacy.remembered import remembered

dp: Any = Lazy("dp_accounting")
riskcal: Any = Lazy("riskcal.analysis")

FALSE_POSITIVE_RATES = (0.001, 0.01, 0.1)


@dataclass(frozen=True)
class Risk:
    """Bounds on every attack."""

    advantage: float  # Largest true positive rate minus false positive rate; 1 is certainty
    true_positive_rates: tuple[float, ...]  # At each of `FALSE_POSITIVE_RATES`


def membership_risk(mechanisms: Mechanisms, epsilon: float) -> Risk:
    """Bound every attack on what these mechanisms release.

    Where their epsilon, at any delta, is infinite or too large for a grid, nothing bounds the attacker.
    """
    atoms, adjacency = under_one_adjacency(mechanisms)
    if not atoms:
        return Risk(0.0, FALSE_POSITIVE_RATES)
    if epsilon > 100:
        return Risk(1.0, (1.0,) * len(FALSE_POSITIVE_RATES))
    advantage, *rates = _risk(tuple(sorted(atoms.items(), key=repr)), adjacency)
    return Risk(advantage, tuple(rates))


@cache
@remembered
def _risk(atoms: Atoms, adjacency: Adjacency) -> tuple[float, ...]:
    """Return the advantage, then a true positive rate for each false one."""
    if all(isinstance(atom, dp.GaussianDpEvent) for atom, _ in atoms):
        mu = math.sqrt(sum(count / atom.noise_multiplier**2 for atom, count in atoms))
        rates = [1 - float(riskcal.get_beta_from_gdp(mu, rate)) for rate in FALSE_POSITIVE_RATES]
        return float(riskcal.get_advantage_from_gdp(mu)), *rates
    pld = privacy_loss(atoms, adjacency, 1e-3)
    # Every (epsilon, delta) bounds the true positive rate by exp(epsilon) times the false one, plus delta. Its own
    # trade-off curve (riskcal) is not used: for a loss of few values, as of randomised response, it is far too high.
    losses = np.linspace(-20, 20, 801)
    deltas = np.array(pld.get_delta_for_epsilon(losses))
    rates = [min(1.0, float(np.min(deltas + np.exp(losses) * rate))) for rate in FALSE_POSITIVE_RATES]
    return float(riskcal.get_advantage_from_pld(pld)), *rates
