"""NoPeek: the distance correlation of a head's inputs and outputs, which a clinic adds to its loss.

Vepakomma et al., "NoPeek: Information leakage reduction to share activations in distributed deep learning", 2020. For n
records with distances a of the inputs and b of the outputs, A and B the same with row and column means taken out
(Szekely, Rizzo & Bakirov 2007):

    dcov = sum A B / n^2,    dvar = sum A A / n^2 and sum B B / n^2,    dcor = (dcov / sqrt(dvar_a dvar_b))^(1/2)

Nothing is promised by a small one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LEAST = 1e-12


def distance_correlation(x: Tensor, z: Tensor, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the distance correlation of each lane's batch, and its gradient in the outputs.

    Parameters
    ----------
    x, z : Tensor
        ``[lane, batch, *feature]`` inputs and outputs.
    rows : sequence of int
        ``[lane]`` those that are real.

    Returns
    -------
    Tensor
        ``[lane]``; 0 where inputs or outputs do not differ.
    Tensor
        ``[lane, batch, *feature]``; 0 for padding.
    """
    real = (torch.arange(x.shape[1]) < torch.tensor(rows)[:, None]).to(z.dtype)
    n = real.sum(1).clamp(min=1)[:, None, None]
    pairs = real.unsqueeze(2) * real.unsqueeze(1)
    flat = z.flatten(2)
    b = _distances(flat) * pairs
    centred_a, centred_b = (_centred(each, real, pairs, n) for each in (_distances(x.flatten(2)) * pairs, b))
    dcov, dvar_a, dvar_b = (
        (one * other).sum((1, 2), keepdim=True) / n.square()
        for one, other in ((centred_a, centred_b), (centred_a, centred_a), (centred_b, centred_b))
    )
    there = (dvar_a > LEAST) & (dvar_b > LEAST) & (dcov > LEAST)
    scale = (dvar_a * dvar_b).sqrt()
    value = torch.where(there, (dcov / scale).clamp(min=0).sqrt(), 0.0)
    in_b = (centred_a - dcov / dvar_b * centred_b) / (n.square() * scale * 2 * value)
    weights = torch.where(there & (b > 0), 2 * in_b / b, 0.0)
    gradient = torch.bmm(weights, torch.ones_like(flat[:, :, :1])) * flat - torch.bmm(weights, flat)
    return value.flatten(), gradient.view(z.shape)


def _distances(values: Tensor) -> Tensor:
    return torch.cdist(values, values, compute_mode="donot_use_mm_for_euclid_dist")


def _centred(distances: Tensor, real: Tensor, pairs: Tensor, n: Tensor) -> Tensor:
    """Take the means of rows and columns out, those of real records."""
    means = torch.bmm(distances, real.unsqueeze(2)) / n
    overall = torch.bmm(real.unsqueeze(1), means) / n
    return (distances - means - means.transpose(1, 2) + overall) * pairs
