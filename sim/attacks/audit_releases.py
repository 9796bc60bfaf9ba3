"""Audits of what is released by itself: the run's own mechanism is made to release canaries, over and over.

Rows at the cut, randomised labels, and the noised sum of clinics' updates each leave through the very functions that
training calls, so that many thousand trials cost no training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from torch import Tensor

from sim.foundation.rng import stream
from sim.methods.averaging import noised_average
from sim.methods.job import Job
from sim.methods.messages import Kind
from sim.methods.method import State
from sim.methods.row_noise import arrived_rows, leaving_rows
from sim.methods.secure_sum import masked_sum, opened, own_noise, step_of
from sim.models import Parameters
from sim.privacy.audited import Floats, Trials
from sim.tensor.lanes import forward

MOST_VALUES: Final = 50_000_000
"""How many noised numbers an audit of rows looks at; where rows are long or leave often, there are fewer trials."""
FEWEST_TRIALS: Final = 500
AT_ONCE, MOST_SUMS = 64, 1000
"""How many clinics have a canary in one sum, in as many coordinates of the model, and how many sums are drawn."""
FAR: Final = 1e4
CANDIDATES: Final = 128


def row_trials(job: Job, initial: Parameters, clinic: int, exposures: int, count: int, key: str) -> Trials:
    """Replace one record by another, and look at their rows as often as they leave the clinic.

    The two records are far out on opposite sides, where a rectifier lets through what it stops on the other, so that
    their clipped rows lie as far apart as any. The score is the log likelihood ratio, but for a factor.

    Parameters
    ----------
    initial : dict of str to Tensor
        The public parameters of the head.
    clinic : int
    exposures : int
        How often the record's rows leave.
    count : int
        Trials, fewer where rows are long.
    key : str
        Of coins and noise.
    """
    rows = job.rows
    if rows is None:
        raise ValueError("the run noises no rows")
    job = replace(job, key=key)
    pairs = {Kind.SMASHED: _far_rows(job, initial)}
    if Kind.TAIL_GRADIENT in rows.clip:
        pairs[Kind.TAIL_GRADIENT] = _opposite(_body_shape(job, initial), rows.clip[Kind.TAIL_GRADIENT])
    values = sum(pair.shape[1:].numel() for pair in pairs.values())
    count = max(FEWEST_TRIALS, min(count, MOST_VALUES // (values * max(1, exposures))))
    coins = stream(key, "audit.coins").random(count) < 0.5
    scores = np.zeros(count)
    for kind, pair in pairs.items():
        sent = pair[torch.from_numpy(coins.astype(np.int64))][None]
        unit = torch.ones(1) if kind == Kind.TAIL_GRADIENT else None
        centres = [row * min(1.0, rows.clip[kind] / float(row.norm(p=rows.mechanism.norm))) for row in pair]
        for exposure in range(exposures):
            left = leaving_rows(job, kind, sent, [count], [clinic], (exposure + 1, 0), unit)
            seen = arrived_rows(job, kind, left, [clinic], unit)[0].double()
            scores += _ratio(seen, centres, rows.mechanism.norm, rows.scale(kind, clinic))
    return Trials(scores=scores[:, None], included=coins[:, None])


def label_trials(job: Job, clinic: int, count: int, key: str) -> Trials:
    """Change one label into another, and look at the answer."""
    if job.labels is None:
        raise ValueError("the run randomises no labels")
    noise = job.labels
    coins = stream(key, "audit.coins").random(count) < 0.5
    answers = noise.mechanism.answers(coins.astype(np.int64), noise.uniform, noise.classes, key, clinic)
    scores = (answers == 1).astype(np.float64) - (answers == 0)
    return Trials(scores=scores[:, None], included=coins[:, None])


def update_trials(job: Job, initial: Parameters, rounds: int, count: int, key: str, colluding: int = 0) -> Trials:
    """Let clinics change the model by far more than the clip, each in a coordinate of its own, or not at all.

    In every round each changes its own coordinate alone; the score is how far the model has moved there in the end, or
    in all rounds together, which is the same. Under secure aggregation so many clinics collude: they take their own
    parts of the noise off the sum, and the others are the canaries.
    """
    clip, size = job.spec.privacy.clip, sum(value[0].numel() for value in initial.values())
    lanes = min(AT_ONCE if job.secure is None else len(job.sizes), size)
    sums = min(MOST_SUMS, max(FEWEST_TRIALS // lanes, -(-count // lanes)))
    random = stream(key, "audit.coins")
    coins, scores = random.random((sums, lanes)) < 0.5, np.zeros((sums, lanes))
    zeros = {name: torch.zeros_like(value) for name, value in initial.items()}
    for trial in range(sums):
        own = np.sort(random.choice(size, lanes, replace=False))
        moves = torch.zeros(lanes, size)
        moves[torch.arange(lanes), torch.from_numpy(own)] = torch.from_numpy(coins[trial]) * 10 * clip
        split = torch.split(moves, [value[0].numel() for value in initial.values()], dim=1)
        moved = {name: part.view(lanes, *zeros[name].shape[1:]) for name, part in zip(zeros, split, strict=True)}
        anew = replace(job, key=f"{key}/{trial}")
        for server_round in range(1, rounds + 1):
            mean = _released(anew, server_round, zeros, moved)
            moved_by = torch.cat([mean[name].flatten() for name in zeros]).double().numpy()
            scores[trial] += (moved_by - _known(anew, server_round, colluding, size))[own]
    honest = slice(colluding if job.secure is not None else 0, None)
    return Trials(scores=scores[:, honest], included=coins[:, honest])


def _known(job: Job, server_round: int, colluding: int, size: int) -> Floats:
    """Return what of a round's average is noise that the first clinics, which collude, know of each other."""
    known = np.zeros(size)
    if job.secure is not None:
        returning = job.returning(server_round, job.participants(server_round))
        for clinic in range(colluding):
            known += own_noise(job, server_round, clinic, size) if clinic in returning else 0
    return known * (step_of(job) / job.wanted)


