"""Canaries: records of a clinic that are in its training data or not by a fair coin each, and what shows it.

A canary that is out is a null record: with features that are no numbers (or, where records are sent, that no number can
hold once weighed) its gradient counts as zero, which is what a record that was never there adds, while numbers of
records stay public. What an adversary sees of the training is
projected on the directions in which the canaries' own clipped gradients lie, made orthogonal to each other, so that the
noise on one canary's score is independent of that on another's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sim.attacks.attack import Finding, Observer
from sim.data.federation import Federation, Records
from sim.foundation.rng import stream
from sim.methods.job import Job
from sim.methods.messages import Instruction, Reply, Train
from sim.models import Network, Parameters
from sim.tensor.lanes import forward
from sim.tensor.losses import loss_sum

Floats = NDArray[np.float64]
LARGEST_SCALE = 2.0**20
MOST_CLINICS, MOST_EACH = 64, 8
"""Canaries are at no more clinics, the largest, and unless asked for not more at each."""


@dataclass(frozen=True, kw_only=True)
class Canaries:
    """Canaries of all clinics.

    Attributes
    ----------
    x, y : ndarray
        ``[canary, *feature]`` and ``[canary]``.
    place : ndarray of int
        ``[canary]`` the training record whose place each one takes.
    clinic : ndarray of int
        ``[canary]``
    alone : bool
        Whether all other records are null ones.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    place: NDArray[np.int64]
    clinic: NDArray[np.int64]
    alone: bool

    def planted(self, federation: Federation, included: NDArray[np.bool_], trial: int, null: float) -> Federation:
        """Return the clinics with the canaries that are in; each trial's noise is another, whatever its records.

        Null records have ``null`` for every feature.
        """
        train, offsets = federation.train, np.zeros_like(federation.test.offsets)
        x, y = train.x.copy(), train.y.copy()
        if self.alone:
            x[:] = null
        x[self.place] = np.where(included.reshape(-1, *[1] * (x.ndim - 1)), self.x, null)
        y[self.place] = self.y
        marked = np.full((1, *x.shape[1:]), trial / 2**20, dtype=np.float32)
        offsets[-1] = 1
        one = Records(marked, train.y[:1], offsets, train.row[:1], train.patient[:1])
        return replace(federation, train=replace(train, x=x, y=y), test=one)


def gradients(network: Network, model: Mapping[str, Tensor], x: Tensor, y: Tensor) -> Parameters:
    """Return the gradient of each record's loss, ``[record, *shape]`` by parameter: one lane a record."""
    leaves = {name: value.expand(len(y), *value.shape[1:]).clone().requires_grad_() for name, value in model.items()}
    loss = loss_sum(forward(network.whole, leaves, x[:, None]), y[:, None], torch.ones(len(y), 1))
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()), allow_unused=True), strict=True))


def crafted(job: Job, federation: Federation, model: Parameters, each: int) -> Canaries:
    """Make so many canaries a clinic, in directions of their own, that are as large as it takes to be clipped.

    Each has the label that the initial model finds least likely. With no other record's gradient beside it, its own
    moves the model as far as a record may.
    """
    place, clinic = _places(federation, each)
    count, shape = len(place), federation.train.x.shape[1:]
    x = torch.from_numpy(_directions(job.seed, count, int(np.prod(shape))).reshape(count, *shape))
    with torch.no_grad():
        logits = forward(job.network.whole, {k: v.expand(count, *v.shape[1:]) for k, v in model.items()}, x[:, None])
    outputs = logits[:, 0]
    y = (outputs[:, 0] < 0).long() if outputs.shape[1] == 1 else outputs.argmin(1)
    scale = torch.ones(count)
    clip = job.dp.part_clip if job.dp is not None else job.spec.privacy.clip
    for _ in range(int(np.log2(LARGEST_SCALE))):
        by_lane = scale.view(-1, *[1] * len(shape))
        norms = torch.stack(_norms(job, gradients(job.network, model, x * by_lane, y))).amin(0)
        small = norms < 2 * clip
        if not small.any():
            break
        scale = torch.where(small, 2 * scale, scale)
    by_lane = scale.view(-1, *[1] * len(shape))
    return Canaries(x=(x * by_lane).numpy(), y=y.numpy(), place=place, clinic=clinic, alone=True)


def ordinary(job: Job, federation: Federation, each: int, *, mislabelled: bool) -> Canaries:
    """Take so many of a clinic's own records, with another label where asked, beside all its others."""
    place, clinic = _places(federation, each)
    y = federation.train.y[place]
    if mislabelled:
        y = (y + 1) % len(job.facts.classes)
    return Canaries(x=federation.train.x[place], y=y, place=place, clinic=clinic, alone=False)


