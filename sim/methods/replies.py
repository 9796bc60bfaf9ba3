"""Every reply is held against what was asked: these clinics, these kinds, names, shapes, ranges and counts.

A clinic may be faulty or hostile. What it answers is used only if it is what an honest clinic could have answered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from sim.foundation.problems import SutureError
from sim.methods.forms import NOT_FINITE, Forms
from sim.methods.job import Job
from sim.methods.messages import (
    Begin,
    Close,
    EdgeRound,
    Gather,
    Instruction,
    Kind,
    OfBatch,
    Open,
    Reply,
    Step,
    Tail,
    Train,
    TrainAlone,
)
from sim.methods.parties import protocol_at
from sim.methods.sampling import Batches

EXAMPLES, TRAINING_LOSS, CLIPPED = "num-examples", "train_loss", "norm_bit"
"""Metrics that come with a whole model: the number of training records; for strategies of Flower's also the received
model's loss, and whether the update was clipped."""
MOST = {TRAINING_LOSS: math.inf, CLIPPED: 1.0}


class ExchangeError(SutureError, RuntimeError):
    """A node did not answer, or answered with an error or with what it was not asked."""


class AbsentError(ExchangeError):
    """The nodes of some clinics did not come, or did not answer.

    Parameters
    ----------
    clinics : sequence of int
    text : str
        What they did not do.
    """

    def __init__(self, clinics: Sequence[int], text: str) -> None:
        super().__init__(f"{whose(clinics)}: {text}")
        self.clinics, self.text = tuple(clinics), text


class NotFiniteError(ExchangeError):
    """A node answered with numbers that are none: the model has diverged, or the clinic is faulty."""


@dataclass(frozen=True)
class Course:
    """A turn of some clinics of one node as the server knows it: how it was opened, and the round's batches."""

    begin: Begin
    drawn: Batches

    @property
    def last(self) -> int:
        """The batch after the turn's last."""
        return min(self.begin.first + self.begin.steps, len(self.drawn.active))


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What an honest reply holds.

    Attributes
    ----------
    rows : list of int
        Real rows in each lane, for row-wise kinds.
    payload, parts : tuple of Kind
        Rows and parameters.
    noised : dict of str to list of int
        By part or kind of rows, how many noised steps each clinic did.
    metrics : dict of str to float
        By name, the largest value that each may have; the number of training records is exact.
    """

    clinics: list[int]
    rows: Sequence[int] = ()
    payload: Sequence[Kind] = ()
    parts: Sequence[Kind] = ()
    noised: Mapping[str, list[int]] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


class Due:
    """What the nodes have been asked and not answered yet."""

    def __init__(self, job: Job, forms: Forms) -> None:
        self._job = job
        self._forms = forms
        self._turns: dict[tuple[int, str], Course] = {}

    def check(self, node: int, asked: Instruction, reply: Reply) -> None:
        """Hold a node's reply against what it was asked.

        Raises
        ------
        ExchangeError
            If it is no answer to that.
        """
        expected = self._expected(node, asked)
        if fault := reply_fault(self._forms, expected, reply):
            raise_fault(expected.clinics, fault)

    def _expected(self, node: int, asked: Instruction) -> Expected:
        if isinstance(asked, EdgeRound | Gather):
            return Expected(clinics=asked.clinics, parts=(Kind.MODEL,) if isinstance(asked, Gather) else ())
        if isinstance(asked, Train | TrainAlone):
            return expected_of_whole(self._job, asked.server_round, asked.clinics)
        if isinstance(asked, Begin):
            course = Course(asked, self._job.batches(asked.server_round, asked.clinics))
            if asked.first < course.last:
                self._turns[node, asked.turn] = course
            if asked.first == course.last or isinstance(asked, Open):
                return Expected(clinics=asked.clinics)
            return self._of_batch(course, asked.first)
        if isinstance(asked, Close):
            return self._of_parts(self._turns.pop((node, asked.turn)))
        if not isinstance(asked, OfBatch):
            job, clinics, once_up = self._job, asked.clinics, protocol_at(self._job, asked.clinics[0]).once_up
            noised = {kind: [1] * len(clinics) for kind in job.protected_rows if kind in once_up}
            return Expected(clinics=clinics, rows=[job.sizes[k] for k in clinics], payload=once_up, noised=noised)
        course = self._turns[node, asked.turn]
        if isinstance(asked, Tail):
            return self._of_rows(course, asked.step, (Kind.TAIL_GRADIENT,))
        if isinstance(asked, Step) and self._job.joint:
            return self._of_rows(course, asked.step, (Kind.NORMS,))
        if asked.step + 1 < course.last:
            return self._of_batch(course, asked.step + 1)
        del self._turns[node, asked.turn]
        return self._of_parts(course)

    def _of_rows(self, course: Course, step: int, kinds: Sequence[Kind]) -> Expected:
        lanes = int(course.drawn.active[step])
        rows: list[int] = course.drawn.rows[step, :lanes].tolist()
        return Expected(clinics=course.begin.clinics[:lanes], rows=rows, payload=kinds)

    def _of_batch(self, course: Course, step: int) -> Expected:
        return self._of_rows(course, step, protocol_at(self._job, course.begin.clinics[0]).batch_up[0])

    def _of_parts(self, course: Course) -> Expected:
        job, clinics = self._job, course.begin.clinics
        lost = job.attendance(course.begin.server_round).loses(clinics, course.last)
        done = [max(0, min(course.last, job.steps(k)) - course.begin.first) for k in clinics]
        protocol = protocol_at(job, clinics[0])
        parts = protocol.clinic_parts if job.dp is not None else ()
        noised = {part: done for part in parts if part not in {*job.frozen, *protocol.counted_before}}
        crossing = {kind for kinds in protocol.batch_up for kind in kinds}
        noised |= {kind: done if kind in crossing else [0] * len(done) for kind in job.protected_rows}
        return Expected(clinics=clinics, parts=() if lost else parts_that_cross(job), noised=noised)


def parts_that_cross(job: Job) -> tuple[Kind, ...]:
    """Return the kinds of parameters that cross at the end of a clinic's turn."""
    if job.protocol.movement == "handed-on":
        return Kind.MODEL, Kind.OPTIMIZER
    if not job.protocol.crosses:
        return ()
    if job.compression is not None:
        return (Kind.UPDATE,)
    return (Kind.MODEL,) if job.secure is None else (Kind.MASKED,)


