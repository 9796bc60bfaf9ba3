"""The clinic's end of compressed updates: what it sends, and what it keeps for the next one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sim.methods.workplace import Workplace
from sim.models import Parameters

LEFT = "update.left"


def compressed(
    here: Workplace, clinics: Sequence[int], before: Mapping[str, Tensor], trained: Mapping[str, Tensor]
) -> Parameters:
    """Return what some clinics send of their updates; what is left out is added to the next ones.

    Parameters
    ----------
    here : Workplace
    clinics : sequence of int
        The clinic of each lane.
    before : mapping of str to Tensor
        ``[1, *shape]`` each, as received.
    trained : mapping of str to Tensor
        ``[lane, *shape]`` each.
    """
    compression, lanes = here.job.compression, [here.group.places[k] for k in clinics]
    if compression is None:
        return {}
    if LEFT not in here.memory:
        nothing = torch.zeros(len(here.group.clinics), compression.numbers)
        here.memory.keep_tensors(LEFT, {LEFT: nothing})
    left = here.memory.tensors(LEFT)[LEFT]
    update = compression.flat(trained) - compression.flat(before) + left[lanes]
    sent = compression.packed(update)
    # What is no number is not carried on: under clinic-level privacy such an update counts as none.
    left[lanes] = torch.nan_to_num(update - compression.unpacked(sent), nan=0.0, posinf=0.0, neginf=0.0)
    return sent
