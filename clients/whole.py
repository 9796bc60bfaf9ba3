"""Training the whole model at the clinic: federated averaging's client, and a clinic that trains alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from clients.admission import admit_training
from clients.own import keep_own, own_values
from clients.session import trainers_for
from clients.updates import parts_sent
from sim.methods.job import Job
from sim.methods.messages import Reply, Train, TrainAlone
from sim.methods.node_group import NodeGroup
from sim.methods.replies import CLIPPED, EXAMPLES, TRAINING_LOSS, parts_that_cross
from sim.methods.trainer import LocalTraining, Trainer, expand
from sim.methods.workplace import Workplace
from sim.models import Parameters
from sim.tensor.lanes import forward


def train(asked: Train, here: Workplace) -> Reply:
    """Take the global model, train it on each clinic's own records, and return one model a clinic.

    The optimiser starts afresh in every round (McMahan et al. 2017, ClientUpdate). ``proximal_mu`` adds FedProx's pull
    towards the global model (Li et al. 2020). A clipping norm clips the clinic's update. Under secure aggregation the
    clinics' masked sum leaves, and no model of one of them.
    """
    admitted, job = admit_training(asked, here), here.job
    clinics = job.returning(asked.server_round, admitted)
    if not clinics:  # whatever a lost clinic trains, nobody will see
        return Reply(clinics=admitted)
    own, _ = own_values(here, clinics)
    trainer = trainers_for(job, clinics, own | expand(asked.model, len(clinics)))["model"]
    if asked.proximal_mu:
        trainer.pull_towards(expand(asked.model, 1), asked.proximal_mu)
    told = {}
    if job.method.imported and job.dp is None:
        told[TRAINING_LOSS] = _training_loss(trainer, here.group)
    _train(trainer, here, asked.server_round)
    if asked.clipping_norm is not None:
        told[CLIPPED] = float(_clip_update(trainer.parameters, asked.model, asked.clipping_norm))
    if own:
        keep_own(here, clinics, {"model": trainer})
    parts = parts_sent(here, asked.server_round, clinics, asked.model, trainer.parameters, parts_that_cross(job))
    reply = _reply(job, clinics, trainer, told)
    released = job.round_releases if job.secure is not None and job.spec.privacy.unit == "clinic" else ()
    noised = {what: [1] * len(clinics) for what in released}
    return replace(reply, parts=parts, noised={**reply.noised, **noised})


def train_alone(asked: TrainAlone, here: Workplace) -> Reply:
    """Train each clinic's own model further; model and optimiser stay at the clinic, and nothing crosses."""
    clinics = admit_training(asked, here)
    trainers = trainers_for(here.job, clinics, *own_values(here, clinics))
    if not here.job.method.trains:
        _tally(trainers["model"].parameters, here, clinics)
    else:
        _train(trainers["model"], here, asked.server_round)
    keep_own(here, clinics, trainers)
    return _reply(here.job, clinics, trainers["model"], {})


def _train(trainer: Trainer, here: Workplace, server_round: int) -> None:
    here.program.do(LocalTraining(trainer=trainer, group=here.group, job=here.job, server_round=server_round))


def _tally(parameters: Parameters, here: Workplace, clinics: Sequence[int]) -> None:
    """Make each clinic's model answer every record alike, as well as its own labels tell."""
    for value in parameters.values():
        value.zero_()
    [bias] = [value for name, value in parameters.items() if name.endswith("bias")]
    for lane, k in enumerate(clinics):
        first = int(here.group.first[k])
        own = here.group.y[first : first + here.job.sizes[k]]
        bias[lane] = here.job.loss.constant(own, bias.shape[1])


def _clip_update(parameters: Parameters, received: Mapping[str, Tensor], clip: float) -> bool:
    """Clip what a clinic changed, ``[1, *shape]`` each, over all parameters together; say if it was too long."""
    updates = {name: value - received[name] for name, value in parameters.items()}
    norm = float(torch.cat([update.flatten() for update in updates.values()]).norm())
    if norm > clip:
        parameters.update({name: received[name] + update * (clip / norm) for name, update in updates.items()})
    return norm > clip


@torch.no_grad()
def _training_loss(trainer: Trainer, group: NodeGroup) -> float:
    """Return the received model's mean loss on the training records, which some of Flower's strategies weigh by."""
    parameters = {name: value[:1] for name, value in trainer.parameters.items()}
    logits = forward(trainer.part, parameters, group.x[None])
    weights = torch.full((1, len(group.y)), 1 / len(group.y))
    return float(trainer.loss_of_record.sum(logits, group.y[None], weights))


def _reply(job: Job, clinics: list[int], trainer: Trainer, told: Mapping[str, float]) -> Reply:
    return Reply(
        clinics=clinics,
        noised={} if job.dp is None else {trainer.part.name: trainer.noised_steps.tolist()},
        metrics={EXAMPLES: sum(job.sizes[k] for k in clinics), **told},
    )
