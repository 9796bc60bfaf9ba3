"""The average of a round under clinic-level privacy: clipped updates, their sum noised at the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from sim.methods.method import State
from sim.models import Parameters
from sim.privacy.mechanisms.clinic_level import adapted_clip, noised_mean, updates_of

if TYPE_CHECKING:
    from sim.methods.exchange import Exchange


def noised_average(
    exchange: Exchange, trained: Mapping[str, Tensor], clinics: Sequence[int], state: State
) -> tuple[Parameters, float]:
    """Move the model by the noised mean of what some clinics changed, each with the same weight.

    Parameters
    ----------
    exchange : Exchange
    trained : mapping of str to Tensor
        ``[lane, *shape]`` each.
    clinics : sequence of int
        The clinic of each lane.
    state : State
        The round's beginning.

    Returns
    -------
    dict of str to Tensor
        ``[1, *shape]`` each.
    float
        The next round's clip.
    """
    job, server_round = exchange.job, exchange.server_round
    multiplier, clip, adaptive = job.update_noise or 0.0, state.clip, job.adaptive
    updates, norms = updates_of(state.model, trained)
    if adaptive is not None:
        clip = adapted_clip(state.clip, norms, job.wanted, adaptive, multiplier > 0, job.key, server_round)
        exchange.count("clip-count", clinics)
        multiplier = adaptive.update_noise(multiplier)
    mean = noised_mean(updates, norms, job.wanted, state.clip, multiplier, job.key, server_round)
    exchange.count("update", clinics)
    return {name: state.model[name] + move for name, move in mean.items()}, clip
