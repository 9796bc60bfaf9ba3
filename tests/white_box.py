"""Scores of canaries from the models of every round, by an adversary who sees them and knows the algorithm.

What a round moved a block's parameters by is, but for noise and the other records, a sum over the canaries in the data
of their clipped gradients. Ridge regression takes the canaries' shares in it apart, block by block, so that a block
that lacks its noise is found even if the others have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from canaries import Canaries
from numpy.typing import NDArray
from torch import Tensor

from sim.attacks.canaries import gradients
from sim.models import Network, Part

Floats = NDArray[np.float64]
ALL = "all blocks"


def round_scores(
    network: Network,
    parts: Sequence[Part],
    models: Sequence[Mapping[str, Tensor]],
    canaries: Canaries,
    part_clip: float,
) -> dict[str, Floats]:
    """Score every canary by the rounds' models.

    Parameters
    ----------
    network : Network
    parts : sequence of Part
        As the algorithm clips them.
    models : sequence of mapping of str to Tensor
        ``[1, *shape]`` each: before the first round and after every one.
    canaries : Canaries
        Their coins are not looked at.
    part_clip : float
        Bound of a record's gradient in one part.

    Returns
    -------
    dict of str to ndarray
        ``[canary]`` by block, and under ``ALL`` from all blocks at once.
    """
    names = [block.name for block in network.blocks]
    scores: dict[str, Floats] = {name: np.zeros(len(canaries.y)) for name in (*names, ALL)}
    for before, after in pairwise(models):
        each = gradients(network, before, torch.from_numpy(canaries.x), torch.from_numpy(canaries.y))
        moves, clipped = [], []
        for part in parts:
            norms = torch.cat([each[name].flatten(1) for name in part.shapes()], 1).norm(dim=1, keepdim=True)
            factors = (part_clip / norms).clamp(max=1.0)
            for block in part.blocks:
                own = Part(block.name, (block,)).shapes()
                moves.append(torch.cat([(before[name] - after[name]).flatten() for name in own]).double())
                clipped.append((torch.cat([each[name].flatten(1) for name in own], 1) * factors).double())
                scores[block.name] += _shares(clipped[-1], moves[-1])
        scores[ALL] += _shares(torch.cat(clipped, 1), torch.cat(moves))
    return scores


def _shares(gradients: Tensor, move: Tensor, ridge: float = 0.3) -> Floats:
    """Solve for the canaries' shares in a move by ridge regression; ``ridge`` is relative to their mean square norm."""
    products = gradients @ gradients.t()
    products.diagonal().add_(ridge * products.diagonal().mean())
    shares: Floats = torch.linalg.solve(products, gradients @ move).numpy()
    return shares
