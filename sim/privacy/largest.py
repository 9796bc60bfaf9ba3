"""The largest epsilon of several compositions, without counting each of them to the end."""

import math
from collections.abc import Iterable
from typing import Any

from sim.foundation.lazy import Lazy
from sim.privacy.accounting import Mechanisms, composed_epsilon, in_order, under_one_adjacency
from sim.privacy.loss import Adjacency, Atoms, first_epsilon, loss_variance

dp: Any = Lazy("dp_accounting")


def largest_epsilon(candidates: Iterable[Mechanisms], delta: float) -> float:
    """Return the largest epsilon of compositions as of :func:`sim.privacy.accounting.composed_epsilon`, 0 of none.

    They are counted from the one whose loss varies most. A coarse grid overstates epsilon: what it puts below one that
    was found already is not counted again on finer ones.
    """
    largest = 0.0
    for mechanisms in sorted(candidates, key=_variance, reverse=True):
        if math.isinf(largest):
            break
        if not _below(mechanisms, delta, largest):
            largest = max(largest, composed_epsilon(mechanisms, delta))
    return largest


def _variance(mechanisms: Mechanisms) -> float:
    return math.inf if _without_noise(mechanisms) else loss_variance(_counted(mechanisms)[0])[0]


def _below(mechanisms: Mechanisms, delta: float, largest: float) -> bool:
    if not 0 < largest <= 1e8 or not delta or _without_noise(mechanisms):
        return False
    atoms, adjacency = _counted(mechanisms)
    return not atoms or first_epsilon(atoms, adjacency, delta, largest) < largest


def _without_noise(mechanisms: Mechanisms) -> bool:
    return any(isinstance(atom, dp.NonPrivateDpEvent) for _, atom in mechanisms)


def _counted(mechanisms: Mechanisms) -> tuple[Atoms, Adjacency]:
    atoms, adjacency = under_one_adjacency(mechanisms)
    return in_order(atoms), adjacency
