"""The server looks for a record's row among those that cross the cut: membership as the protocol gives it away.

    for each batch of rows that a clinic sends
        P <- P(candidate | row), with the head that the clinic was given and the noise that the settings state
        score of the candidate <- score of the candidate + 1 - product over rows of 1 - P

The server knows the candidates, training and held-out records of each clinic, and the head as it sends it out or, in
the first round, as everybody draws it from the seed. Where nothing is noised, rows reappear nearly bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy.special import softmax

from sim.attacks.attack import Attack, Finding, Observer, Scalars
from sim.attacks.membership_game import findings
from sim.attacks.shadows import Floats, Population
from sim.data.federation import Federation
from sim.methods.job import Job
from sim.methods.messages import Begin, Instruction, Kind, Reply, Upload
from sim.methods.row_noise import arrived_rows
from sim.models import Parameters
from sim.plan.plan import Plan
from sim.tensor.lanes import forward

LEAST_VARIANCE = 1e-9


class RowMembership(Observer):
    """Counts the batches in which each candidate is likely to have been."""

    def __init__(self, plan: Plan, federation: Federation, options: Scalars) -> None:
        self._plan, self._rounds = plan, int(options["rounds"])
        self._population = Population.of(federation)
        self._counts = np.zeros(len(self._population.records.y))
        self._candidates: dict[int, Floats] = {}

    def message(self, instruction: Instruction, reply: Reply) -> None:
        """Set rows against those that the candidates would send."""
        job = self._plan.job
        if isinstance(instruction, Begin | Upload):
            self._prepare(instruction)
        kind = next((kind for kind in (Kind.SMASHED, Kind.RECORDS) if kind in reply.payload), None)
        if kind is None:
            return
        sent = reply.payload[kind]
        rows = arrived_rows(job, kind, sent, reply.clinics) if kind == Kind.SMASHED else sent
        for lane, clinic in enumerate(reply.clinics):
            if clinic in self._candidates and reply.rows[lane]:
                seen = rows[lane, : reply.rows[lane]].flatten(1).numpy().astype(np.float64)
                noise = job.rows.scale(kind, clinic) if job.rows is not None and job.on_grid(kind) else 0.0
                self._counts[self._place(clinic)] += senders(seen, self._candidates[clinic], noise**2)

    def findings(self, model: Parameters) -> Iterator[Finding]:
        """Return how well the counts tell training records from others; nothing without held-out ones."""
        inside = self._population.members()
        if not inside.all():
            yield from findings(self._plan, self._population, inside[None], self._counts[None], "server")

    def _place(self, clinic: int) -> slice:
        return slice(*self._population.records.offsets[clinic : clinic + 2].tolist())

    def _prepare(self, instruction: Begin | Upload) -> None:
        """Work out the candidates' rows; of none where the head is not known, or the round is no longer looked at."""
        job, of_round = self._plan.job, instruction.server_round if isinstance(instruction, Begin) else 1
        given = instruction.model if isinstance(instruction, Begin) else instruction.head
        head = _head(job, given or {}, of_round) if of_round <= self._rounds else None
        for clinic in instruction.clinics:
            self._candidates.pop(clinic, None)
            if head is not None:
                x = torch.from_numpy(np.array(self._population.records.x[self._place(clinic)]))
                self._candidates[clinic] = _rows(job, head, x)


def senders(rows: Floats, candidates: Floats, variance: float) -> Floats:
    """Return ``[candidate]`` how likely each is to have sent one of the rows.

    Parameters
    ----------
    rows, candidates : ndarray
        ``[row, value]`` as they came, ``[candidate, value]`` as they would be without noise.
    variance : float
        Of the noise on one value. Rows may be further from all candidates than that, since the head moves on within
        a round: the distance to the nearest is then the measure.
    """
    distances = np.square(rows).sum(1)[:, None] + np.square(candidates).sum(1) - 2 * rows @ candidates.T
    nearest = float(np.maximum(distances.min(1), 0).mean()) / rows.shape[1]
    return np.asarray(1 - (1 - softmax(-distances / (2 * max(variance, nearest, LEAST_VARIANCE)), axis=1)).prod(0))


@torch.no_grad()
def _rows(job: Job, head: Parameters, x: torch.Tensor) -> Floats:
    """Return ``[record, value]`` rows without noise; the records themselves where those are sent."""
    if Kind.RECORDS not in job.protocol.once_up:
        x = forward(job.part("head"), head, x[None])[0]
    return x.flatten(1).numpy().astype(np.float64)


def _head(job: Job, given: Parameters, server_round: int) -> Parameters | None:
    """Return the head that clinics begin a round with, as far as the server knows it."""
    if Kind.RECORDS in job.protocol.once_up:
        return {}
    head = job.part("head")
    own = head.select(job.network.initial_parameters(job.seed))
    moves = set() if "head" in job.frozen else set(head.trained(own))
    if server_round > 1 and not moves <= given.keys():
        return None
    return {name: given.get(name, value) for name, value in own.items()}


ATTACK = Attack(
    name="row-membership",
    sentence="membership by looking for a record's row among those that cross the cut",
    adversary="server",
    uses="rows of training and of held-out records, exact or as noised",
    begin=RowMembership,
    applies=lambda job: bool(job.protocol.once_up or job.protocol.batch_up),
    options={"rounds": 10},
)