def room(job: Job) -> int:
    """Return how many canaries a clinic may have so that all lie in directions of their own among the features."""
    clinics = min(len(job.sizes), MOST_CLINICS)
    width = int(np.prod(job.network.input_shape))
    return max(1, min(MOST_EACH, width // clinics, min(job.sizes) // 2))


def coins(seed: int, trial: int, count: int) -> NDArray[np.bool_]:
    """Toss a fair coin for each canary."""
    return stream(seed, "audit.coins", trial).random(count) < 0.5


def _places(federation: Federation, each: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    sizes = np.diff(federation.train.offsets)
    largest = np.sort(np.argsort(-sizes, kind="stable")[:MOST_CLINICS])
    per_clinic = np.minimum(each, sizes[largest])
    clinic = np.repeat(largest, per_clinic)
    within = np.concatenate([np.arange(n) for n in per_clinic])
    return federation.train.offsets[clinic] + within, clinic


def _directions(seed: int, count: int, width: int) -> NDArray[np.float32]:
    """Draw unit vectors, orthogonal to each other as long as there is room."""
    drawn = stream(seed, "audit.directions").standard_normal((count, width))
    blocks = [np.linalg.qr(drawn[first : first + width].T)[0].T for first in range(0, count, width)]
    return np.concatenate(blocks).astype(np.float32)


def _norms(job: Job, each: Mapping[str, Tensor]) -> list[Tensor]:
    """Return ``[record]`` the norm of what is clipped at once: of each part, or of all together."""
    together = [[name for own in _trained(job) for name in own]] if job.joint else _trained(job)
    return [torch.stack([each[n].flatten(1).square().sum(1) for n in own]).sum(0).sqrt() for own in together]


def _trained(job: Job) -> list[list[str]]:
    """Return the names of the parameters that are trained, part by part."""
    return [[n for n in part.shapes() if n not in part.statistics] for part in job.parts if part.name not in job.frozen]


class Directions:
    """The directions that canaries' clipped gradients have, orthogonal to each other."""

    def __init__(self, job: Job, model: Parameters, canaries: Canaries) -> None:
        self.names = [name for own in _trained(job) for name in own]
        each = gradients(job.network, model, torch.from_numpy(canaries.x), torch.from_numpy(canaries.y))
        self._rows = torch.cat([each[name].flatten(1) for name in self.names], 1).double()
        self._clinic = canaries.clinic
        self._of_all = _orthogonal(self._rows)
        self._of_one = {int(k): _orthogonal(self._rows[canaries.clinic == k]) for k in np.unique(canaries.clinic)}

    @property
    def signal(self) -> float:
        """Return how much of its gradient a canary has along its own direction, on average: 1 if none overlap."""
        unit = self._rows / self._rows.norm(dim=1, keepdim=True).clamp(min=1e-30)
        return float((self._of_all * unit).sum(1).mean())

    def of_all(self, moves: Tensor) -> Floats:
        """Return ``[canary]`` how far a move that all clinics share went along each."""
        return np.asarray(self._of_all @ moves)

    def of_clinic(self, clinic: int, moves: Tensor) -> tuple[NDArray[np.bool_], Floats]:
        """Return a clinic's canaries, and how far its own move went along each."""
        return self._clinic == clinic, np.asarray(self._of_one[clinic] @ moves)

    def moves(self, before: Mapping[str, Tensor], after: Mapping[str, Tensor], lane: int = 0) -> Tensor:
        """Return what was subtracted from parameters, as one vector."""
        return torch.cat(
            [(before[n][min(lane, len(before[n]) - 1)] - after[n][lane]).flatten() for n in self.names]
        ).double()


def _orthogonal(rows: Tensor) -> Tensor:
    """Return the orthonormal rows that are closest to these (Loewdin 1950)."""
    unit = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-30)
    u, _, v = torch.linalg.svd(unit, full_matrices=False)
    closest: Tensor = u @ v
    return closest


class ServerView(Observer):
    """Adds up how far each clinic's own updates, as the server receives them, go along its canaries' directions."""

    def __init__(self, directions: Directions, count: int) -> None:
        self._directions = directions
        self.scores = np.zeros(count)

    def message(self, instruction: Instruction, reply: Reply) -> None:
        """See ``Observer``."""
        if not isinstance(instruction, Train):
            return
        for lane, clinic in enumerate(reply.clinics):
            moves = self._directions.moves(instruction.model, reply.model, lane)
            own, far = self._directions.of_clinic(clinic, moves)
            self.scores[own] += far

    def findings(self, model: Parameters) -> Iterator[Finding]:
        """See ``Observer``: it only looks."""
        yield from ()


def final_scores(
    directions: Directions, canaries: Canaries, initial: Parameters, models: Sequence[Parameters]
) -> Floats:
    """Return ``[trial, canary]`` how far the final models lie along the canaries' directions."""
    found = np.empty((len(models), len(canaries.y)))
    for row, model in zip(found, models, strict=True):
        if len(model[directions.names[0]]) == 1:
            row[:] = directions.of_all(directions.moves(initial, model))
            continue
        for clinic in np.unique(canaries.clinic):
            own, far = directions.of_clinic(int(clinic), directions.moves(initial, model, int(clinic)))
            row[own] = far
    return found
