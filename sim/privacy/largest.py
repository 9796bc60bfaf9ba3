"""The largest epsilon of several compositions, without counting each of them to the end."""

from collections.abc import Iterable

from sim.privacy.accounting import Mechanisms, composed_epsilon, in_order, under_one_adjacency
from sim.privacy.events import dp
from sim.privacy.loss import first_epsilon, loss_variance


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
