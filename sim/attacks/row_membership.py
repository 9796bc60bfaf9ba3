"""The server looks for a record's row among those that cross the cut: membership as the protocol gives it away.

    for each training record of a clinic, whose rows follow from the public seed
        L(candidate) <- sum over its rows of log P(row | candidate), with the head that the clinic was given and the
                        noise that the settings state
        P(candidate) <- exp L(candidate), to sum 1
    score of a candidate <- 1 - product over training records of 1 - P(candidate)

The server knows the candidates, training and held-out records of each clinic, and the head as it sends it out or, in
the first round, as everybody draws it from the seed. Where nothing is noised, rows reappear nearly bit for bit. Secret
batches (``dp-sgd``) do not tell which rows are of one record: then each batch is scored by itself, and scores add up.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy
import torch

from sim.attacks.attack import Attack, Finding, Observer, Scalars
from sim.attacks.membership_game import findings
from sim.attacks.shadows import Floats, Population
from sim.data.federation import Federation, Ints
from sim.methods.job import Job
from sim.methods.messages import Begin, Instruction, Kind, Reply, Upload
from sim.methods.row_noise import arrived_rows
from sim.models import Parameters
from sim.plan.plan import Plan
from sim.tensor.lanes import forward

LEAST_VARIANCE = 1e-9
MOST_LINKED, MOST_ROWS = 5000, 256
"""Rows of one record are linked in clinics of at most so many records; else so many rows are compared at a time."""


class RowMembership(Observer):
    """Says of each candidate how likely it is to have sent one of the rows."""

    def __init__(self, plan: Plan, federation: Federation, options: Scalars) -> None:
        self._plan, self._rounds = plan, int(options["rounds"])
        self._population = population = Population.of(federation)
        self._scores = np.zeros(len(population.records.y))
        self._candidates: dict[int, Floats] = {}
        linked = not plan.job.sampling.poisson
        sizes = zip(population.sizes.tolist(), np.diff(population.records.offsets).tolist(), strict=True)
        self._logs = {k: np.zeros(shape) for k, shape in enumerate(sizes) if linked and shape[1] <= MOST_LINKED}
        self._batches: dict[int, Ints] = {}

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
        step = instruction.first if isinstance(instruction, Begin) else getattr(instruction, "step", -1) + 1
        for lane, clinic in enumerate(reply.clinics):
            if clinic not in self._candidates or not reply.rows[lane]:
                continue
            seen = rows[lane, : reply.rows[lane]].flatten(1).numpy().astype(np.float64)
            noise = job.rows.scale(kind, clinic) if job.rows is not None and job.on_grid(kind) else 0.0
            if clinic in self._logs:
                records = self._batches[clinic][step]
                self._logs[clinic][records[records >= 0]] += log_likelihoods(seen, self._candidates[clinic], noise**2)
            else:
                for piece in np.split(seen, range(MOST_ROWS, len(seen), MOST_ROWS)):
                    logs = log_likelihoods(piece, self._candidates[clinic], noise**2)
                    self._scores[self._place(clinic)] += sent_one(logs)

    def findings(self, model: Parameters) -> Iterator[Finding]:
        """Return how well the scores tell training records from others; nothing without held-out ones."""
        inside, scores = self._population.members(), self._scores
        for clinic, logs in self._logs.items():
            scores[self._place(clinic)] = sent_one(logs)
        if not inside.all():
            yield from findings(self._plan, self._population, inside[None], scores[None], "server")

    def _place(self, clinic: int) -> slice:
        return slice(*self._population.records.offsets[clinic : clinic + 2].tolist())

    def _prepare(self, instruction: Begin | Upload) -> None:
        """Work out the candidates' rows; of none where the head is not known, or the round is no longer looked at."""
        job, of_round = self._plan.job, instruction.server_round if isinstance(instruction, Begin) else 1
        given = instruction.model if isinstance(instruction, Begin) else instruction.head
        head = _head(job, given or {}, of_round) if of_round <= self._rounds else None
        for clinic in instruction.clinics:
            self._candidates.pop(clinic, None)
            if head is None:
                continue
            x = torch.from_numpy(np.array(self._population.records.x[self._place(clinic)]))
            self._candidates[clinic] = _rows(job, head, x)
            if isinstance(instruction, Upload):
                self._batches[clinic] = np.arange(job.sizes[clinic])[None]
            elif clinic in self._logs:
                self._batches[clinic] = job.batches(of_round, [clinic]).index[:, 0]


def log_likelihoods(rows: Floats, candidates: Floats, variance: float) -> Floats:
    """Return ``[row, candidate]`` the logarithm of how likely each is to have sent a row, but for a constant.

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
    return np.asarray(-distances / (2 * max(variance, nearest, LEAST_VARIANCE)))


def sent_one(logs: Floats) -> Floats:
    """Return ``[candidate]`` how likely each is to have sent one of the rows, from their log likelihoods."""
    return np.asarray(1 - (1 - scipy.special.softmax(logs, axis=1)).prod(0))


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