def _released(job: Job, server_round: int, before: Parameters, trained: Parameters) -> Parameters:
    """Return what the round's average makes of clinics' parameters."""
    if job.secure is not None:
        clinics = job.returning(server_round, job.participants(server_round))
        sums = masked_sum(job, server_round, clinics, before, {name: value[clinics] for name, value in trained.items()})
        return {**before, **opened(job, sums, clinics, before)}
    return noised_average(job, server_round, trained, State(model=before, clip=job.spec.privacy.clip))[0]


def _far_rows(job: Job, initial: Parameters) -> Tensor:
    """Return ``[2, *feature]`` the rows of two records, out of some, that lie farthest apart.

    Of rows that are equally far apart in the norm of order 1, those with fewer values are told apart most easily: the
    Euclidean distance decides for both norms.
    """
    head = job.part("head")
    shape = job.network.input_shape
    drawn = stream(job.seed, "audit.directions").standard_normal((CANDIDATES, *shape)).astype(np.float32)
    drawn[0] = 1.0  # as an image, all white
    x = FAR * torch.from_numpy(np.concatenate([drawn, -drawn]))
    with torch.no_grad():
        rows = forward(head, head.select(initial), x[None])[0]
    flat = rows.flatten(1)
    apart = torch.cdist(flat, flat)
    one, other = divmod(int(apart.argmax()), len(flat))
    return rows[[one, other]]


def _body_shape(job: Job, initial: Parameters) -> torch.Size:
    """Return the shape of one record's values at the second cut."""
    x = torch.zeros(1, 1, *job.network.input_shape)
    with torch.no_grad():
        for name in ("head", "body"):
            part = job.part(name)
            x = forward(part, part.select(initial), x)
    return x.shape[2:]


def _opposite(shape: torch.Size, clip: float) -> Tensor:
    """Return two rows far beyond the clip, in opposite directions."""
    row = torch.zeros(shape)
    row.view(-1)[0] = 10 * clip
    return torch.stack([-row, row])


def _ratio(seen: Tensor, centres: Sequence[Tensor], norm: int, scale: float) -> Floats:
    """Return ``[trial]`` the log likelihood ratio of Laplace (norm 1) or Gaussian noise."""
    zero, one = ((seen - centre.double()).flatten(1) / scale for centre in centres)
    if norm == 1:
        return np.asarray((zero.abs() - one.abs()).sum(1))
    return np.asarray((zero.square() - one.square()).sum(1) / 2)
