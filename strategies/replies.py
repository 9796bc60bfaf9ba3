"""Every reply is held against what was asked: these clinics, these kinds, names, shapes, ranges and counts.

A clinic may be faulty or hostile. What it answers is used only if it is what an honest clinic could have answered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from types import MappingProxyType
from typing import Any, NamedTuple

from flwr.app import ConfigRecord, Message, MetricRecord

from sim.flower.internals import KEY_NORM_BIT, held
from sim.flower.messages import MODEL, NOISED, OPTIMIZER, config_of, tensors_in
from sim.foundation.problems import SutureError
from sim.methods.forms import NOT_FINITE, Form, Forms, parameters_fault, rows_fault
from sim.methods.job import Job

OTHER_METRICS = {"train_loss": math.inf, KEY_NORM_BIT: 1.0}
"""What an imported strategy may be told besides the number of records, and how large it may be."""


class ExchangeError(SutureError, RuntimeError):
    """A node did not answer, or answered with an error or with what it was not asked."""


class NotFiniteError(ExchangeError):
    """A node answered with numbers that are none: the model has diverged, or the clinic is faulty."""


@dataclass(frozen=True)
class Course:
    """A turn as the server knows it.

    Attributes
    ----------
    clinics : list of int
        Of one node, in lane order.
    server_round, first, last : int
        The round, the turn's first batch and the one after its last.
    rows : list of list of int
        ``[step][lane]`` records in each batch.
    active : list of int
        ``[step]`` lanes at work.
    """

    clinics: list[int]
    server_round: int
    first: int
    last: int
    rows: list[list[int]]
    active: list[int]

    @classmethod
    def of(cls, job: Job, config: Mapping[str, Any]) -> Course:
        """Return the turn that an instruction to begin opens."""
        clinics, server_round, first, steps = (config[key] for key in ("clinics", "server-round", "first", "steps"))
        drawn = job.batches(server_round, clinics)
        last = min(first + steps, len(drawn.active))
        return cls(clinics, server_round, first, last, drawn.rows.tolist(), drawn.active.tolist())


class Expected(NamedTuple):
    """What an honest reply holds.

    Attributes
    ----------
    clinics : list of int
    rows : list of int
        Real rows in each lane, for row-wise kinds.
    row_kinds : tuple of str
    parameters : dict of str to dict of str to Form
        By kind and name.
    noised : dict of str to list of int
        By part or kind of rows, how many noised steps each clinic did.
    examples : bool
        Whether the number of training records is told too.
    """

    clinics: list[int]
    rows: Sequence[int] = ()
    row_kinds: Sequence[str] = ()
    parameters: Mapping[str, Mapping[str, Form]] = MappingProxyType({})
    noised: Mapping[str, list[int]] = MappingProxyType({})
    examples: bool = False


class Replies:
    """What the nodes have been asked and not answered yet.

    Parameters
    ----------
    job : Job
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._asked: dict[int, tuple[str, Mapping[str, Any]]] = {}
        self._turns: dict[tuple[int, str], Course] = {}

    def expect(self, node: int, message_type: str, config: Mapping[str, Any]) -> None:
        """Note that a node is asked something, by what the message says of itself."""
        self._asked[node] = message_type, config

    def received(self, replies: Iterable[Message]) -> list[Message]:
        """Return the replies to all that was asked, sorted by node.

        Raises
        ------
        ExchangeError
            If one is missing, an error, or no answer to what its node was asked.
        """
        found = in_order(replies)
        for node, reply in found:
            asked = self._asked.pop(node, None)
            if asked is None:
                raise ExchangeError(f"node {node} answers what it was not asked")
            expected = self._expected(node, *asked)
            _refuse(expected.clinics, lambda: reply_fault(self._job, expected, reply))  # noqa: B023 - called at once
        if self._asked:
            raise ExchangeError(f"{len(self._asked)} of {len(found) + len(self._asked)} nodes did not answer")
        return [reply for _, reply in found]

    def _expected(self, node: int, kind: str, config: Mapping[str, Any]) -> Expected:
        if kind in ("train", "train.alone"):
            return self._of_whole(config["server-round"], config["clinics"])
        if kind == "train.records":
            return self._of_upload(config["clinics"])
        key = node, config["turn"]
        if kind == "train.begin":
            course = Course.of(self._job, config)
            if course.first == course.last:
                return Expected(course.clinics)
            self._turns[key] = course
            return self._of_batch(course, course.first)
        course, step = self._turns[key], config["step"]
        if kind == "train.tail":
            return self._of_rows(course, step, ("tail-gradient",))
        if kind == "train.step" and self._job.joint:
            return self._of_rows(course, step, ("norms",))
        if step + 1 < course.last:
            return self._of_batch(course, step + 1)
        del self._turns[key]
        return self._of_parts(course)

    def _of_rows(self, course: Course, step: int, kinds: Sequence[str]) -> Expected:
        lanes = course.active[step]
        return Expected(course.clinics[:lanes], course.rows[step][:lanes], kinds)

    def _of_batch(self, course: Course, step: int) -> Expected:
        return self._of_rows(course, step, self._job.protocol.batch_up[0])

    def _of_parts(self, course: Course) -> Expected:
        job, clinics = self._job, course.clinics
        attendance = job.attendance(course.server_round)
        lost = not any(attendance.returns(k) or course.last < attendance.batches_of(k) for k in clinics)
        done = [max(0, min(course.last, job.steps(k)) - course.first) for k in clinics]
        parts = job.protocol.clinic_parts if job.dp is not None else ()
        noised = {part: done for part in parts if part not in job.frozen}
        crossing = {kind for kinds in job.protocol.batch_up for kind in kinds}
        noised |= {kind: done if kind in crossing else [0] * len(done) for kind in job.protected_rows}
        kinds: dict[str, Mapping[str, Form]] = {}
        if job.protocol.crosses and not lost:
            kinds[MODEL] = Forms.of(job).shared
        if job.protocol.movement == "handed-on" and not lost:
            kinds[OPTIMIZER] = Forms.of(job).optimizer
        return Expected(clinics, parameters=kinds, noised=noised)

    def _of_whole(self, server_round: int, asked: list[int]) -> Expected:
        job = self._job
        clinics = job.returning(server_round, asked)
        if not clinics:
            return Expected(asked)
        kinds = {MODEL: Forms.of(job).shared} if job.protocol.crosses else {}
        noised = {"model": [job.steps(k) for k in clinics]} if job.dp is not None else {}
        return Expected(clinics, parameters=kinds, noised=noised, examples=True)

    def _of_upload(self, clinics: list[int]) -> Expected:
        job = self._job
        noised = {kind: [1] * len(clinics) for kind in job.protected_rows if kind in job.protocol.once_up}
        return Expected(clinics, [job.sizes[k] for k in clinics], job.protocol.once_up, noised=noised)


