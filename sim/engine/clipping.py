"""Per-sample clipping without per-sample gradients, and the noise of DP-SGD.

For a linear layer the gradient of one record is the outer product of delta (the loss's gradient in the layer's outputs)
and the layer's inputs, so its squared norm is |delta|^2 (|inputs|^2 + 1), bias included. Clipping scales delta, and the
clipped sum is then one matrix product ("ghost clipping": Goodfellow 2015, arXiv:1510.01799; Li et al. 2022,
arXiv:2110.05679). Exact, and over all lanes at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sim.engine.lanes import Tape
from sim.rng import Streams


def clipped_gradients(
    outputs: Tensor,
    tape: Tape,
    clip: float,
    normaliser: Tensor,
    inputs: Tensor | None = None,
    cotangent: Tensor | None = None,
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Return the sum of the clipped per-sample gradients over each lane's batch, divided by its normaliser.

    Parameters
    ----------
    outputs : Tensor
        The loss (each record's weighted by 1 / normaliser), or a part's outputs ``[lane, batch, *output]``.
    tape : list of LinearRecord
        As filled by the forward pass that made ``outputs``.
    clip : float
        Bound C of one record's gradient over all the part's parameters.
    normaliser : Tensor
        ``[lane]``, the expected batch size by which the loss's weights were divided.
    inputs, cotangent : Tensor, optional
        As for ``sim.engine.lanes.gradients``. The cut gradient that is returned is not clipped.

    Returns
    -------
    dict of str to Tensor
        ``[lane, *shape]`` by parameter.
    Tensor or None
        Gradient in ``inputs``.
    """
    wanted = [record.outputs for record in tape]
    found = torch.autograd.grad(outputs, wanted if inputs is None else [*wanted, inputs], grad_outputs=cotangent)
    deltas = found[: len(tape)]
    squared = torch.zeros_like(deltas[0][..., 0])
    for record, delta in zip(tape, deltas, strict=True):
        squared += delta.square().sum(-1) * (record.inputs.detach().square().sum(-1) + bool(record.bias))
    factors = clip_factors(squared, clip, normaliser)
    sums: dict[str, Tensor] = {}
    for record, delta in zip(tape, deltas, strict=True):
        scaled = delta * factors[..., None]
        sums[record.weight] = torch.bmm(scaled.transpose(1, 2), record.inputs.detach())
        if record.bias:
            sums[record.bias] = scaled.sum(1)
    return sums, None if inputs is None else found[-1]


def clip_factors(squared: Tensor, clip: float, normaliser: Tensor) -> Tensor:
    """Return min(1, clip / norm) for each record, ``[lane, batch]``.

    Parameters
    ----------
    squared : Tensor
        ``[lane, batch]`` squared norm of each record's gradient, divided by ``normaliser`` as the loss was.
    clip : float
    normaliser : Tensor
        ``[lane]``
    """
    return (clip / (squared.sqrt() * normaliser[:, None])).clamp(max=1.0)


def add_noise(
    sums: Sequence[Tensor],
    std: Sequence[float],
    normaliser: Sequence[float],
    seed: int,
    purpose: str,
    clinics: Sequence[int],
    server_round: int,
    step: int,
) -> None:
    """Add Gaussian noise to clipped sums, in place; each lane draws from its own clinic's stream.

    Parameters
    ----------
    sums : sequence of Tensor
        ``[lane, *shape]`` each, already divided by ``normaliser``.
    std : sequence of float
        ``[lane]``, standard deviation on the undivided sum.
    normaliser : sequence of float
        ``[lane]``
    seed, purpose, clinics, server_round, step
        Name the streams.
    """
    size = sum(value[0].numel() for value in sums)
    noise = np.empty((len(clinics), size), dtype=np.float32)
    streams = Streams(seed, purpose)
    for lane, (clinic, s, n) in enumerate(zip(clinics, std, normaliser, strict=True)):
        streams.at(clinic, server_round, step).standard_normal(out=noise[lane], dtype=np.float32)
        noise[lane] *= np.float32(s / n)
    flat = torch.from_numpy(noise).to(sums[0].device, sums[0].dtype)
    position = 0
    for value in sums:
        width = value[0].numel()
        value += flat[:, position : position + width].view_as(value)
        position += width
