"""Who is there in a round, how far each clinic comes, and who is lost on the way.

Decided before learning, from the seed and public settings alone, never from a patient's value. Every draw has a stream
of its own named by clinic and round, so that one clinic's luck does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sim.rng import Streams


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How reliable a clinic is.

    Attributes
    ----------
    availability : float
        Share of the rounds in which it is there, in (0, 1].
    mean_outage : float or None
        Mean number of rounds for which it stays away; None where each round is drawn independently.
    drop_out : float
        Chance that a clinic which began a round is lost in it: after one of its batches, each equally likely.
    straggler_chance : float
        Chance that its computer and its line are slower in a round.
    slowdown : float
        How many times slower they then are.
    """

    availability: float = 1.0
    mean_outage: float | None = None
    drop_out: float = 0.0
    straggler_chance: float = 0.0
    slowdown: float = 1.0

    @property
    def may_be_lost(self) -> bool:
        """Whether it may miss a round, or the end of one."""
        return self.availability < 1 or self.drop_out > 0


@dataclass(frozen=True)
class Attendance:
    """One round: who is there, how many batches each completes, and whose parts come back.

    Attributes
    ----------
    clinics : tuple of int
        Those who are there, in ascending order.
    batches : tuple of int
        By position: how many batches the clinic completes. With none it is sent its parts and nothing more; in a relay
        its turn never comes.
    returned : tuple of bool
        By position: whether the clinic's parts come back at the end of its last turn. Otherwise it is lost.
    """

    clinics: tuple[int, ...]
    batches: tuple[int, ...]
    returned: tuple[bool, ...]

    @classmethod
    def complete(cls, clinics: Iterable[int], batches: Iterable[int]) -> Attendance:
        """Return a round in which nobody is lost."""
        there = tuple(clinics)
        return cls(there, tuple(batches), (True,) * len(there))

    @cached_property
    def _position(self) -> dict[int, int]:
        return {clinic: position for position, clinic in enumerate(self.clinics)}

    def by_lane(self, clinics: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return ``[lane]`` how many batches clinics that are there complete, and whether their parts come back."""
        at = np.searchsorted(np.array(self.clinics, dtype=np.int64), clinics)
        return np.array(self.batches, dtype=np.int64)[at], np.array(self.returned, dtype=np.bool_)[at]

    def batches_of(self, clinic: int) -> int:
        """Return how many batches a clinic that is there completes."""
        return self.batches[self._position[clinic]]

    def returns(self, clinic: int) -> bool:
        """Whether the parts of a clinic that is there come back."""
        return self.returned[self._position[clinic]]


def available(seed: int, behaviours: Sequence[Behaviour], rounds: int) -> NDArray[np.bool_]:
    """Draw in which rounds each clinic is there.

    With a mean outage of L rounds a clinic is a two-state Markov chain: one that is away comes back with chance 1 / L,
    one that is there leaves with chance (1 - a) / (a L), so that its share of rounds is the availability a. The first
    round is drawn from that share.

    Parameters
    ----------
    seed : int
    behaviours : sequence of Behaviour
        By clinic.
    rounds : int

    Returns
    -------
    ndarray
        ``[round, clinic]``
    """
    there = np.ones((rounds, len(behaviours)), dtype=np.bool_)
    streams = Streams(seed, "availability")
    for clinic, behaviour in enumerate(behaviours):
        share = behaviour.availability
        if share == 1:
            continue
        stays = comes_back = share
        if behaviour.mean_outage is not None:
            comes_back = 1 / behaviour.mean_outage
            stays = 1 - (1 - share) / (share * behaviour.mean_outage)
        chance = share
        for r in range(rounds):
            there[r, clinic] = streams.at(clinic, r + 1).random() < chance
            chance = stays if there[r, clinic] else comes_back
    return there


def drop_outs(
    seed: int, server_round: int, clinics: Sequence[int], steps: Sequence[int], behaviours: Sequence[Behaviour]
) -> Attendance:
    """Draw who is lost in a round, and after which batch.

    Parameters
    ----------
    seed, server_round : int
    clinics, steps : sequence of int
        Who is there, in ascending order, and how many batches each has.
    behaviours : sequence of Behaviour
        Of all clinics.
    """
    batches, returned = [], []
    streams = Streams(seed, "drop-out")
    for clinic, count in zip(clinics, steps, strict=True):
        chance = behaviours[clinic].drop_out
        random = streams.at(clinic, server_round) if chance else None
        lost = random is not None and random.random() < chance
        batches.append(1 + int(random.integers(count)) if random is not None and lost else count)
        returned.append(not lost)
    return Attendance(tuple(clinics), tuple(batches), tuple(returned))


def slowdowns(
    seed: int, server_round: int, clinics: Sequence[int], behaviours: Sequence[Behaviour]
) -> tuple[tuple[int, float], ...]:
    """Draw who is slower in a round: pairs of a position in ``clinics`` and the factor."""
    streams = Streams(seed, "straggler")
    return tuple(
        (position, behaviours[clinic].slowdown)
        for position, clinic in enumerate(clinics)
        if behaviours[clinic].straggler_chance
        and streams.at(clinic, server_round).random() < behaviours[clinic].straggler_chance
    )
