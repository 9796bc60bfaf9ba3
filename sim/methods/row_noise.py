"""Rows that cross at a cut: clipped, noised onto a public grid, or rounded to 16 or 8 bits, and bare of padding.

A hostile clinic of split learning sends other rows: ``h + s z``, ``z ~ N(0, 1)``, s times as strong.

Poisoned smashed data train the server's part on what no record looks like, and its gradient comes back for them (Khan
et al., "Security Analysis of SplitFed Learning", SenSys 2022). Labels flipped at the clinic are the other way to poison
what the server learns (Tolpegin et al., ESORICS 2020); they are so in the records (:mod:`sim.methods.node_group`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from sim.foundation.rng import stream
from sim.methods.crossing import packed, unpacked
from sim.methods.forms import sendable
from sim.methods.job import Job
from sim.methods.messages import Kind
from sim.models.clip import ClipRows
from sim.scenario.clinics import ROW_NOISE
from sim.tensor.rows import at_least_one_row, unpadded


def leaving_rows(
    job: Job,
    kind: Kind,
    rows: Tensor,
    sizes: Sequence[int],
    clinics: Sequence[int],
    moment: tuple[int, int],
    normaliser: ArrayLike | None = None,
    at: Tensor | None = None,
) -> Tensor:
    """Return rows as they leave a clinic; smashed rows come clipped from the head, tail gradients are clipped here.

    Parameters
    ----------
    job : Job
    kind : str
        ``smashed`` or ``tail-gradient``.
    rows : Tensor
        ``[lane, batch, *feature]``; tail gradients divided by ``normaliser`` as the loss was.
    sizes : sequence of int
        ``[lane]`` rows that are real.
    clinics : sequence of int
        The clinic of each lane.
    moment : (int, int)
        Round and step, which name the streams of noise.
    normaliser : array_like, optional
        ``[lane]``, for tail gradients.
    at : Tensor, optional
        For tail gradients: at which places, where not all values cross.

    Returns
    -------
    Tensor
        ``[lane, row, *feature]``, as wide as the largest of the batches, of the form that crosses; padding is 0.
        Noised rows are numbers of steps of the clinic's grid, and noised tail gradients a record's own, not divided.
    """
    if kind == Kind.TAIL_GRADIENT and job.rows is not None and normaliser is not None:
        own = rows * _by_lane(normaliser, rows)
        if np.isfinite(job.rows.clip[kind]):
            own = ClipRows(job.rows.clip[kind], job.rows.mechanism.norm).over(own, 2)
        rows = own if job.on_grid(kind) else own / _by_lane(normaliser, rows)
    rows = sendable(job, kind, rows)
    if job.rows is not None and job.on_grid(kind):
        codes = job.rows.codes(rows.detach().cpu().numpy(), kind, job.key, sizes, clinics, moment)
        return unpadded(torch.from_numpy(codes), sizes)
    return packed(job, rows, sizes, at)


def arrived_rows(
    job: Job,
    kind: Kind,
    sent: Tensor,
    clinics: Sequence[int],
    normaliser: ArrayLike | None = None,
    at: Tensor | None = None,
) -> Tensor:
    """Return rows as numbers, from what ``leaving_rows`` sent; at least one row wide."""
    if job.rows is None or not job.on_grid(kind):
        return at_least_one_row(unpacked(job, kind, sent, at))
    steps = [job.rows.grid_step(kind, clinic) for clinic in clinics]
    values = at_least_one_row(sent).float() * _by_lane(steps, sent)
    return values if normaliser is None else values / _by_lane(normaliser, sent)


def _by_lane(values: ArrayLike, rows: Tensor) -> Tensor:
    return torch.from_numpy(np.asarray(values).astype(np.float32)).view(-1, *[1] * (rows.dim() - 1))


def sends_noisy_rows(job: Job) -> bool:
    """Whether any clinic of a job sends such rows."""
    return any(kind == ROW_NOISE for kind, _ in job.hostile.values())


def rows_as_sent(
    job: Job, rows: Tensor, sizes: Sequence[int], clinics: Sequence[int], moment: tuple[int, int]
) -> Tensor:
    """Return smashed rows ``[lane, batch, *feature]``, of the clinic of each lane, as the clinics would send them."""
    if not sends_noisy_rows(job):
        return rows
    sent = rows.detach().clone()
    for lane, (clinic, size) in enumerate(zip(clinics, sizes, strict=True)):
        kind, strength = job.hostile.get(clinic, ("", 0.0))
        if kind == ROW_NOISE:
            draws = stream(job.seed, "hostile-rows", clinic, *moment)
            noise = draws.standard_normal((size, *rows.shape[2:]), dtype="float32")
            sent[lane, :size] += strength * torch.from_numpy(noise)
    return sent
