"""What anybody but a clinic may know of the records: the facts that planning goes by."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b

from sim.data.parties import Places

_OF_A_COLUMN = ("mean and deviation of ", "constant for missing ", "levels of ")
"""How the name of a statistic begins that is of the column named behind it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Shared:
    """What federation and facts both tell."""

    names: tuple[str, ...]  # The clinics that train, in the order of their clinic axis
    everyone: tuple[str, ...]  # Those and the clinics that are held out as a whole, in the order of the source
    classes: tuple[str, ...]  # What the labels stand for; none where times or amounts are predicted
    # Every statistic that the preprocessing used, as "public" or "non-private", and, as "simulated", what made
    # the clinics out of the records and is no statistic of theirs
    statistics: dict[str, str]
    clinics_of_a_patient: int = 1  # The largest number of clinics that have training records of one patient
    # Under a vertical layout, who holds which features
    places: Places = field(default_factory=Places)
    known: tuple[int, ...] = ()  # By place, its records, shared or not; empty where all know the same patients


@dataclass(frozen=True, kw_only=True)
class Facts(Shared):
    """Public facts of a federation, and the one secret that keys noise.

    Under a vertical layout, the clinics are places of parties, and sizes count a region's patients for each of its.
    """

    sizes: tuple[int, ...]  # [clinic] training records
    records: int  # Of all clinics, held-out and validation records too
    input_shape: tuple[int, ...]  # Of one record
    fingerprint: str  # Digest of all records; who lacks one of them cannot form it. It is secret, and written nowhere.

    @property
    def vertical(self) -> bool:
        """Whether parties hold different columns of the same patients."""
        return bool(self.places.names)

    @property
    def held_out(self) -> tuple[str, ...]:
        """The clinics that take no part in training: all their records are held out."""
        training = set(self.names)
        return tuple(name for name in self.everyone if name not in training)

    @property
    def non_private(self) -> tuple[str, ...]:
        """The statistics of the records that the preprocessing used."""
        return tuple(name for name, marking in self.statistics.items() if marking == "non-private")

    def statistics_by_kind(self, marking: str) -> dict[str, list[str]]:
        """Return the columns that statistics of one marking are of, by the words in front of a column's name."""
        columns: dict[str, list[str]] = {}
        for name, found in self.statistics.items():
            if found == marking:
                kind = next((kind for kind in _OF_A_COLUMN if name.startswith(kind)), "")
                columns.setdefault(kind, []).append(name.removeprefix(kind))
        return columns


def run_key(digest: str, facts: Facts) -> str:
    """Return what keys a run's noise, randomised answers and secret batches: its digest and every record.

    Two runs that differ in a setting or in one record share no draw, and a digest, which is published, is not enough.
    """
    return blake2b(f"{digest}/{facts.fingerprint}".encode(), digest_size=32).hexdigest()