def reply_fault(job: Job, expected: Expected, reply: Message, metrics: Sequence[str] = ()) -> str:
    """Say how a reply differs from what an honest one holds; an empty text if it does not."""
    content = held(reply.content)
    if len(content) != 1 + len(expected.row_kinds) + len(expected.parameters) + expected.examples:
        return "the reply holds other kinds of arrays than were asked for"
    config = content.get("config")
    if not isinstance(config, ConfigRecord):
        return "the reply says nothing about itself"
    if fault := _config_fault(expected, held(config)):
        return fault
    for kind in expected.row_kinds:
        if kind not in content:
            return f"the reply lacks {kind!r}"
        if fault := rows_fault(job, kind, tensors_in(content[kind]), expected.rows):
            return f"the reply's {kind!r} holds {fault}"
    for kind, forms in expected.parameters.items():
        if kind not in content:
            return f"the reply lacks {kind!r}"
        # Under clinic-level privacy an update that is no number counts as zero, and must not end the run.
        may_diverge = job.spec.privacy.unit == "clinic"
        if fault := parameters_fault(tensors_in(content[kind]), forms, len(expected.clinics), may_diverge=may_diverge):
            return f"the reply's {kind!r} holds {fault}"
    return _metrics_fault(content.get("metrics"), job, expected.clinics, metrics) if expected.examples else ""


def _config_fault(expected: Expected, config: Mapping[str, object]) -> str:
    if len(config) != 1 + bool(expected.rows) + len(expected.noised):
        return "the reply states other things than were asked for"
    if not _are(config.get("clinics"), expected.clinics):
        return "the reply is for other clinics than were asked"
    if expected.rows and not _are(config.get("rows"), expected.rows):
        return "the reply has another number of records than its batch"
    for part, steps in expected.noised.items():
        if not _are(config.get(f"{NOISED}{part}"), steps):
            return f"the reply counts other noised steps of {part!r} than were to be done"
    return ""


def _are(found: object, wanted: Sequence[int]) -> bool:
    """Whether what a config record states is these integers; all elements of its lists are of one type."""
    return isinstance(found, list) and found == wanted and type(found[0]) is int


def _metrics_fault(metrics: object, job: Job, clinics: Sequence[int], others: Sequence[str]) -> str:
    """Say what is wrong with the metrics that come with a whole model: the number of records, and others if named."""
    if not isinstance(metrics, MetricRecord) or set(metrics) != {"num-examples", *others}:
        return "the reply holds other metrics than were asked for"
    told = metrics["num-examples"]
    if type(told) is not int or told != sum(job.sizes[k] for k in clinics):
        return "the reply tells another number of records than is public"
    for key in others:
        value = metrics[key]
        if isinstance(value, list) or not math.isfinite(value):
            return f"the reply's {key!r} is {NOT_FINITE}"
        if not 0 <= value <= OTHER_METRICS[key]:
            return f"the reply's {key!r} is out of range"
    return ""


