"""What two neighbouring data sets differ in, by the names that people read, and one adjacency for everything.

Sizes of clinics are public, so that noise on clipped gradients hides whether a record is replaced by a null record,
whose gradient is zero ("zero-out" [1]_). The accounting is that of adding or removing a record. Noise on rows and
randomised labels hide which record it is of all that are possible ("replace-one"). An epsilon for one is not comparable
with an epsilon for the other; everything has one for replacement.

References
----------
.. [1] Kairouz et al., "Practical and private (deep) learning without sampling or shuffling", ICML 2021.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from sim.privacy.accounting import Mechanisms, flatten, halved, largest_epsilon
from sim.privacy.events import DpEvent, dp
from sim.privacy.ledger import Adversary, Ledger, Unit
from sim.privacy.loss import Adjacency

NAMES: Final[dict[Adjacency, str]] = {"add-or-remove": "zero-out", "replace": "replace-one"}
"""By the name in the ledger, the one that people read."""

MEANING: Final = (
    "Zero-out: neighbouring data sets differ in one record that is replaced by a null record, which adds nothing to a "
    "sum; numbers of records are public. Replace-one: they differ in one record that is replaced by any other. "
    "To replace one is to zero it out and put another in its place, so that epsilon for replace-one is the larger."
)


def adjacency_of(ledger: Ledger) -> str:
    """Name a run's adjacency: replace-one if any noised release has it, otherwise zero-out; empty without noise."""
    ways = {r.adjacency for r in ledger.releases if any(atom != dp.NonPrivateDpEvent() for atom in flatten(r.event))}
    return NAMES["replace"] if "replace" in ways else NAMES["add-or-remove"] if ways else ""


def replaced(mechanisms: Mechanisms) -> Mechanisms:
    """Return the same mechanisms, all under replacement; ``ValueError`` for one that has no noise to halve."""
    atoms: Counter[tuple[Adjacency, DpEvent]] = Counter()
    for (way, atom), count in mechanisms.items():
        atoms["replace", atom if way == "replace" else halved(atom)] += count
    return atoms


def replace_epsilon(
    ledger: Ledger, adversary: Adversary, clinics: Iterable[int], delta: float, unit: Unit = "record"
) -> float | None:
    """Return the largest epsilon over the clinics with everything under replacement, None where nothing counts it."""
    different = {tuple(sorted(ledger.mechanisms(adversary, k, unit).items(), key=repr)): None for k in clinics}
    try:
        return largest_epsilon((replaced(dict(mechanisms)) for mechanisms in different), delta)
    except ValueError:
        return None
