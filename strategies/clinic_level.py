"""Clinic-level privacy: McMahan et al., "Learning Differentially Private Recurrent Language Models", ICLR 2018.

    for each round t, n clinics are to take part, a fixed number
        delta_k <- w_k - w                          what clinic k changed; a lost one stands in no sum
        w <- w + (sum over k of delta_k min(1, C / |delta_k|) + N(0, (sigma_delta C)^2)) / n

A clinic more or less moves the sum by at most C. The server, which is trusted, clips and adds the noise. The clip may
follow the quantile gamma of the updates' norms (Andrew et al., "Differentially Private Learning with Adaptive
Clipping", NeurIPS 2021, algorithm 1):

        b_k <- 1 if |delta_k| <= C else 0           before clipping
        b <- (sum over k of (b_k - 1/2) + N(0, sigma_b^2)) / n + 1/2
        C <- C exp(-eta_C (b - gamma))

A clinic more or less moves that sum by 1/2: a round has noise multiplier (sigma_delta^-2 + (2 sigma_b)^-2)^-1/2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from sim.mechanisms import AdaptiveClip
from sim.models import Parameters
from sim.rng import stream


def updates_of(before: Mapping[str, Tensor], stacked: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """Return what each clinic changed, and its norm over all these parameters together.

    Parameters
    ----------
    before : mapping of str to Tensor
        ``[1, *shape]`` parameters that the round began with.
    stacked : mapping of str to Tensor
        ``[lane, *shape]`` each clinic's.

    Returns
    -------
    dict of str to Tensor
        ``[lane, *shape]`` each.
    Tensor
        ``[lane]``
    """
    updates = {name: value - before[name] for name, value in stacked.items()}
    squared = torch.stack([update.flatten(1).square().sum(1) for update in updates.values()]).sum(0)
    return updates, squared.sqrt()


def noised_mean(
    updates: Mapping[str, Tensor],
    norms: Tensor,
    clinics: int,
    clip: float,
    noise: float,
    seed: int,
    server_round: int,
) -> Parameters:
    """Average clinics' clipped updates, each with the same weight, and noise their sum.

    Parameters
    ----------
    updates : mapping of str to Tensor
        ``[lane, *shape]`` each.
    norms : Tensor
        ``[lane]``
    clinics : int
        n, lost ones too: it does not depend on who came back.
    clip : float
        C.
    noise : float
        sigma_delta.
    seed, server_round : int
        Name the stream.

    Returns
    -------
    dict of str to Tensor
        ``[1, *shape]`` each.
    """
    factors = (clip / norms).clamp(max=1.0)
    random = stream(seed, "noise.update", server_round=server_round)
    mean = {}
    for name, update in updates.items():
        total = (update * factors.view(-1, *[1] * (update.dim() - 1))).sum(0, keepdim=True)
        if noise:
            total = total + torch.from_numpy(random.standard_normal(total.shape) * (noise * clip)).to(total)
        mean[name] = total / clinics
    return mean


def adapted_clip(
    clip: float, norms: Tensor, clinics: int, adaptive: AdaptiveClip, noised: bool, seed: int, server_round: int
) -> float:
    """Return the next round's clip.

    Parameters
    ----------
    clip : float
        C.
    norms : Tensor
        ``[lane]`` norms of the updates before they were clipped.
    clinics : int
        n, as for ``noised_mean``.
    adaptive : AdaptiveClip
    noised : bool
        Whether the count has its noise; without, nothing is private.
    seed, server_round : int
        Name the stream.

    Returns
    -------
    float
    """
    centred = float((norms <= clip).double().sub(0.5).sum())
    if noised:
        centred += adaptive.count_noise * float(stream(seed, "noise.clip-count", server_round=server_round).normal())
    within = centred / clinics + 0.5
    return clip * math.exp(-adaptive.rate * (within - adaptive.quantile))
