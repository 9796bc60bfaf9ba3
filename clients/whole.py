"""Training the whole model at the clinic: federated averaging's client, and a clinic that trains alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from flwr.app import Context, Message, MetricRecord
from torch import Tensor

from clients.instructions import training_asked
from clients.own import keep_own, own_values, shared_values
from clients.session import trainers_for
from sim.flower.internals import KEY_CLIPPING_NORM, KEY_NORM_BIT
from sim.flower.messages import MODEL, NOISED, ConfigValue, config_of, content, integer, number, tensors
from sim.flower.workplace import workplace_of
from sim.methods.job import Job
from sim.methods.node_group import NodeGroup
from sim.methods.trainer import Trainer, expand, train_whole
from sim.models import Parameters
from sim.tensor.lanes import forward, loss_sum


def train(message: Message, context: Context) -> Message:
    """Take the global model, train it on each clinic's own records, and return one model a clinic.

    The optimiser starts afresh in every round (McMahan et al. 2017, ClientUpdate). ``proximal-mu`` in the message adds
    FedProx's pull towards the global model (Li et al. 2020); Flower's own FedProx sends it under the same name. A
    clipping norm, which the client-side wrappers of Flower's differential privacy send, clips the clinic's update.
    """
    job, group = workplace_of(context)
    config = config_of(message)
    # Whatever a lost clinic trains, nobody will see.
    asked = training_asked(message, context, job, group)
    clinics = job.returning(_round(message), asked)
    if not clinics:
        return Message(content({}, {"clinics": asked}), reply_to=message)
    received = tensors(message, MODEL)
    own, _ = own_values(context, job, group, clinics)
    trainer = trainers_for(job, clinics, own | expand(received, len(clinics)), {}, {})["model"]
    mu = number(config, "proximal-mu") if "proximal-mu" in config else 0.0
    if mu:
        trainer.pull_towards(expand(received, 1), mu)
    losses = {} if job.dp is not None or not job.imported else {"train_loss": _training_loss(trainer, group)}
    train_whole(trainer, group, job, _round(message))
    if KEY_CLIPPING_NORM in config:
        clipped = _clip_update(trainer.parameters, received, number(config, KEY_CLIPPING_NORM))
        losses[KEY_NORM_BIT] = float(clipped)
    if own:
        keep_own(context, job, group, clinics, {"model": trainer})
    return _reply(message, job, trainer, losses)


def train_alone(message: Message, context: Context) -> Message:
    """Train each clinic's own model further; model and optimiser stay at the clinic, and nothing crosses."""
    job, group = workplace_of(context)
    clinics = training_asked(message, context, job, group, alone=True)
    trainers = trainers_for(job, clinics, *own_values(context, job, group, clinics), {})
    train_whole(trainers["model"], group, job, _round(message))
    keep_own(context, job, group, clinics, trainers)
    return _reply(message, job, trainers["model"], {})


def _round(message: Message) -> int:
    return integer(config_of(message), "server-round")


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
    return float(loss_sum(logits, group.y[None], weights))


def _reply(message: Message, job: Job, trainer: Trainer, losses: Mapping[str, float]) -> Message:
    config: dict[str, ConfigValue] = {"clinics": trainer.clinics}
    if job.dp is not None:
        config[f"{NOISED}{trainer.part.name}"] = trainer.noised_steps.tolist()
    shared = shared_values(job, trainer.parameters)
    record = content({MODEL: shared} if shared else {}, config)
    record["metrics"] = MetricRecord({"num-examples": sum(job.sizes[k] for k in trainer.clinics), **losses})
    return Message(record, reply_to=message)