def whose(clinics: Sequence[int]) -> str:
    """Name some clinics, by number, in an error."""
    few = ", ".join(str(k) for k in clinics[:3])
    more = f" and {len(clinics) - 3} others" if len(clinics) > 3 else ""
    return f"clinic{'s' if len(clinics) > 1 else ''} {few}{more}"


def in_order(replies: Iterable[Message]) -> list[tuple[int, Message]]:
    """Return node and reply of each, sorted by node.

    Raises
    ------
    ExchangeError
        If one is an error.
    """
    found = sorted(((reply.metadata.src_node_id, reply) for reply in replies), key=itemgetter(0))
    for node, reply in found:
        if reply.has_error():
            reason = reply.error.reason
            kind = NotFiniteError if reason is not None and NOT_FINITE in reason else ExchangeError
            raise kind(f"node {node}: {reason}")
    return found


def _refuse(clinics: Sequence[int], find_fault: Callable[[], str]) -> None:
    """Raise what is wrong with the reply of these clinics, or that it cannot be read."""
    try:
        fault = find_fault()
    except Exception as error:
        raise ExchangeError(f"{whose(clinics)}: the reply cannot be read ({type(error).__name__})") from None
    if fault:
        raise (NotFiniteError if NOT_FINITE in fault else ExchangeError)(f"{whose(clinics)}: {fault}")


def model_replies(
    job: Job, server_round: int, asked: Sequence[tuple[int, int]], replies: Iterable[Message]
) -> list[Message]:
    """Return the sound replies to an imported strategy, which may come with metrics; lost clinics' are left out.

    Parameters
    ----------
    job : Job
    server_round : int
    asked : sequence of (int, int)
        Node and clinic.
    replies : iterable of Message

    Raises
    ------
    ExchangeError
        If one is missing, an error, or not what an honest clinic could answer.
    """
    found, sound = in_order(replies), []
    if [node for node, _ in found] != sorted(node for node, _ in asked):
        raise ExchangeError(f"{len(found)} replies came from the {len(asked)} nodes that were asked; one each is due")
    clinic_of = dict(asked)
    for node, reply in found:
        k = clinic_of[node]
        comes_back = bool(job.returning(server_round, [k]))
        _refuse([k], lambda: _model_fault(job, reply, k, comes_back))  # noqa: B023 - called at once
        if comes_back:
            sound.append(reply)
    return sound


def _model_fault(job: Job, reply: Message, clinic: int, comes_back: bool) -> str:
    metrics = reply.content.get("metrics")
    others = ["train_loss"] if job.dp is None else []
    if isinstance(metrics, MetricRecord) and KEY_NORM_BIT in metrics:
        others.append(KEY_NORM_BIT)
    noised = {"model": [job.steps(clinic)]} if comes_back and job.dp is not None else {}
    kinds = {MODEL: Forms.of(job).shared} if comes_back else {}
    expected = Expected([clinic], parameters=kinds, noised=noised, examples=comes_back)
    return reply_fault(job, expected, reply, others)


def hosted_clinics(replies: Iterable[Message], asked: Sequence[int], clinics: int) -> dict[int, int]:
    """Return each clinic's node, from what the nodes that were asked say that they host.

    Raises
    ------
    ExchangeError
        If a node did not answer, said something else, or the nodes do not host every clinic exactly once.
    """
    home: dict[int, int] = {}
    found = in_order(replies)
    if sorted(asked) != [node for node, _ in found]:
        raise ExchangeError(f"{len(found)} replies came from the {len(asked)} nodes that were asked; one each is due")
    for node, reply in found:
        config = config_of(reply)
        told = held(config).get("clinics")
        if len(reply.content) != 1 or len(config) != 1 or not isinstance(told, list):
            raise ExchangeError(f"node {node} does not say which clinics it hosts, or says more")
        for k in told:
            if type(k) is not int or not 0 <= k < clinics:
                raise ExchangeError(f"node {node} says that it hosts a clinic that does not exist")
            if k in home:
                raise ExchangeError(f"node {node} says that it hosts clinic {k}, which node {home[k]} hosts")
            home[k] = node
    if len(home) != clinics:
        missing = [k for k in range(clinics) if k not in home]
        raise ExchangeError(f"no node hosts {whose(missing)}: the nodes do not host each of the {clinics} clinics once")
    return home
