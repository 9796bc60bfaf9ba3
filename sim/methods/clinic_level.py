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

from sim.foundation.rng import stream
from sim.methods.mechanisms import AdaptiveClip
from sim.models import Parameters
from sim.tensor.released import on_grid

LARGEST_STEP, SMALLEST_CLIP = 20.0, 1e-9
"""However large the noise on the count, a round moves the clip by no more than e^20, and never out of 1e-9 to 1e9."""


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
    key: str,
    server_round: int,
) -> Parameters:
    """Average clinics' clipped updates, each with the same weight, and noise their sum; one that is no number counts 0.

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
    key : str
        The run's.
    server_round : int
        Names the stream.

    Returns
    -------
    dict of str to Tensor
        ``[1, *shape]`` each.
    """
    factors = (clip / norms).clamp(max=1.0)
    finite = norms.isfinite()
    random = stream(key, "noise.update", server_round=server_round)
    mean = {}
    for name, update in updates.items():
        by_clinic = (-1, *[1] * (update.dim() - 1))
        clipped = torch.where(finite.view(by_clinic), update * factors.view(by_clinic), 0.0)
        total = clipped.sum(0, keepdim=True)
        if noise and clip:
            scale = noise * clip
            noised = random.standard_normal(total.shape) * scale + total.cpu().numpy()
            total = torch.from_numpy(on_grid(noised, scale)).to(total)
        mean[name] = total / clinics
    return mean


def adapted_clip(
    clip: float, norms: Tensor, clinics: int, adaptive: AdaptiveClip, noised: bool, key: str, server_round: int
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
    key : str
        The run's.
    server_round : int
        Names the stream.

    Returns
    -------
    float
    """
    centred = float((norms <= clip).double().sub(0.5).sum())
    if noised:
        drawn = stream(key, "noise.clip-count", server_round=server_round).standard_normal(1) * adaptive.count_noise
        centred = float(on_grid(drawn + centred, adaptive.count_noise)[0])
    within = centred / clinics + 0.5
    moved = clip * math.exp(min(max(-adaptive.rate * (within - adaptive.quantile), -LARGEST_STEP), LARGEST_STEP))
    return min(max(moved, SMALLEST_CLIP), 1 / SMALLEST_CLIP)
