"""The average of a round under clinic-level privacy: clipped updates, their sum noised at the server."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sim.methods.job import Job
from sim.methods.method import State
from sim.models import Parameters
from sim.privacy.mechanisms.clinic_level import adapted_clip, noised_mean, updates_of


def noised_average(
    job: Job, server_round: int, trained: Mapping[str, Tensor], state: State
) -> tuple[Parameters, float]:
    """Move the model by the noised mean of what some clinics changed, each with the same weight.

    Parameters
    ----------
    job : Job
    server_round : int
    trained : mapping of str to Tensor
        ``[lane, *shape]`` each.
    state : State
        The round's beginning.

    Returns
    -------
    dict of str to Tensor
        ``[1, *shape]`` each.
    float
        The next round's clip.
    """
    multiplier, clip, adaptive = job.update_noise or 0.0, state.clip, job.adaptive
    updates, norms = updates_of(state.model, trained)
    if adaptive is not None:
        clip = adapted_clip(state.clip, norms, job.wanted, adaptive, multiplier > 0, job.key, server_round)
        multiplier = adaptive.update_noise(multiplier)
    mean = noised_mean(updates, norms, job.wanted, state.clip, multiplier, job.key, server_round)
    return {name: state.model[name] + move for name, move in mean.items()}, clip
