"""What a hostile or faulty clinic sends in place of its update ``u = w_k - w``, s times as strong.

``sign-flip`` sends ``w - s u`` (Li et al., "RSA", AAAI 2019), ``scaled`` sends ``w + s u``, so that its own records
outweigh the others' (Bagdasaryan et al., "How To Backdoor Federated Learning", AISTATS 2020), and ``noise`` sends
``w + s z`` with ``z ~ N(0, 1)`` (Blanchard et al., "Machine Learning with Adversaries", NeurIPS 2017). It trains as the
others do, and keeps its own part as it is. Running statistics are sent as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from sim.foundation.rng import stream
from sim.methods.job import Job
from sim.models import Parameters

UPDATES: Final = ("sign-flip", "scaled", "noise")


def as_sent(
    job: Job, server_round: int, clinics: Sequence[int], before: Mapping[str, Tensor], trained: Mapping[str, Tensor]
) -> Parameters:
    """Return what some clinics send of what they have trained.

    Parameters
    ----------
    job : Job
    server_round : int
    clinics : sequence of int
        The clinic of each lane.
    before : mapping of str to Tensor
        ``[1, *shape]`` each, as received.
    trained : mapping of str to Tensor
        ``[lane, *shape]`` each.
    """
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
