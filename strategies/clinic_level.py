"""Clinic-level privacy: McMahan et al., "Learning Differentially Private Recurrent Language Models", ICLR 2018.

    for each round t, n clinics take part, a fixed number
        delta_k <- w_k - w                          what clinic k changed
        w <- w + (sum over k of delta_k min(1, C / |delta_k|) + N(0, (sigma C)^2)) / n

A clinic more or less moves the sum by at most C. The server, which is trusted, clips and adds the noise.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sim.models import Parameters
from sim.rng import stream


def noised_mean(
    before: Mapping[str, Tensor], stacked: Mapping[str, Tensor], clip: float, noise: float, seed: int, server_round: int
) -> Parameters:
    """Average clinics' clipped updates, each with the same weight, and noise their sum.

    Parameters
    ----------
    before : mapping of str to Tensor
        ``[1, *shape]`` parameters that the round began with.
    stacked : mapping of str to Tensor
        ``[lane, *shape]`` each clinic's.
    clip : float
        C, over all these parameters together.
    noise : float
        Noise multiplier sigma.
    seed, server_round : int
        Name the stream.

    Returns
    -------
    dict of str to Tensor
        ``[1, *shape]`` each.
    """
    updates = {name: value - before[name] for name, value in stacked.items()}
    squared = torch.stack([update.flatten(1).square().sum(1) for update in updates.values()]).sum(0)
    factors = (clip / squared.sqrt()).clamp(max=1.0)
    random = stream(seed, "noise.update", server_round=server_round)
    mean = {}
    for name, update in updates.items():
        total = (update * factors.view(-1, *[1] * (update.dim() - 1))).sum(0, keepdim=True)
        if noise:
            total = total + torch.from_numpy(random.standard_normal(total.shape) * (noise * clip)).to(total)
        mean[name] = before[name] + total / len(update)
    return mean
