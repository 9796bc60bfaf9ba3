"""What clinics send of what they have trained: the parameters, their masked sum, or compressed updates.

A hostile or faulty clinic sends something else in place of its update ``u = w_k - w``, s times as strong.

``sign-flip`` sends ``w - s u`` (Li et al., "RSA", AAAI 2019), ``scaled`` sends ``w + s u``, so that its own records
outweigh the others' (Bagdasaryan et al., "How To Backdoor Federated Learning", AISTATS 2020), and ``noise`` sends
``w + s z`` with ``z ~ N(0, 1)`` (Blanchard et al., "Machine Learning with Adversaries", NeurIPS 2017). It trains as the
others do, and keeps its own part as it is. Running statistics are sent as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from clients.own import shared_values
from sim.foundation.rng import stream
from sim.methods.job import Job
from sim.methods.messages import Kind
from sim.methods.secure_sum import masked_sum
from sim.methods.workplace import Workplace
from sim.models import Parameters

UPDATES: Final = ("sign-flip", "scaled", "noise")
LEFT = "update.left"


def parts_sent(
    here: Workplace,
    server_round: int,
    clinics: Sequence[int],
    before: Mapping[str, Tensor],
    trained: Mapping[str, Tensor],
    kinds: Iterable[Kind],
) -> dict[Kind, Parameters]:
    """Return what some clinics send of what they have trained.

    Parameters
    ----------
    here : Workplace
    server_round : int
    clinics : sequence of int
        The clinic of each lane.
    before : mapping of str to Tensor
        ``[1, *shape]`` each, as received.
    trained : mapping of str to Tensor
        ``[lane, *shape]`` each.
    kinds : iterable of Kind
        As what it crosses; others than of a model are passed over.
    """
    sent = _as_sent(here.job, server_round, clinics, before, trained)
    values = {
        Kind.MODEL: lambda: shared_values(here.job, sent),
        Kind.MASKED: lambda: masked_sum(here.job, server_round, clinics, before, sent),
        Kind.UPDATE: lambda: _compressed(here, clinics, before, sent),
    }
    return {kind: values[kind]() for kind in kinds if kind in values}


def _as_sent(
    job: Job, server_round: int, clinics: Sequence[int], before: Mapping[str, Tensor], trained: Mapping[str, Tensor]
) -> Parameters:
    """Return what some clinics send of what they have trained, hostile ones too."""
    sent = dict(trained)
    for lane, clinic in enumerate(clinics):
        kind, strength = job.hostile.get(clinic, ("", 0.0))
        if kind not in UPDATES:
            continue
        draws = stream(job.seed, "hostile", clinic=clinic, server_round=server_round)
        for name in sorted(before.keys() & trained.keys() - job.network.whole.statistics):
            old, own = before[name][0], trained[name][lane]
            if kind == "noise":
                change = torch.from_numpy(draws.standard_normal(tuple(own.shape), dtype="float32"))
            else:
                change = old - own if kind == "sign-flip" else own - old
            sent[name] = sent[name].clone()
            sent[name][lane] = old + strength * change
    return sent


def _compressed(
    here: Workplace, clinics: Sequence[int], before: Mapping[str, Tensor], trained: Mapping[str, Tensor]
) -> Parameters:
    """Return what some clinics send of their updates; what is left out is added to the next ones."""
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
