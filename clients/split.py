"""The clinic's side of split learning: the head and, U-shaped, the tail, batch by batch.

One exchange a batch and direction. ``begin`` opens a clinic's turn and is answered with the first smashed data;
``step`` brings the cut gradient of a batch and is answered with the smashed data of the next one, or, after the turn's
last, with what becomes of the clinic's parts. U-shaped, ``tail`` brings the body's outputs in between and is answered
with their gradient. Where records are clipped jointly, ``step`` is answered with the norms of their gradients at the
clinic, and ``clip`` brings the factors.

Parts that are averaged start every round with a fresh optimiser, as in federated averaging. Parts that are handed on
come with their optimiser's state and leave with it (Gupta & Raskar 2018). Parts that are the clinic's own stay, state
and all (Gawali et al. 2020, SplitFed V3).
"""

from __future__ import annotations

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from clients.admission import RefusedError, admit_close, admit_rows, admit_turn
from clients.own import keep_own, own_values
from clients.session import (
    Session,
    advance,
    forget,
    hold,
    keep,
    optimizer_state_of,
    parameters_of,
    resume,
    trainers_for,
)
from clients.updates import parts_sent
from sim.methods.crossing import places_sent, unpacked
from sim.methods.feed import padded
from sim.methods.forms import label_dtype, sendable
from sim.methods.messages import Begin, Clip, Close, Kind, OfBatch, Open, Reply, Step, Tail
from sim.methods.parties import protocol_at
from sim.methods.replies import parts_that_cross
from sim.methods.row_noise import leaving_rows
from sim.methods.trainer import expand
from sim.methods.workplace import Workplace
from sim.tensor.clipping import joint_factors
from sim.tensor.rows import unpadded

RECEIVED = "received"
"""The parts that a turn began with, where its updates are compressed, or hostile."""


def begin(asked: Begin, here: Workplace) -> Reply:
    """Open a turn: take the clinic's parts, or the clinic's own, and send the first batch's smashed data."""
    job, clinics = here.job, admit_turn(asked, here)
    if not asked.steps:  # lost before its first batch
        return Reply(clinics=clinics)
    parameters, state = own_values(here, clinics)
    if asked.model is not None:
        parameters |= expand(asked.model, len(clinics))
    if asked.optimizer is not None:
        state = expand(asked.optimizer, 1)
    batches = job.batches(asked.server_round, clinics)
    session = Session(
        name=asked.turn,
        job=job,
        group=here.group,
        clinics=clinics,
        trainers=trainers_for(job, clinics, parameters, state),
        batches=batches,
        server_round=asked.server_round,
        step=asked.first,
        last=min(asked.first + asked.steps, len(batches.active)),
    )
    keep(here, session)
    if (job.compression is not None or job.hostile) and asked.model is not None:
        here.memory.keep_tensors(f"{asked.turn}.{RECEIVED}", asked.model)
    return Reply(clinics=clinics) if isinstance(asked, Open) else _smashed(session)


def close(asked: Close, here: Workplace) -> Reply:
    """End a turn whose batches are done; answer with what becomes of the clinic's parts."""
    session = admit_close(asked, here)
    forget(here, session)
    return _ended(here, session)


def tail(asked: Tail, here: Workplace) -> Reply:
    """Run the tail on the body's outputs, train it, and return the gradient in those outputs."""
    session = _resumed(asked, here)
    outputs = _arrived(asked, Kind.BODY_OUTPUT, asked.body_output, session, here)
    gradient = session.train_tail(outputs)
    if session.job.joint:
        hold(here.memory, session, Kind.BODY_OUTPUT, outputs)
    at = places_sent(session.job, Kind.BODY_OUTPUT, asked.body_output)
    sent = _leaving(session, Kind.TAIL_GRADIENT, gradient, session.batch.normaliser, at)
    return _rows(session, {Kind.TAIL_GRADIENT: sent})


