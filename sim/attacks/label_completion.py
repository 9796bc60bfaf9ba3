"""The server puts a tail of its own behind the body, trains it on a few labelled records, and reads the labels off.

Model completion, passive, of Fu et al., "Label Inference Attacks Against Vertical Federated Learning", USENIX Security
2022:

    z    <- body(rows at the cut)                 of all records, noised as rows are
    tail <- the public initial values
    for each step
        tail <- Adam on the loss of tail(z), y    of the few records whose labels are known
    return tail(z) of a training record

Where tails pass the server, as they do to be averaged or handed on, it takes the last one as it is.

The known labels are those of held-out records, which stand for records of the server's own. What the same tail tells of
the other held-out records, whose labels have taught nobody anything, stands beside it: only what training records
lose more than these comes from their own labels.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from sim.attacks.attack import Attack, Finding, Target
from sim.attacks.labels import Floats, Ints, Labelled, few_of_each
from sim.attacks.observation import visible
from sim.attacks.reconstruction import drawn, most_records, of_clinic, rows_at_the_cut
from sim.data.federation import Records
from sim.foundation.rng import stream
from sim.methods.messages import Kind
from sim.models import Parameters, Part
from sim.tensor.lanes import forward, leaves, output_shape
from sim.tensor.losses import loss_sum

RATE, DECAY = 0.01, 0.01


def carry_out(target: Target) -> Iterator[Finding]:
    """Return the AUC over training records, and over held-out ones with labels not known; pairs are within clinics."""
    job, options = target.plan.job, target.options
    outside, train = target.federation.untrained, target.federation.train
    classes = len(target.federation.classes)
    index = [drawn(job.seed, r, most_records(job, int(options["records"]))) for r in (outside, train)]
    if min(map(len, index)) < 2:
        return
    others, trained = (Labelled.of(r, classes).some(at) for r, at in zip((outside, train), index, strict=True))
    z, training_z = (_body_outputs(target, r, at) for r, at in zip((outside, train), index, strict=True))
    known = few_of_each(others, int(options["labels"]), stream(job.seed, "attack.known-labels"))
    tail = job.part("tail")
    if visible(job, "server") >= tail.shapes().keys():
        completed = {name: value[:1] for name, value in tail.select(target.model).items()}
    else:
        start = tail.select(job.network.initial_parameters(job.seed))
        completed = fine_tuned(tail, start, z[known], others.y[known], int(options["steps"]))
    yield trained.finding("label_auc", log_odds(tail, completed, training_z))
    unknown = others.some(~known)
    if len(unknown.y):
        yield unknown.finding("held_out_label_auc", log_odds(tail, completed, z[~known]))


def fine_tuned(tail: Part, start: Parameters, z: Tensor, y: Ints, steps: int) -> Parameters:
    """Return the tail after so many steps on all of a few records."""
    values = leaves({name: value.clone() for name, value in start.items()})
    optimizer = torch.optim.AdamW([values[name] for name in tail.trained(values)], lr=RATE, weight_decay=DECAY)
    weights, labels = torch.full((1, len(y)), 1 / max(len(y), 1)), torch.from_numpy(y)[None]
    for _ in range(steps if len(y) else 0):
        optimizer.zero_grad()
        torch.autograd.backward(loss_sum(forward(tail, values, z[None]), labels, weights))
        optimizer.step()
    return {name: value.detach() for name, value in values.items()}


@torch.no_grad()
def log_odds(tail: Part, parameters: Parameters, z: Tensor) -> Floats:
    """Return ``[record, class]`` the log odds of each class against the rest."""
    logits = forward(tail, parameters, z[None])[0].double()
    if logits.shape[1] == 1:
        return torch.cat([-logits, logits], 1).numpy()
    log_p = torch.log_softmax(logits, 1)
    return (log_p - torch.log1p(-log_p.exp().clamp(max=1 - 1e-12))).numpy()


@torch.no_grad()
def _body_outputs(target: Target, records: Records, index: Ints) -> Tensor:
    job, model = target.plan.job, target.model
    rows = torch.from_numpy(rows_at_the_cut(job, model, records, index, target.plan.sampled.exposures)).float()
    rows = rows.reshape(-1, *output_shape(job.part("head"), job.network.input_shape))
    body = job.part("body").select(model)
    clinic = records.clinic[index]
    outputs = []
    for k in np.unique(clinic):
        outputs.append(forward(job.part("body"), of_clinic(body, int(k)), rows[clinic == k][None])[0])
    return torch.cat(outputs)


ATTACK = Attack(
    name="label-completion",
    sentence="labels by a tail of the server's own behind the body, trained on a few labelled records (Fu et al. 2022)",
    adversary="server",
    uses="labels and rows of training and of held-out records, exact or as noised",
    carry_out=carry_out,
    applies=lambda job: any(Kind.TAIL_GRADIENT in kinds for kinds in job.protocol.batch_up),
    options={"labels": 20, "records": 1000, "steps": 200},
)