def expected_of_whole(
    job: Job, server_round: int, asked: list[int], others: Mapping[str, float] | None = None
) -> Expected:
    """Return what a round of training the whole model is answered with; lost clinics send nothing.

    Parameters
    ----------
    job : Job
    server_round : int
    asked : list of int
    others : mapping of str to float, optional
        Metrics besides the number of records, and how large each may be.
    """
    clinics = job.returning(server_round, asked)
    if not clinics:
        return Expected(clinics=asked)
    noised = {"model": [job.steps(k) for k in clinics]} if job.dp is not None else {}
    if job.secure is not None and job.spec.privacy.unit == "clinic":
        noised |= {what: [1] * len(clinics) for what in job.round_releases}
    metrics = {EXAMPLES: sum(job.sizes[k] for k in clinics), **(others or {})}
    return Expected(clinics=clinics, parts=parts_that_cross(job), noised=noised, metrics=metrics)


def reply_fault(forms: Forms, expected: Expected, reply: Reply) -> str:
    """Say how a reply differs from what an honest one holds; an empty text if it does not."""
    if reply.payload.keys() != set(expected.payload) or reply.parts.keys() != set(expected.parts):
        return "the reply holds other kinds of arrays than were asked for"
    if reply.clinics != expected.clinics:
        return "the reply is for other clinics than were asked"
    if reply.rows != list(expected.rows):
        return "the reply has another number of records than its batch"
    if reply.noised.keys() != expected.noised.keys():
        return "the reply states other things than were asked for"
    for part, steps in expected.noised.items():
        if reply.noised[part] != steps:
            return f"the reply counts other noised steps of {part!r} than were to be done"
    for kind, rows in reply.payload.items():
        if fault := forms.rows_fault(kind, rows, expected.rows, expected.clinics):
            return f"the reply's {str(kind)!r} holds {fault}"
    # Under clinic-level privacy an update that is no number counts as zero, and must not end the run.
    may_diverge = forms.job.spec.privacy.unit == "clinic"
    for kind, named in reply.parts.items():
        one_for_all = kind == Kind.MASKED or forms.job.protocol.averaged_before
        lanes = 1 if one_for_all else len(expected.clinics)
        if fault := forms.parameters_fault(kind, named, lanes, may_diverge=may_diverge, clinics=expected.clinics):
            return f"the reply's {str(kind)!r} holds {fault}"
    return _metrics_fault(reply.metrics, expected.metrics)


def _metrics_fault(found: Mapping[str, float], expected: Mapping[str, float]) -> str:
    if found.keys() != expected.keys():
        return "the reply holds other metrics than were asked for"
    for key, most in expected.items():
        value = found[key]
        if key == EXAMPLES:
            if type(value) is not int or value != most:
                return "the reply tells another number of records than is public"
        elif isinstance(value, list) or not math.isfinite(value):
            return f"the reply's {key!r} is {NOT_FINITE}"
        elif not 0 <= value <= most:
            return f"the reply's {key!r} is out of range"
    return ""


def whose(clinics: Sequence[int]) -> str:
    """Name some clinics, by number, in an error."""
    few = ", ".join(str(k) for k in clinics[:3])
    more = f" and {len(clinics) - 3} others" if len(clinics) > 3 else ""
    return f"clinic{'s' if len(clinics) > 1 else ''} {few}{more}"


def raise_fault(clinics: Sequence[int], fault: str) -> NoReturn:
    """Raise what is wrong with the reply of these clinics."""
    raise (NotFiniteError if NOT_FINITE in fault else ExchangeError)(f"{whose(clinics)}: {fault}")


def hosted_clinics(replies: Mapping[int, Reply], clinics: int) -> dict[int, int]:
    """Return each clinic's node, from what the nodes say that they host.

    Parameters
    ----------
    replies : mapping of int to Reply
        By node, answers to :class:`sim.methods.messages.Hello`.
    clinics : int
        How many there are.

    Raises
    ------
    AbsentError
        If no node hosts a clinic.
    ExchangeError
        If a node says something else, or two host the same clinic.
    """
    home: dict[int, int] = {}
    for node, reply in replies.items():
        if reply.rows or reply.payload or reply.parts or reply.noised or reply.metrics or not reply.clinics:
            raise ExchangeError(f"node {node} does not say which clinics it hosts, or says more")
        for k in reply.clinics:
            if type(k) is not int or not 0 <= k < clinics:
                raise ExchangeError(f"node {node} says that it hosts a clinic that does not exist")
            if k in home:
                raise ExchangeError(f"node {node} says that it hosts clinic {k}, which node {home[k]} hosts")
            home[k] = node
    if len(home) != clinics:
        missing = [k for k in range(clinics) if k not in home]
        them = "it" if len(missing) == 1 else "them"
        raise AbsentError(missing, f"no node hosts {them}, and each of the {clinics} clinics needs one")
    return home
