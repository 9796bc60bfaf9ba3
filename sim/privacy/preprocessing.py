"""What preprocessing by statistics of the records gives away: un-noised releases, whatever noise comes after it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sim.privacy.ledger import Unit

_SCALED, _LEVELS = "mean and deviation of ", "levels of "
_DROPPED, _BY_CLASS = "which columns are dropped for missing values", "held-out records drawn by class"
_MOST_NAMED = 4


@dataclass(frozen=True)
class Exposed:
    """One kind of statistics that preprocessing took from the records."""

    reason: str  # What was used, and what to state in its place
    of_all: bool  # Whether one clinic's records change what others train on
    unit: Unit = "record"  # "label" where it depends on labels, so that no randomised answer hides one


def exposed(names: Sequence[str], scaling: str | None) -> Iterator[Exposed]:
    """Say what statistics of the records give away: those marked ``"non-private"``, under this ``data.scaling``."""
    if scaled := [name.removeprefix(_SCALED) for name in names if name.startswith(_SCALED)]:
        mend = 'take data.scaling = "public" with stated data.ranges'
        reason = f"features are scaled by statistics of the records (mean and deviation of {_named(scaled)}); {mend}"
        yield Exposed(reason, scaling != "per-clinic")
    if levels := [name.removeprefix(_LEVELS) for name in names if name.startswith(_LEVELS)]:
        yield Exposed(f"levels of {_named(levels)} are those found in the records; state data.levels", True)
    for name in names:
        if name == _DROPPED:
            mend = 'state a constant, or "drop", in data.missing for each'
            yield Exposed(f"columns are dropped where a record lacks their value; {mend}", True)
        elif name == _BY_CLASS:
            mend = "take data.stratified = false"
            yield Exposed(f"records are held out by their labels; {mend}", False, "label")
        elif not name.startswith((_SCALED, _LEVELS)):
            yield Exposed(f"{name}: depends on the records; state a public constant", True)


def _named(names: Sequence[str]) -> str:
    if len(names) <= _MOST_NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:2])} and {len(names) - 2:,} others"
