"""Noise on the rows that leave a clinic at a cut, one stream a clinic, round, step and kind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sim.mechanisms import RowNoise
from sim.models import ClipRows
from sim.rng import Streams


def noised_rows(
    noise: RowNoise,
    seed: int,
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
    seed : int
        The run's.
    kind : str
        ``smashed`` or ``tail-gradient``; names the clip and the stream.
    rows : Tensor
        ``[lane, batch, *feature]``, clipped to the kind's norm.
    sizes : sequence of int
        ``[lane]`` rows that are real; padding stays as it is.
    clinics : sequence of int
        The clinic of each lane.
    moment : (int, int)
        Round and step.

    Returns
    -------
    Tensor
        ``[lane, batch, *feature]``
    """
    streams = Streams(seed, f"noise.{kind}")
    drawn = np.zeros(rows.shape, dtype=np.float32)
    for lane, (clinic, size) in enumerate(zip(clinics, sizes, strict=True)):
        multiplier = noise.multipliers[clinic]
        if multiplier:
            random = streams.at(clinic, *moment)
            shape = (size, *rows.shape[2:])
            values = random.laplace(size=shape) if noise.kind == "laplace" else random.standard_normal(shape)
            drawn[lane, :size] = values * (multiplier * noise.clip[kind])
    return rows + torch.from_numpy(drawn).to(rows) if drawn.any() else rows


def noised_gradients(
    noise: RowNoise,
    seed: int,
    rows: Tensor,
    sizes: Sequence[int],
    clinics: Sequence[int],
    moment: tuple[int, int],
    normaliser: Tensor,
) -> Tensor:
    """Clip and noise each record's own tail-cut gradient, ``[lane, batch, *feature]``.

    The gradients come divided by ``normaliser``, ``[lane]``, as the loss was; a record's own is that times it, and what
    is returned is divided again.
    """
    scale = normaliser.to(rows).view(-1, *[1] * (rows.dim() - 1))
    clip = noise.clip["tail-gradient"]
    if not np.isfinite(clip):
        return rows
    clipped = ClipRows(clip, noise.norm).over(rows * scale, 2)
    return noised_rows(noise, seed, "tail-gradient", clipped, sizes, clinics, moment) / scale
