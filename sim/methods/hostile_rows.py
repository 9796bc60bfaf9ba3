"""What a hostile clinic of split learning sends in place of its rows: ``h + s z``, ``z ~ N(0, 1)``, s times as strong.

Poisoned smashed data train the server's part on what no record looks like, and its gradient comes back for them (Khan
et al., "Security Analysis of SplitFed Learning", SenSys 2022). Labels flipped at the clinic are the other way to poison
what the server learns (Tolpegin et al., ESORICS 2020); they are so in the records (:mod:`sim.methods.node_group`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sim.foundation.rng import stream
from sim.methods.job import Job

ROW_NOISE, LABEL_FLIP = "row-noise", "label-flip"


def sends_noisy_rows(job: Job) -> bool:
    """Whether any clinic of a job sends such rows."""
    return any(kind == ROW_NOISE for kind, _ in job.hostile.values())


def rows_as_sent(
    job: Job, rows: Tensor, sizes: Sequence[int], clinics: Sequence[int], moment: tuple[int, int]
) -> Tensor:
    """Return smashed rows ``[lane, batch, *feature]``, of the clinic of each lane, as the clinics would send them."""
    if not sends_noisy_rows(job):
        return rows
    sent = rows.detach().clone()
    for lane, (clinic, size) in enumerate(zip(clinics, sizes, strict=True)):
        kind, strength = job.hostile.get(clinic, ("", 0.0))
        if kind == ROW_NOISE:
            draws = stream(job.seed, "hostile-rows", clinic, *moment)
            noise = draws.standard_normal((size, *rows.shape[2:]), dtype="float32")
            sent[lane, :size] += strength * torch.from_numpy(noise)
    return sent
