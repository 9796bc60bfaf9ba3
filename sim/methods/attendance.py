"""Who is there in a round, how far each clinic comes, and who is lost on the way.

Decided before learning, from the seed and public settings alone, never from a patient's value. Every draw has a stream
of its own named by clinic and round, so that one clinic's luck does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sim.foundation.rng import Streams
from sim.methods.sampling import Batches, Sampling, participants
from sim.scenario.clinics import Behaviour


@dataclass(frozen=True, eq=False)
class Attendance:
    """One round: who is there, how many batches each completes, and whose parts come back.

    Attributes
    ----------
    clinics : ndarray of int
        Those who are there, in ascending order.
    batches : ndarray of int
        By position: how many batches the clinic completes. With none it is sent its parts and nothing more; in a relay
        its turn never comes.
    returned : ndarray of bool
        By position: whether the clinic's parts come back at the end of its last turn. Otherwise it is lost.
    """

    clinics: NDArray[np.int64]
    batches: NDArray[np.int64]
    returned: NDArray[np.bool_]

    @classmethod
    def of(cls, clinics: ArrayLike, batches: ArrayLike, returned: ArrayLike) -> Attendance:
        """Return a round that is stated in plain sequences."""
        return cls(np.array(clinics, np.int64), np.array(batches, np.int64), np.array(returned, np.bool_))

    @classmethod
    def complete(cls, clinics: ArrayLike, batches: ArrayLike) -> Attendance:
        """Return a round in which nobody is lost."""
        return cls.of(clinics, batches, np.ones(np.shape(clinics)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Attendance):
            return NotImplemented
        own, others = ((each.clinics, each.batches, each.returned) for each in (self, other))
        return all(map(np.array_equal, own, others))

    @cached_property
    def _position(self) -> dict[int, int]:
        return {clinic: position for position, clinic in enumerate(self.clinics.tolist())}

    def have(self, clinics: Iterable[int]) -> bool:
        """Whether all of some clinics are there."""
        return self._position.keys() >= set(clinics)

    def batches_of(self, clinic: int) -> int:
        """Return how many batches a clinic that is there completes."""
        return int(self.batches[self._position[clinic]])

    def returns(self, clinic: int) -> bool:
        """Whether the parts of a clinic that is there come back."""
        return bool(self.returned[self._position[clinic]])

    def loses(self, clinics: Iterable[int], last: int) -> bool:
        """Whether all of some clinics are lost by the end of a turn, ``last`` the batch after its last."""
        return not any(self.returns(k) or last < self.batches_of(k) for k in clinics)


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
    return Attendance.of(clinics, batches, returned)


def slowdowns(
    seed: int, server_round: int, clinics: Iterable[int], behaviours: Sequence[Behaviour]
) -> tuple[tuple[int, float], ...]:
    """Draw who is slower in a round: pairs of a position in ``clinics`` and the factor."""
    streams = Streams(seed, "straggler")
    return tuple(
        (position, behaviours[clinic].slowdown)
        for position, clinic in enumerate(clinics)
        if behaviours[clinic].straggler_chance
        and streams.at(clinic, server_round).random() < behaviours[clinic].straggler_chance
    )


@dataclass(frozen=True, eq=False)
class RoundDraws:
    """What is drawn for the round that is on, once for all who ask.

    Attributes
    ----------
    attendance : Attendance
    lanes : mapping of int to int
        The lane of each clinic that is there, lost ones too; in lane order.
    batches : dict
        By clinics in lane order.
    """

    attendance: Attendance
    lanes: Mapping[int, int]
    batches: dict[tuple[int, ...], Batches] = field(default_factory=dict)


@lru_cache(maxsize=16)
def everyone_returns(
    sampling: Sampling,
    seed: int,
    server_round: int,
    sizes: tuple[int, ...],
    share: float,
    present: tuple[int, ...] | None = None,
) -> Attendance:
    """Draw the clinics of a round in which nobody is away or lost, unless it is stated who is there."""
    drawn = participants(seed, server_round, len(sizes), share) if present is None else np.array(present)
    return Attendance.complete(drawn, sampling.steps(np.array(sizes)[drawn]))
