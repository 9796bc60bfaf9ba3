"""Secure aggregation: the server learns the sum of the clinics' updates alone.

Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS 2017; with k neighbours a
clinic instead of all others Bell et al., "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead", CCS 2020:

    keys        each clinic sends two public keys, and receives those of its neighbours
    shares      each clinic sends each neighbour a share of its key's secret and of its own mask's seed, encrypted
    update      each clinic sends update + noise + masks, modulo 2^32; of neighbours' masks the sum holds none
    check       against a lying server: clinics sign the list of those whose updates arrived, and compare it
    opening     each clinic sends a share of each neighbour: of the seed where its update arrived, else of its key

Fewer updates than the threshold T open no sum. Each clinic adds a Gaussian of variance (sigma C)^2 / m to its update,
m = max(1, T - t): T updates of which t are of colluding clinics, who know their own noise, have sigma C in all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Stage = tuple[Literal["up", "down", "clinic"], int]
"""A message of each clinic with its bytes, or the operations of each; the next begins when all have done it."""

KEYS, SHARE, CIPHER, SIGNATURE = 64, 32, 28, 64
"""Bytes: two X25519 public keys; a share of a secret; nonce and tag of AES-GCM; Ed25519."""
WORD: Final = 4
"""Bytes of a number of a masked update."""
MASK_OPERATIONS: Final = 10
"""Stated cost of drawing one number of a mask."""


@dataclass(frozen=True, kw_only=True)
class SecureAggregation:
    """Who adds up, and against whom the noise must suffice."""

    clinics: int  # n, that a round is meant to have
    invited: int  # N, that one has at most: more than n where too many are selected
    colluding: int  # t, clinics that share their noise and masks with each other, or with the server
    tolerated: int  # Drop-outs with which a sum is opened still
    active: bool = False  # Whether the server may lie

    @property
    def threshold(self) -> int:
        """T, with fewer updates than which no sum is opened."""
        return self.clinics - self.tolerated

    @property
    def parts(self) -> int:
        """m, by which the variance of a clinic's noise is divided."""
        return max(1, self.threshold - self.colluding)

    def honest(self, updates: int, colluders: int) -> int:
        """Return how many parts of the noise in a sum are unknown to so many colluding clinics, the own one among them.

        Who holds shares of ``threshold`` clinics can take off any clinic's masks: then its own part is all there is. A
        lying server leaves out of the sum whom it can, and could show two lists of clinics unless
        2 T > N + colluders (Bonawitz et al. 2017, section 6).
        """
        if colluders >= self.threshold or (self.active and 2 * self.threshold <= self.invited + colluders):
            return 1
        sure = self.threshold if self.active else updates
        return max(1, sure - colluders)

    def multipliers(self, sigma: float, sums: Mapping[int, int], colluders: int) -> dict[float, int]:
        """Return how often the sums have which noise multiplier, from how often they have how many updates."""
        found: dict[float, int] = {}
        for updates, times in sorted(sums.items()):
            multiplier = sigma * math.sqrt(self.honest(updates, colluders) / self.parts)
            found[multiplier] = found.get(multiplier, 0) + times
        return found

    def weight(self, sums: Mapping[int, int], colluders: int) -> float:
        """Return as how many sums of noise multiplier sigma these count together."""
        return math.fsum(times * self.parts / self.honest(updates, colluders) for updates, times in sums.items())

    def neighbours(self, participants: int) -> int:
        """Return k for a round of so many clinics: all others, or ten times the binary logarithm."""
        return max(0, min(participants - 1, 10 * math.ceil(math.log2(max(participants, 2)))))

    def before(self, participants: int, numbers: int) -> tuple[Stage, ...]:
        """Return what comes before training: keys, shares, and the masks of so many numbers."""
        k = self.neighbours(participants)
        shares = k * (2 * SHARE + CIPHER)
        return (
            ("up", KEYS),
            ("down", k * KEYS),
            ("up", shares),
            ("down", shares),
            ("clinic", (k + 1) * numbers * MASK_OPERATIONS),
        )

    def after(self, participants: int) -> tuple[Stage, ...]:
        """Return what comes after the updates of those who are there: the list, its check, and the opening."""
        k = self.neighbours(participants)
        listed: tuple[Stage, ...] = (("down", math.ceil(k / 8)),)
        check: tuple[Stage, ...] = (("up", SIGNATURE), ("down", k * SIGNATURE)) if self.active else ()
        return (*listed, *check, ("up", k * SHARE))

    def server_operations(self, participants: int, lost: int, numbers: int) -> int:
        """Return the server's work on masks: one a clinic whose update arrived, one a neighbour of each other."""
        return (participants - lost + lost * self.neighbours(participants)) * numbers * MASK_OPERATIONS
