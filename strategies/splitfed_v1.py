"""SplitFed V1: Thapa et al., "SplitFed: When Federated Learning Meets Split Learning", AAAI 2022, algorithms 1 and 2.

    for each round t = 1, 2, ...
        for each clinic k in S_t in parallel
            W^C_k <- W^C,  W^S_k <- W^S                     one copy of head and body a clinic
            for each batch b
                clinic   A_k <- head(x_b)                   smashed data up (vanilla: with the labels)
                server   forward and backward of W^S_k;     cut gradient down
                clinic   backward of W^C_k
        W^S <- sum of (n_k / n) W^S_k,   W^C <- sum of (n_k / n) W^C_k

U-shaped (Vepakomma et al. 2018), the clinic also holds the tail and the loss: the body's outputs go down and their
gradient comes up, so that labels never leave.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from torch import Tensor

from sim.engine.lanes import weighted_average
from sim.engine.learner import Learner, expand
from sim.engine.messages import MODEL, array_record, tensors_in
from sim.job import Job
from sim.sampling import loss_weights
from strategies.cohorts import CohortStrategy, Gathered


@final
class SplitFedV1(CohortStrategy):
    """Heads at the clinics and one body copy a clinic at the server, in parallel; all parts averaged each round.

    Parameters
    ----------
    job : Job
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._body: Learner | None = None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Do every batch of the round; the last cut gradient's messages are left to send."""
        clinics = self.job.participants(server_round)
        parameters = tensors_in(arrays)
        body_part = self.job.part("body")
        body = Learner(self.job, body_part, clinics, expand(body_part.select(parameters), len(clinics)))
        theirs = {n: parameters[n] for name in self.job.protocol.clinic_parts for n in self.job.part(name).shapes()}
        smashed = self.exchange(grid, "train.begin", clinics, {MODEL: theirs}, {"server-round": server_round})
        steps = max(self.job.sampling.steps(self.job.sizes[k]) for k in clinics)
        for step in range(steps):
            gradient = self._server_step(grid, body, smashed, server_round, step)
            messages = self.instructions(
                grid, "train.step", smashed.clinics, {"cut-gradient": {"cut-gradient": gradient}}, {}, smashed.rows
            )
            if step < steps - 1:
                smashed = self.gather(grid.send_and_receive(messages), len(messages))
        self._body = body
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average heads (and tails) and bodies with weights n_k / n."""
        gathered = self.gather(replies)
        body = self._body
        if body is None:
            return None, None
        if self.job.dp is not None:
            noised = self.server_noised_steps.setdefault("body", torch.zeros(len(self.job.sizes), dtype=torch.int64))
            noised[body.clinics] += body.noised_steps
        weights = self.weights(gathered.clinics)
        averaged = weighted_average({**gathered.arrays[MODEL], **body.parameters}, weights)
        return array_record({name: averaged[name] for part in self.job.parts for name in part.shapes()}), None

    def _server_step(self, grid: Grid, body: Learner, smashed: Gathered, server_round: int, step: int) -> Tensor:
        sizes = np.array([self.job.sizes[k] for k in smashed.clinics])
        rows = np.array(smashed.rows)
        normaliser = self.job.sampling.normaliser(sizes, rows)
        outputs = body.forward(smashed.arrays["smashed"]["smashed"], want_input_gradient=True)
        if self.job.protocol.topology == "vanilla":
            body.loss(smashed.arrays["labels"]["labels"], torch.from_numpy(loss_weights(rows, normaliser)))
            return body.backward(server_round, step, normaliser)
        down = {"body-output": {"body-output": outputs}}
        returned = self.exchange(grid, "train.tail", smashed.clinics, down, {}, smashed.rows)
        gradient = returned.arrays["tail-gradient"]["tail-gradient"]
        return body.backward(server_round, step, normaliser, gradient)
