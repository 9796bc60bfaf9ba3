"""Rows that cross at a cut: clipped, noised onto a public grid, or rounded to 16 bits, and bare of padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sim.foundation.rng import Streams
from sim.methods.forms import sendable
from sim.methods.job import Job
from sim.methods.mechanisms import RowNoise
from sim.methods.messages import Kind
from sim.models import ClipRows
from sim.tensor.released import as_codes, row_step
from sim.tensor.rows import at_least_one_row, narrowed, unpadded, widened

TAIL_GRADIENT = Kind.TAIL_GRADIENT


def leaving_rows(
    job: Job,
    kind: Kind,
    rows: Tensor,
    sizes: Sequence[int],
    clinics: Sequence[int],
    moment: tuple[int, int],
    normaliser: Tensor | None = None,
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
    normaliser : Tensor, optional
        ``[lane]``, for tail gradients.

    Returns
    -------
    Tensor
        ``[lane, row, *feature]``, as wide as the largest of the batches, of ``job.crossing(kind)``; padding is 0.
        Noised rows are numbers of steps of the clinic's grid, and noised tail gradients a record's own, not divided.
    """
    if kind == TAIL_GRADIENT and job.rows is not None and normaliser is not None:
        own = rows * _by_lane(normaliser, rows)
        if np.isfinite(job.rows.clip[kind]):
            own = ClipRows(job.rows.clip[kind], job.rows.norm).over(own, 2)
        rows = own if job.on_grid(kind) else own / _by_lane(normaliser, rows)
    rows = sendable(job, kind, rows)
    if job.rows is not None and job.on_grid(kind):
        return unpadded(noised_codes(job.rows, job.key, kind, rows, sizes, clinics, moment), sizes)
    return unpadded(narrowed(rows, job.cut_dtype), sizes)


def arrived_rows(job: Job, kind: str, sent: Tensor, clinics: Sequence[int], normaliser: Tensor | None = None) -> Tensor:
    """Return rows as numbers, from what ``leaving_rows`` sent; at least one row wide."""
    if job.rows is None or not job.on_grid(kind):
        return at_least_one_row(widened(sent, job.cut_dtype))
    steps = torch.tensor([grid_step(job.rows, kind, clinic) for clinic in clinics])
    values = at_least_one_row(sent).float() * _by_lane(steps, sent)
    return values if normaliser is None else values / _by_lane(normaliser, sent)


def noised_codes(
    noise: RowNoise,
    key: str,
    kind: str,
    rows: Tensor,
    sizes: Sequence[int],
    clinics: Sequence[int],
    moment: tuple[int, int],
) -> Tensor:
    """Return clipped rows with noise of standard deviation (Laplace: scale) multiplier * clip in every coordinate.

    Parameters
    ----------
    noise : RowNoise
        With noise for each of these clinics.
    key : str
        The run's.
    kind, rows, sizes, clinics, moment
        As for ``leaving_rows``.

    Returns
    -------
    Tensor of int16
        ``[lane, batch, *feature]`` in steps of each clinic's grid; padding is 0.
    """
    streams = Streams(key, f"noise.{kind}")
    codes = np.zeros(rows.shape, dtype=np.int16)
    values = rows.detach().cpu().numpy()
    for lane, (clinic, size) in enumerate(zip(clinics, sizes, strict=True)):
        random, shape = streams.at(clinic, *moment), (size, *rows.shape[2:])
        drawn = random.laplace(size=shape) if noise.kind == "laplace" else random.standard_normal(shape)
        drawn *= noise.scale(kind, clinic)
        codes[lane, :size] = as_codes(drawn + values[lane, :size], grid_step(noise, kind, clinic))
    return torch.from_numpy(codes)


def grid_step(noise: RowNoise, kind: str, clinic: int) -> float:
    """Return the step of the grid on which a clinic's noised rows leave."""
    return row_step(noise.scale(kind, clinic), noise.clip[kind])


def _by_lane(values: Tensor, rows: Tensor) -> Tensor:
    return values.to(torch.float32).view(-1, *[1] * (rows.dim() - 1))
