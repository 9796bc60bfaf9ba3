"""Which function answers which instruction, and what a clinic tells of itself and sends once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from clients import split, whole
from clients.admission import RefusedError, admit_upload
from sim.methods.forms import label_dtype
from sim.methods.job import Job
from sim.methods.messages import (
    Begin,
    Clip,
    Close,
    Hello,
    Instruction,
    Kind,
    Open,
    Reply,
    Step,
    Tail,
    Train,
    TrainAlone,
    Upload,
)
from sim.methods.parties import protocol_at
from sim.methods.row_noise import leaving_rows, rows_as_sent
from sim.methods.secure_sum import DivergedUpdateError
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


HANDLERS: Final[dict[type[Instruction], Callable[[Any, Workplace], Reply]]] = {
    Hello: hello,
    Upload: upload,
    Train: whole.train,
    TrainAlone: whole.train_alone,
    Begin: split.begin,
    Open: split.begin,
    Close: split.close,
    Tail: split.tail,
    Step: split.step,
    Clip: split.clip,
}


def handle(asked: Instruction, here: Workplace) -> Reply:
    """Answer an instruction.

    Raises
    ------
    RefusedError
        If it is not what the plan foresees, or a sum would hold a value that is no number.
    """
    try:
        return HANDLERS[type(asked)](asked, here)
    except DivergedUpdateError as error:
        raise RefusedError(str(error)) from None
