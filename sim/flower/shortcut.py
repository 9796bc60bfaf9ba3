"""The way from the server to clinics in its own process, for what needs no message."""

from __future__ import annotations

import numpy as np
from flwr.app import Context

from clients.handlers import handle
from clients.session import Session
from sim.flower.client_app import failure_of
from sim.flower.meter import Meter
from sim.flower.workplace import Workplaces
from sim.foundation.problems import place_of
from sim.methods.forms import NOT_FINITE
from sim.methods.messages import Close, Open, Reply, Step
from sim.methods.protocol import Direction, Kinds
from sim.methods.replies import ExchangeError, NotFiniteError, whose
from sim.methods.trainer import Trainer
from sim.methods.turn_training import TurnTraining
from sim.tensor.program import Program


class SameProcess:
    """All clinics at one node of this process; see :class:`sim.methods.turn.Shortcut`.

    Parameters
    ----------
    workplaces : Workplaces
    context : flwr.app.Context
        The node's.
    meter : Meter
    program : Program
        Does what server and clinics train.
    """

    def __init__(self, workplaces: Workplaces, context: Context, meter: Meter, program: Program) -> None:
        self._workplaces, self._context, self._meter, self._program = workplaces, context, meter, program

    def ask(self, asked: Open | Close) -> Reply:
        """Open or close a turn, and count what its message and the reply would carry.

        Raises
        ------
        ExchangeError
            If the clinics refuse it, or something fails there.
        """
        told = ""
        try:
            reply = handle(asked, self._workplaces(self._context))
        except Exception as error:
            told = failure_of(error, asked.action)
        if told:  # outside, so that the error has no other in its chain
            raise (NotFiniteError if NOT_FINITE in told else ExchangeError)(f"{whose(asked.clinics)}: {told}")
        brought = {kind: getattr(asked, name) for name, kind in asked.kinds().items()}
        self._meter.count_parts("down", {kind: own for kind, own in brought.items() if own is not None}, asked.clinics)
        self._meter.count_parts("up", reply.parts, reply.clinics)
        for what, steps in reply.noised.items():
            self._meter.count_noise(what, reply.clinics, steps)
        return reply

    def serve(self, turn: str, body: Trainer, steps: int) -> None:
        """Do the next batches of an open turn, and count what their messages would have carried.

        Raises
        ------
        ExchangeError
            If something fails; it tells no value of a record.
        """
        session = self._workplaces(self._context).live[turn]
        if not isinstance(session, Session):
            raise TypeError(f"the turn {turn!r} is damaged")
        job, clinics, drawn = session.job, session.clinics, session.batches
        some = slice(session.step, session.step + steps)
        work = TurnTraining(
            job=job,
            group=session.group,
            clinics=clinics,
            trainers={**session.trainers, "body": body},
            server_round=session.server_round,
            first=some.start,
            last=some.stop,
        )
        told = ""
        try:
            self._program.do(work)
        except Exception as error:
            told = f"{place_of(error)} while handling {Step.action!r}"
        if told:  # outside, so that the error has no other in its chain
            raise ExchangeError(told)
        session.trained(steps)
        messages = (drawn.active[some, None] > np.arange(len(clinics))).sum(0)
        rows = drawn.rows[some].sum(0)
        ways: tuple[tuple[Direction, tuple[Kinds, ...]], ...] = (
            ("up", job.protocol.batch_up),
            ("down", job.protocol.batch_down),
        )
        for way, carried in ways:
            for kinds in carried:
                self._meter.count(way, {kind: work.bytes_of(kind) * rows for kind in kinds}, clinics, messages)
