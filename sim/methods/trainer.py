"""A job's parts in training: the lanes of one run, and local training of the whole model on each lane's own records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from sim.methods.job import Job
from sim.methods.node_group import NodeGroup
from sim.methods.sampling import Batches, Ints
from sim.models import Part
from sim.tensor.lane import Lane
from sim.tensor.lanes import records_at_once
from sim.tensor.optim import Rate
from sim.tensor.trainer import Trainer, expand

__all__ = ["Trainer", "expand", "lanes_of", "train_lanes", "train_whole", "trainer_for"]

BLOCK = 128
"""Most lanes that train through all their steps before the next ones begin: their parameters stay in the cache."""

Gather = Callable[[slice, Ints], tuple[Tensor, Tensor]]
"""From lanes and the positions ``[lane, batch]`` within their records to ``x`` and ``y``, ``[lane, batch, ...]``."""


def lanes_of(job: Job, clinics: Sequence[int]) -> list[Lane]:
    """Return what sets a run's clinics apart in the training of one part."""
    train, dp = job.spec.train, job.dp
    rate = Rate(train.learning_rate, train.momentum, 0.0)
    clip = None if dp is None else dp.part_clip
    return [
        Lane(
            clinic=clinic,
            seed=job.seed,
            key=job.key,
            rate=rate,
            clip=clip,
            noise_std=0.0 if dp is None else dp.noise_std[clinic],
        )
        for clinic in clinics
    ]


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
        lanes_of(job, clinics),
        parameters,
        job.optimizer,
        class_weights=job.class_weights,
        frozen=part.name in job.frozen,
        state=state,
        noise=None if job.dp is None else job.dp.mechanism.add_noise,
        noised_steps=noised,
    )


def train_whole(trainer: Trainer, group: NodeGroup, job: Job, server_round: int) -> None:
    """Train a whole model for one round on each clinic's own records: local SGD, one lane a clinic.

    Parameters
    ----------
    trainer : Trainer
        Of the whole model; changed in place.
    group : NodeGroup
        Holds the records of the trainer's clinics.
    job : Job
        Draws the batches.
    server_round : int
    """
    at_once = records_at_once(trainer.part, tuple(group.x.shape[1:])) / job.sampling.batch_size

    def gather(lanes: slice, index: Ints) -> tuple[Tensor, Tensor]:
        return group.batch(trainer.clinics[lanes], index)

    train_lanes(trainer, job.batches(server_round, trainer.clinics), gather, server_round, round(at_once))


def train_lanes(trainer: Trainer, drawn: Batches, gather: Gather, server_round: int, at_once: int = BLOCK) -> None:
    """Train lanes, of one run or of several, through a round's batches.

    Parameters
    ----------
    trainer : Trainer
        Changed in place.
    drawn : Batches
        Of the trainer's lanes.
    gather : Gather
    server_round : int
    at_once : int
        How many lanes the part runs well on at once.
    """
    size = max(1, min(BLOCK, at_once))
    for first in range(0, len(trainer.lanes), size):
        block = trainer.block(first, first + size)
        batches = drawn.lanes(first, first + size)
        for s in range(len(batches.active)):
            index, weights, lanes = batches.step(s)
            x, y = gather(slice(first, first + lanes), index)
            block.forward(x, rows=batches.rows[s, :lanes].tolist(), moment=(server_round, s))
            block.loss(y, torch.from_numpy(weights))
            block.backward(server_round, s, batches.normaliser[s, :lanes])
