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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from sim.foundation.rng import stream
from sim.privacy.accounting import compose
from sim.privacy.calibration import calibrate
from sim.privacy.events import DpEvent, dp
from sim.privacy.mechanisms.mechanism import OnUpdates
from sim.privacy.mechanisms.released import on_grid

if TYPE_CHECKING:
    from torch import Tensor


LARGEST_STEP, SMALLEST_CLIP = 20.0, 1e-9
"""However large the noise on the count, a round moves the clip by no more than e^20, and never out of 1e-9 to 1e9."""


@final
class ClinicLevel(OnUpdates):
    """Clips each clinic's update, and noises their sum."""

    name = "clinic-level"
    keys = frozenset(
        {
            *("clip", "labels", "noise_multiplier", "epsilon", "stop_at_epsilon"),
            *("adaptive_quantile", "adaptive_rate", "adaptive_count_noise"),
        }
    )
    sentence = (
        "all records of a clinic: its update is clipped and the sum noised, by a trusted server or, under secure "
        "aggregation, by the clinics themselves; for the model user and "
        "peer clinics"
    )

    def problem(self, key: str, value: Any, given: Mapping[str, Any]) -> str:
        """See ``Mechanism``."""
        if key == "adaptive_quantile" and value is not None and math.isinf(given.get("clip", 1.0)):
            return "a clip of inf cannot adapt; give a finite privacy.clip to begin with, such as 1.0"
        return ""

    def refusal(self, method: Any, cut: str | None, sent: Sequence[str]) -> str:
        """See ``Mechanism``."""
        if method.averages_updates and not method.imported:
            return ""
        return (
            f"{self.name} noises a sum of updates, and {method.name} forms none here; take fedavg, or a SplitFed "
            "with a body copy a clinic"
        )

    def event(self, noise: float, rounds: int) -> DpEvent:
        """See ``OnUpdates``."""
        return compose({dp.GaussianDpEvent(noise): rounds}) if noise else dp.NonPrivateDpEvent()

    def noise_for(self, target: float, delta: float, rounds: int) -> float:
        """See ``OnUpdates``."""
        return calibrate(target, delta, 1.0, rounds)


@dataclass(frozen=True, kw_only=True)
class AdaptiveClip:
    """How the clip of clinics' updates follows a quantile of their norms (Andrew et al. 2021)."""

    quantile: float  # gamma, the share of updates that is to lie within the clip
    rate: float  # eta_C, of the geometric update
    count_noise: float  # sigma_b, standard deviation of the noise on the number of updates within the clip

    def update_noise(self, multiplier: float) -> float:
        """Return sigma_delta, with which updates and counts have this noise multiplier, below 2 sigma_b, together.

        A clinic moves the centred count by 1/2, so that sigma^-2 = sigma_delta^-2 + (2 sigma_b)^-2; 0 stays 0.
        """
        return (multiplier**-2 - (2 * self.count_noise) ** -2) ** -0.5 if multiplier else 0.0


def updates_of(before: Mapping[str, Tensor], stacked: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """Return what each clinic changed, ``[lane, *shape]`` each, and its norm over all of these together, ``[lane]``.

    ``before`` holds the ``[1, *shape]`` parameters that the round began with, ``stacked`` each clinic's.
    """
    import torch

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
) -> dict[str, Tensor]:
    """Average clinics' clipped updates, each with the same weight, and noise their sum; one that is no number counts 0.

    Parameters
    ----------
    updates, norms
        ``[lane, *shape]`` each; ``[lane]``.
    clinics : int
        n, lost ones too: it does not depend on who came back.
    clip, noise : float
        C and sigma_delta.

    Returns
    -------
    dict of str to Tensor
        ``[1, *shape]`` each.
    """
    import torch

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
    """Return the next round's clip, from the ``[lane]`` norms of the updates before they were clipped.

    ``noised`` says whether the count has its noise; without, nothing is private.
    """
    centred = float((norms <= clip).double().sub(0.5).sum())
    if noised:
        drawn = stream(key, "noise.clip-count", server_round=server_round).standard_normal(1) * adaptive.count_noise
        centred = float(on_grid(drawn + centred, adaptive.count_noise)[0])
    within = centred / clinics + 0.5
    moved = clip * math.exp(min(max(-adaptive.rate * (within - adaptive.quantile), -LARGEST_STEP), LARGEST_STEP))
    return min(max(moved, SMALLEST_CLIP), 1 / SMALLEST_CLIP)


MECHANISM = ClinicLevel()
