"""The largest epsilon of several compositions, without counting each of them to the end."""

import math
from collections.abc import Iterable

from sim.privacy.accounting import Mechanisms, composed_epsilon, under_one_adjacency
from sim.privacy.loss import grid_epsilon


def largest_epsilon(candidates: Iterable[Mechanisms], delta: float) -> float:
    """Return the largest epsilon, 0 of none.

    A coarse grid overstates epsilon: what it puts below one that was found already is not counted again on finer ones.

    Parameters
    ----------
    candidates : iterable of mappings
        As for :func:`sim.privacy.accounting.composed_epsilon`; quickest with the largest first.
    delta : float
    """
    largest = 0.0
    for mechanisms in candidates:
        if math.isinf(largest):
            break
        if not _below(mechanisms, delta, largest):
            largest = max(largest, composed_epsilon(mechanisms, delta))
    return largest


def _below(mechanisms: Mechanisms, delta: float, largest: float) -> bool:
    from dp_accounting import NonPrivateDpEvent

    if not 0 < largest < 100 or not delta or any(isinstance(atom, NonPrivateDpEvent) for _, atom in mechanisms):
        return False
    atoms, adjacency = under_one_adjacency(mechanisms)
    in_order = tuple(sorted(atoms.items(), key=repr))
    return grid_epsilon(in_order, adjacency, delta, largest, largest / 500) < largest