def step(asked: Step, here: Workplace) -> Reply:
    """Train the head with the cut gradient; answer with the next batch, or with the trained parts after the last.

    With joint clipping nothing trains yet, and the answer is the norms of the records' gradients at the clinic.
    """
    session = _resumed(asked, here)
    gradient = _arrived(asked, Kind.CUT_GRADIENT, asked.cut_gradient, session, here)
    session.train_head(gradient)
    if not session.job.joint:
        return _go_on(here, session)
    hold(here.memory, session, Kind.CUT_GRADIENT, gradient)
    own = torch.stack(list(session.squared.values())).sum(0)
    return _rows(session, {Kind.NORMS: sendable(session.job, Kind.NORMS, own)})


def clip(asked: Clip, here: Workplace) -> Reply:
    """Train the clinic's parts with the gradients that are held, scaled; answer as ``step`` does otherwise."""
    session = _resumed(asked, here)
    admit_rows(asked, Kind.CLIP_FACTORS, asked.clip_factors, session, here)
    own = torch.stack(list(session.squared.values())).sum(0)
    factors = padded(asked.clip_factors, own.shape[1])
    if session.job.dp is not None:  # whatever the server says, no record counts for more than the clip
        factors = torch.minimum(factors, joint_factors(own, session.job.dp.part_clip))
    session.release(factors)
    return _go_on(here, session)


def _resumed(asked: OfBatch, here: Workplace) -> Session:
    if f"{asked.turn}.turn" not in here.memory:
        raise RefusedError("no such turn is open")
    return resume(here, asked.turn)


def _arrived(asked: OfBatch, kind: Kind, rows: Tensor, session: Session, here: Workplace) -> Tensor:
    admit_rows(asked, kind, rows, session, here)
    at = session.places if kind == Kind.CUT_GRADIENT else None
    return padded(unpacked(session.job, kind, rows, at), session.batch.x.shape[1])


def _leaving(
    session: Session, kind: Kind, rows: Tensor, normaliser: ArrayLike | None = None, at: Tensor | None = None
) -> Tensor:
    if session.job.rows is not None:
        session.count(kind)
    return leaving_rows(session.job, kind, rows, session.rows, session.at_work, session.moment, normaliser, at)


def _go_on(here: Workplace, session: Session) -> Reply:
    return _smashed(session) if advance(here, session) else _ended(here, session)


def _ended(here: Workplace, session: Session) -> Reply:
    """Keep what is the clinics' own and send the trained parts that cross; of lost clinics none do."""
    if session.job.protocol.movement == "own" or (session.job.apart and not session.lost):
        keep_own(here, session.clinics, session.trainers)
    job, trainers = session.job, session.trainers
    noised = {kind: steps.tolist() for kind, steps in session.protected.items()}
    if job.dp is not None:
        noised |= {part: own.noised_steps.tolist() for part, own in trainers.items() if part not in job.frozen}
    crossing = () if session.lost else parts_that_cross(job)
    received = f"{session.name}.{RECEIVED}"
    before = here.memory.tensors(received) if received in here.memory else {}
    parts = parts_sent(here, session.server_round, session.clinics, before, parameters_of(trainers), crossing)
    if Kind.OPTIMIZER in crossing:
        parts[Kind.OPTIMIZER] = optimizer_state_of(trainers)
    here.memory.forget(received)
    return Reply(clinics=session.clinics, parts=parts, noised=noised)


def _smashed(session: Session) -> Reply:
    payload = {Kind.SMASHED: _leaving(session, Kind.SMASHED, session.forward_head())}
    if Kind.LABELS in protocol_at(session.job, session.clinics[0]).batch_up[0]:
        payload[Kind.LABELS] = session.batch.y.to(label_dtype(session.job))
        if session.job.labels is not None:
            session.count(Kind.LABELS)
    return _rows(session, payload)


def _rows(session: Session, payload: dict[Kind, Tensor]) -> Reply:
    sent = {kind: unpadded(rows, session.rows) for kind, rows in payload.items()}
    return Reply(clinics=session.at_work, rows=session.rows, payload=sent)
