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

from collections.abc import Mapping

import torch
from flwr.app import Context, Message
from torch import Tensor

from clients.instructions import open_turn, rows_asked, turn_asked
from clients.own import keep_own, own_values, shared_values
from clients.session import Session, advance, hold, keep, optimizer_state_of, parameters_of, resume, trainers_for
from sim.flower.messages import MODEL, NOISED, OPTIMIZER, ConfigValue, config_of, content, integer, tensors
from sim.flower.workplace import workplace_of
from sim.methods.forms import sendable
from sim.methods.row_noise import TAIL_GRADIENT, leaving_rows
from sim.methods.trainer import expand
from sim.tensor.clipping import joint_factors
from sim.tensor.rows import at_least_one_row, unpadded, widened


def begin(message: Message, context: Context) -> Message:
    """Open a turn: take the clinic's parts, or the clinic's own, and send the first batch's smashed data."""
    job, group = workplace_of(context)
    config = config_of(message)
    clinics = turn_asked(message, context, job, group)
    server_round = integer(config, "server-round")
    if not integer(config, "steps"):  # lost before its first batch
        return Message(content({}, {"clinics": clinics}), reply_to=message)
    parameters, state = own_values(context, job, group, clinics)
    if job.protocol.crosses:
        parameters |= expand(tensors(message, MODEL), len(clinics))
    if job.protocol.movement == "handed-on":
        state = expand(tensors(message, OPTIMIZER), 1)
    trainers = trainers_for(job, clinics, parameters, state, {})
    batches = job.batches(server_round, clinics)
    first = integer(config, "first")
    last = min(first + integer(config, "steps"), len(batches.active))
    session = Session(str(config["turn"]), job, group, trainers, batches, server_round, first, last)
    keep(context, session)
    return _send_smashed(message, session)


def tail(message: Message, context: Context) -> Message:
    """Run the tail on the body's outputs, train it, and return the gradient in those outputs."""
    session = resume(context, open_turn(message, context))
    outputs = _received(message, session, "tail", "body-output")
    gradient = session.train_tail(outputs)
    if session.job.joint:
        hold(context, session, "body-output", outputs)
    normaliser = torch.from_numpy(session.normaliser.copy())
    leaving = leaving_rows(session.job, TAIL_GRADIENT, gradient, *session.addressed, normaliser)
    if session.job.rows is not None:
        session.count(TAIL_GRADIENT)
    return _send_rows(message, session, {TAIL_GRADIENT: leaving})


def step(message: Message, context: Context) -> Message:
    """Train the head with the cut gradient; answer with the next batch, or with the trained parts after the last.

    With joint clipping nothing trains yet, and the answer is the norms of the records' gradients at the clinic.
    """
    session = resume(context, open_turn(message, context))
    gradient = _received(message, session, "step", "cut-gradient")
    session.train_head(gradient)
    if session.job.joint:
        hold(context, session, "cut-gradient", gradient)
        return _send_rows(
            message,
            session,
            {"norms": sendable(session.job, "norms", torch.stack(list(session.squared.values())).sum(0))},
        )
    return _go_on(message, context, session)


def clip(message: Message, context: Context) -> Message:
    """Train the clinic's parts with the gradients that are held, scaled; answer as ``step`` does otherwise."""
    session = resume(context, open_turn(message, context))
    factors = at_least_one_row(rows_asked(message, session, "clip", "clip-factors"))
    own = torch.stack(list(session.squared.values())).sum(0)
    if session.job.dp is not None:  # whatever the server says, no record counts for more than the clip
        factors = torch.minimum(factors, joint_factors(own, session.job.dp.part_clip))
    for trainer in session.trainers.values():
        trainer.release(session.server_round, session.step, session.normaliser, factors)
    return _go_on(message, context, session)


def _go_on(message: Message, context: Context, session: Session) -> Message:
    if advance(context, session):
        return _send_smashed(message, session)
    if session.job.protocol.movement == "own" or (session.job.apart and not session.lost):
        keep_own(context, session.job, session.group, session.clinics, session.trainers)
    return _send_parts(message, session)


def _send_smashed(message: Message, session: Session) -> Message:
    job, smashed = session.job, session.forward_head()
    kinds = {"smashed": leaving_rows(job, "smashed", smashed, *session.addressed)}
    if job.rows is not None:
        session.count("smashed")
    if job.protocol.topology == "vanilla":
        kinds["labels"] = session.labels.to(torch.uint8)
        if job.labels is not None:
            session.count("labels")
    return _send_rows(message, session, kinds)


def _send_rows(message: Message, session: Session, kinds: Mapping[str, Tensor]) -> Message:
    sent = {kind: {kind: unpadded(rows, session.rows)} for kind, rows in kinds.items()}
    config: dict[str, ConfigValue] = {"clinics": session.clinics[: session.lanes], "rows": session.rows}
    return Message(content(sent, config), reply_to=message)


def _received(message: Message, session: Session, asked: str, kind: str) -> Tensor:
    return at_least_one_row(widened(rows_asked(message, session, asked, kind), session.job.cut_dtype))


def _send_parts(message: Message, session: Session) -> Message:
    """Send the trained parts that cross; of lost clinics none do, and the simulator counts what they noised."""
    config: dict[str, ConfigValue] = {"clinics": session.clinics}
    if session.job.dp is not None:
        config |= {
            f"{NOISED}{part}": trainer.noised_steps.tolist()
            for part, trainer in session.trainers.items()
            if part not in session.job.frozen
        }
    config |= {f"{NOISED}{kind}": steps.tolist() for kind, steps in session.protected.items()}
    kinds = {}
    if session.job.protocol.crosses and not session.lost:
        kinds[MODEL] = shared_values(session.job, parameters_of(session.trainers))
        if session.job.protocol.movement == "handed-on":
            kinds[OPTIMIZER] = optimizer_state_of(session.trainers)
    return Message(content(kinds, config), reply_to=message)
