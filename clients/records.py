"""What a clinic tells about itself, and what it sends once: its records, or its rows behind a public head."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from clients.admission import admit_upload
from sim.methods.forms import label_dtype
from sim.methods.hostile_rows import rows_as_sent
from sim.methods.job import Job
from sim.methods.messages import Hello, Kind, Reply, Upload
from sim.methods.parties import protocol_at
from sim.methods.row_noise import leaving_rows
from sim.methods.workplace import Workplace
from sim.tensor.lanes import forward, records_at_once
from sim.tensor.rows import unpadded


def hello(asked: Hello, here: Workplace) -> Reply:
    """Say which clinics stand behind this node."""
    return Reply(clinics=list(here.group.clinics))


def upload(asked: Upload, here: Workplace) -> Reply:
    """Send every training record of every clinic: ``[lane, record, *feature]``, zeros behind a smaller clinic's.

    A party sends its columns, and the label if it holds it.

    Where a head is brought, it is the head's outputs that are sent, clipped by it and noised here.
    """
    admit_upload(asked, here)
    job, clinics = here.job, here.job.in_lane_order(asked.clinics)
    once_up = protocol_at(job, clinics[0]).once_up
    sizes = np.array([job.sizes[k] for k in clinics])
    position, rows = np.arange(sizes.max()), sizes.tolist()
    x, y = here.group.batch(clinics, np.where(position < sizes[:, None], position, -1))
    kind = once_up[0]
    if job.parties is not None:
        x = x[..., list(job.parties.columns[clinics[0]])]
    if asked.head is not None:
        sent = rows_as_sent(job, _behind(job, asked.head, x), rows, clinics, (0, 0))
        x = leaving_rows(job, kind, sent, rows, clinics, (0, 0))
    noised = {each: [1] * len(clinics) for each in job.protected_rows if each in job.protocol.once_up}
    payload = {kind: unpadded(x, rows)}
    if Kind.LABELS in once_up:
        payload[Kind.LABELS] = unpadded(y.to(label_dtype(job)), rows)
    return Reply(clinics=clinics, rows=rows, payload=payload, noised=noised)


@torch.no_grad()
def _behind(job: Job, head: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Run one head on ``[lane, record, *feature]``, as many records at once as it runs well on."""
    part = job.part("head")
    flat = x.flatten(0, 1)
    at_once = min(records_at_once(part, tuple(flat.shape[1:])), len(flat))
    rows = torch.cat([forward(part, head, piece[None])[0] for piece in torch.split(flat, at_once)])
    return rows.view(*x.shape[:2], *rows.shape[1:])
