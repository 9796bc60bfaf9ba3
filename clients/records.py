"""What a clinic tells about itself, and what it sends once: its records, or its rows behind a public head."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from flwr.app import Context, Message
from torch import Tensor

from clients.instructions import records_asked
from sim.flower.messages import MODEL, NOISED, ConfigValue, content, tensors
from sim.flower.workplace import workplace_of
from sim.methods.job import Job
from sim.methods.row_noise import leaving_rows
from sim.tensor.lanes import forward, records_at_once
from sim.tensor.rows import unpadded


def hello(message: Message, context: Context) -> Message:
    """Say which clinics stand behind this node."""
    _, group = workplace_of(context)
    return Message(content({}, {"clinics": list(group.clinics)}), reply_to=message)


def upload(message: Message, context: Context) -> Message:
    """Send every training record of every clinic: ``[clinic, record, *feature]``, zeros behind a smaller clinic's.

    Where the message brings a head, it is the head's outputs that are sent, clipped by it and noised here.
    """
    job, group = workplace_of(context)
    records_asked(message, context, job, group)
    clinics = list(group.clinics)
    sizes = np.array([job.sizes[k] for k in clinics])
    position = np.arange(sizes.max())
    index = np.where(position < sizes[:, None], position, -1)
    x, y = group.batch(clinics, index)
    rows = sizes.tolist()
    config: dict[str, ConfigValue] = {"clinics": clinics, "rows": rows}
    if job.labels is not None:
        config[f"{NOISED}labels"] = [1] * len(clinics)
    kind, *_ = job.protocol.once_up
    if kind == "smashed":
        x = leaving_rows(job, kind, _rows(job, tensors(message, MODEL), x), rows, clinics, (0, 0))
        if job.rows is not None:
            config[f"{NOISED}{kind}"] = [1] * len(clinics)
    sent = {kind: {kind: unpadded(x, rows)}, "labels": {"labels": unpadded(y.to(torch.uint8), rows)}}
    return Message(content(sent, config), reply_to=message)


@torch.no_grad()
def _rows(job: Job, head: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Run one head on ``[clinic, record, *feature]``, as many records at once as it runs well on."""
    part = job.part("head")
    flat = x.flatten(0, 1)
    at_once = min(records_at_once(part, tuple(flat.shape[1:])), len(flat))
    rows = torch.cat([forward(part, head, piece[None])[0] for piece in torch.split(flat, at_once)])
    return rows.view(*x.shape[:2], *rows.shape[1:])
