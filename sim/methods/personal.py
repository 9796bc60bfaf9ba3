"""Models of the clinics' own, made after the last round: each trains the final model further on its own records.

Nothing crosses, and nothing of it is noised: the model stays at the clinic, for the clinic's own use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sim.methods.cutting import epochs_of, own_blocks
from sim.methods.job import Job
from sim.methods.node_group import NodeGroup
from sim.methods.sampling import Sampling
from sim.methods.trainer import LocalTraining, expand, trainer_for
from sim.methods.workplace import Kept, Workplace
from sim.models import Parameters, Part
from sim.tensor.lanes import forward


def personalised(here: Workplace, model: Parameters) -> Kept:
    """Return the clinics of a node, and what they make of the final model, ``[clinic, *shape]`` each.

    ``epochs`` and ``learning-rate`` are options of the method; a rate of 0 is that of the rounds. Of its last block
    alone, the others stay what all have in common.

    Parameters
    ----------
    here : Workplace
    model : dict of str to Tensor
        ``[1, *shape]``, or ``[clinic, *shape]`` where any of it is each clinic's own.
    """
    job, clinics, group = here.job, list(here.group.clinics), here.group
    if not clinics:
        return [], {}
    epochs, rate = epochs_of(job), float(job.option("learning-rate"))
    rate = rate or job.spec.train.learning_rate
    changed = {"local_epochs": epochs, "learning_rate": rate, "schedule": "constant"}
    train = job.spec.train.model_copy(update=changed)
    sampling = Sampling(poisson=False, batch_size=train.batch_size, local_epochs=epochs)
    spec = job.spec.model_copy(update={"train": train})
    alone = replace(job, spec=spec, sampling=sampling, dp=None, frozen=frozenset())
    common, own = own_blocks(job)
    models = of_all(job, model)
    if common.blocks:
        group = replace(group, x=_features(common, models, group, job.sizes))
    trainer = trainer_for(alone, own, clinics, {name: models[name][clinics] for name in own.shapes()})
    last = job.spec.train.rounds + 1
    here.program.do(LocalTraining(trainer=trainer, group=group, job=alone, server_round=last))
    return clinics, dict(trainer.parameters)


def of_all(job: Job, model: Parameters) -> Parameters:
    """Return a model as ``[clinic, *shape]``, of one that all share a copy each."""
    shared = next(iter(model.values())).shape[0] == 1
    return expand(model, len(job.sizes)) if shared else dict(model)


def _features(common: Part, models: Parameters, group: NodeGroup, sizes: Sequence[int]) -> Tensor:
    """Return what the common blocks make of a node's records, under each clinic's own running statistics."""
    x = torch.empty(0)
    for k in group.clinics:
        first, own = int(group.first[k]), common.select({name: value[k : k + 1] for name, value in models.items()})
        made = forward(common, own, group.x[None, first : first + sizes[k]])[0].detach()
        x = x if len(x) else made.new_zeros(len(group.x), *made.shape[1:])
        x[first : first + sizes[k]] = made
    return x
