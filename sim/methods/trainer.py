"""A job's parts in training: the lanes of one run, and local training of the whole model on each lane's own records."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from sim.foundation.ahead import announced
from sim.methods.feed import Feed
from sim.methods.job import Job
from sim.methods.node_group import NodeGroup
from sim.models import Part
from sim.tensor.lane import Lane
from sim.tensor.lanes import one_by_one, records_at_once
from sim.tensor.optim import Rate
from sim.tensor.program import Work
from sim.tensor.trainer import Trainer, expand

__all__ = ["LocalTraining", "Trainer", "expand", "lanes_of", "train_lanes", "trainer_for"]

BLOCK = 128
"""Most lanes that train through all their steps before the next ones begin: their parameters stay in the cache."""


def lanes_of(job: Job, part: Part, clinics: Sequence[int]) -> list[Lane]:
    """Return what sets a run's clinics apart in the training of a part."""
    train, dp, made = job.spec.train, job.dp, job.lanes
    nopeek = train.nopeek if part.name == "head" else 0.0
    rate = Rate(train.learning_rate, train.momentum, 0.0, train.weight_decay, train.schedule, train.rounds)
    clip = None if dp is None else dp.part_clip
    for clinic in clinics:
        if (clinic, nopeek) not in made:
            made[clinic, nopeek] = Lane(
                clinic=clinic,
                seed=job.seed,
                key=job.key,
                rate=rate,
                clip=clip,
                noise_std=0.0 if dp is None else dp.noise_std[clinic],
                nopeek=nopeek,
            )
    return [made[clinic, nopeek] for clinic in clinics]


def trainer_for(
    job: Job,
    part: Part,
    clinics: Sequence[int],
    parameters: Mapping[str, Tensor],
    state: Mapping[str, Tensor] | None = None,
    noised: Tensor | None = None,
) -> Trainer:
    """Put a part into training for some clinics of a run.

    Parameters
    ----------
    job : Job
    part : Part
    clinics : sequence of int
        The clinic of each lane, in lane order.
    parameters : mapping of str to Tensor
        ``[lane, *shape]``; taken over and changed in place.
    state : mapping of str to Tensor, optional
        Optimiser state to carry on from; fresh where it is not given.
    noised : Tensor, optional
        ``[lane]`` how many gradients were clipped and noised so far; counted on in place.
    """
    return Trainer(
        part,
        lanes_of(job, part, clinics),
        parameters,
        job.optimizer,
        loss=job.loss,
        frozen=part.name in job.frozen,
        state=state,
        noise=None if job.dp is None else job.dp.mechanism.add_noise,
        noised_steps=noised,
        autocast=job.spec.train.autocast is not None,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class LocalTraining(Work):
    """A round in which a whole model trains on each clinic's own records: local SGD, one lane a clinic.

    Attributes
    ----------
    trainer : Trainer
        Of the whole model; changed in place.
    group : NodeGroup
        Holds the records of the trainer's clinics.
    job : Job
        Draws the batches.
    """

    trainer: Trainer
    group: NodeGroup
    job: Job
    server_round: int

    @property
    def key(self) -> Hashable:
        """See :class:`Work`."""
        if not self.job.dense:
            return self
        return LocalTraining, self.server_round, self.trainer.alike

    @property
    def order(self) -> tuple[int, int]:
        """See :class:`Work`."""
        return self.server_round, 0

    @classmethod
    def together(cls, works: Sequence[Self]) -> None:
        """See :class:`Work`."""
        if len(works) == 1:
            works[0]._alone()
            return
        feed, places = Feed.joined([work._feed(slice(None)) for work in works])
        trainers = [work.trainer for work in works]
        joined = Trainer.joined(trainers, places)
        train_lanes(joined, feed, works[0].server_round)
        joined.hand_out(trainers, places)

    def _alone(self) -> None:
        part, shape = self.trainer.part, tuple(self.group.x.shape[1:])
        at_once = 1 if one_by_one(part) else records_at_once(part, shape) // self.job.sampling.batch_size
        size = max(1, min(len(self.trainer.lanes) if self.job.dense else BLOCK, at_once))
        lanes = len(self.trainer.lanes)
        for some in (slice(first, first + size) for first in range(0, lanes, size)):
            trainer = self.trainer if size >= lanes else self.trainer.some(some)
            train_lanes(trainer, self._feed(some), self.server_round)

    def _feed(self, lanes: slice) -> Feed:
        return Feed.gathered(self.job, self.group, self.trainer.clinics[lanes], self.server_round, slice(None))


def train_lanes(trainer: Trainer, feed: Feed, server_round: int, first_step: int = 0) -> None:
    """Train lanes, of one run or of several, through batches of a round.

    Parameters
    ----------
    trainer : Trainer
        Changed in place.
    feed : Feed
        Of the trainer's lanes.
    server_round, first_step : int
        When the first of the feed's steps is.
    """
    if len(trainer.lanes) > BLOCK:
        for first in range(0, len(trainer.lanes), BLOCK):
            last = first + BLOCK
            train_lanes(trainer.some(slice(first, last)), feed.lanes(first, last), server_round, first_step)
        return
    as_one = ((server_round, first_step + s, lanes) for s, (lanes, width) in enumerate(feed.at_work) if width)
    with announced(trainer.noise_of(as_one)):
        for s in range(len(feed.active)):
            for batch in feed.step(s):
                own, moment = trainer.of_batch(batch.lanes), (server_round, first_step + s)
                own.forward(batch.x, rows=batch.rows.tolist(), moment=moment)
                own.loss(batch.y, batch.weights)
                own.backward(*moment, batch.normaliser)
                trainer.put_back(batch.lanes, own)
