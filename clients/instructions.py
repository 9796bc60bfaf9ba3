"""Every instruction is held against the plan before a clinic answers: the server may be faulty or hostile.

A clinic answers each batch of each round once, never more of them than were planned, and only for what its part in the
strategy asks. The node's state holds one number a clinic: up to which round and batch it has answered or promised to.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from torch import Tensor

from clients.session import Session
from sim.flower.internals import KEY_CLIPPING_NORM, held
from sim.flower.messages import MODEL, OPTIMIZER, array_kinds, config_of, number, tensors, tensors_in
from sim.methods.forms import Forms, parameters_fault, rows_fault
from sim.methods.job import Job
from sim.methods.node_group import NodeGroup

ANSWERED = "answered"
ROUND = 2**32
"""An answer's place is round * ROUND + batch."""


class RefusedError(ValueError):
    """An instruction is not what the plan foresees; the text quotes no value, not even the server's."""


def records_asked(message: Message, context: Context, job: Job, group: NodeGroup) -> None:
    """Admit the one request for records, or for rows behind a public head."""
    _demand(bool(job.protocol.once_up), "no records leave a clinic in this strategy")
    clinics = list(group.clinics)
    _demand(_clinics(message, job, group) == clinics, "it asks for other clinics than are here")
    _only(message, ("clinics",), (MODEL,) if job.protocol.clinic_parts else ())
    if job.protocol.clinic_parts:
        _parameters(message, MODEL, job)
    answered = _answered(context, group)
    _demand(not any(answered), "the records were asked for before")
    answered[:] = [ROUND] * len(clinics)


def training_asked(message: Message, context: Context, job: Job, group: NodeGroup, *, alone: bool = False) -> list[int]:
    """Admit a round of training at the clinic; return the clinics that are to take part, in lane order."""
    _demand(job.protocol.topology == "whole" and job.alone == alone, "this strategy does not ask for that")
    _demand(bool(job.protocol.clinic_parts), "this strategy does not train at the clinic")
    config = config_of(message)
    clinics = _clinics(message, job, group) if "clinics" in config or not job.imported else list(group.clinics)
    server_round = _round(message, job, clinics)
    if job.imported:
        _demand(MODEL in array_kinds(message), "it brings no model")
        for key in {KEY_CLIPPING_NORM, "proximal-mu"} & set(config):
            _demand(0 <= number(config, key) < float("inf"), f"its {key!r} is out of range")
    else:
        near = ("proximal-mu",) if job.spec.strategy.name == "fedprox" else ()
        _only(message, ("clinics", "server-round", *near), () if alone else (MODEL,))
        _demand(
            not near or number(config, *near) == job.spec.strategy.proximal_mu, "its 'proximal-mu' is not the plan's"
        )
    if not alone:
        _parameters(message, MODEL, job)
    answered = _answered(context, group)
    places = _places(group, clinics)
    _demand(all(answered[place] < server_round * ROUND for place in places), "the round was answered before")
    for place in places:
        answered[place] = server_round * ROUND
    return clinics


def turn_asked(message: Message, context: Context, job: Job, group: NodeGroup) -> list[int]:
    """Admit the beginning of a turn; return its clinics, in lane order. All its batches are answered from then on."""
    _demand(bool(job.protocol.batch_up), "this strategy has no turns")
    clinics = _clinics(message, job, group)
    server_round = _round(message, job, clinics)
    config = config_of(message)
    first, steps, name = _whole(config, "first"), _whole(config, "steps"), config["turn"]
    crosses, handed_on = job.protocol.crosses, job.protocol.movement == "handed-on"
    _only(message, ("clinics", "server-round", "turn", "first", "steps"), _begin_kinds(job))
    own_turn = len(clinics) == 1 and name == f"clinic-{clinics[0]}"
    _demand(own_turn or name == "round", "its turn has another name than a turn has")
    for turn in ("round", *(f"clinic-{k}" for k in clinics)):
        _demand(not _takes_part(context, turn, clinics), "a clinic's turn is open")
    attendance, by_mini_batch = job.attendance(server_round), handed_on and job.by_mini_batch
    for k in clinics:
        batches = attendance.batches_of(k)
        if by_mini_batch:
            _demand(steps == 1 and 0 <= first < batches, "its batches are not the plan's")
        else:
            _demand(first == 0 and steps >= 0 and min(steps, job.steps(k)) == batches, "its batches are not the plan's")
    if crosses:
        _parameters(message, MODEL, job)
    if handed_on:
        fault = parameters_fault(tensors(message, OPTIMIZER), Forms.of(job).optimizer, 1)
        _demand(not fault, f"its {OPTIMIZER!r} holds {fault}")
    answered, places = _answered(context, group), _places(group, clinics)
    for place in places:
        follows = first and answered[place] == server_round * ROUND + first
        _demand(bool(follows) or (not first and answered[place] < server_round * ROUND), "a batch was answered before")
    for place, k in zip(places, clinics, strict=True):
        answered[place] = server_round * ROUND + min(first + steps, job.steps(k))
    return clinics


def open_turn(message: Message, context: Context) -> str:
    """Return the name of the open turn that a message belongs to."""
    config = held(message.content).get("config")
    name = held(config).get("turn") if isinstance(config, ConfigRecord) else None
    _demand(isinstance(name, str) and f"{name}.turn" in held(context.state), "no such turn is open")
    return str(name)


def rows_asked(message: Message, session: Session, asked: str, kind: str) -> Tensor:
    """Admit the next message of a batch, and return the rows that it brings."""
    job = session.job
    order = _order(job.protocol.topology, job.joint)
    _demand(order[session.due] == asked, "it is not the turn's next message")
    content = held(message.content)
    config = content.get("config")
    if not isinstance(config, ConfigRecord) or len(content) != 2:
        raise RefusedError("it brings other arrays than it should")
    stated = held(config)
    _demand(len(stated) == 4, "it states other things than it should")
    _demand(stated.get("step") == session.step, "it is for another batch than the one in flight")
    _demand(stated.get("clinics") == session.clinics[: session.lanes], "it is for other clinics than the turn's")
    _demand(stated.get("rows") == session.rows, "it is for other rows than the batch has")
    brought = content.get(kind)
    if not isinstance(brought, ArrayRecord):
        raise RefusedError("it brings other arrays than it should")
    found = tensors_in(brought)
    if fault := rows_fault(job, kind, found, session.rows):
        raise RefusedError(f"its {kind!r} holds {fault}")
    if len(order) > 1:
        session.due = (session.due + 1) % len(order)
        session.record["due"] = session.due
    return found[kind]


@lru_cache(maxsize=8)
def _order(topology: str, joint: bool) -> tuple[str, ...]:
    """Return the messages of one batch, in order."""
    return (*(("tail",) if topology == "u-shaped" else ()), "step", *(("clip",) if joint else ()))


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise RefusedError(otherwise)


def _only(message: Message, keys: Sequence[str], kinds: Sequence[str]) -> None:
    """Demand that a message holds these keys and kinds of arrays and no others."""
    config, content = held(config_of(message)), held(message.content)
    _demand(config.keys() == set(keys), "it states other things than it should")
    brings = all(isinstance(content.get(kind), ArrayRecord) for kind in kinds)
    _demand(brings and len(content) == len(kinds) + 1, "it brings other arrays than it should")


def _begin_kinds(job: Job) -> tuple[str, ...]:
    kinds = (MODEL,) if job.protocol.crosses else ()
    return (*kinds, OPTIMIZER) if job.protocol.movement == "handed-on" else kinds


def _parameters(message: Message, kind: str, job: Job) -> None:
    fault = parameters_fault(tensors(message, kind), Forms.of(job).shared, 1)
    _demand(not fault, f"its {kind!r} holds {fault}")


def _whole(config: ConfigRecord, key: str) -> int:
    value = held(config).get(key)
    if type(value) is not int:
        raise RefusedError(f"its {key!r} is no integer")
    return value


def _clinics(message: Message, job: Job, group: NodeGroup) -> list[int]:
    told = held(config_of(message)).get("clinics")
    if not isinstance(told, list) or set(map(type, told)) != {int}:
        raise RefusedError("it names no clinics")
    _demand(len(set(told)) == len(told), "it names a clinic twice")
    _places(group, told)
    return job.in_lane_order(told)


def _round(message: Message, job: Job, clinics: Iterable[int]) -> int:
    server_round = _whole(config_of(message), "server-round")
    _demand(1 <= server_round <= job.spec.train.rounds, "the plan has no such round")
    attendance = job.attendance(server_round)
    _demand(all(attendance.has(k) for k in clinics), "a clinic takes no part in that round")
    return server_round


def _places(group: NodeGroup, clinics: Sequence[int]) -> list[int]:
    """Return where clinics stand among the node's."""
    if len(clinics) == 1:
        _demand(clinics[0] in group.clinics, "a clinic is not here")
        return [group.clinics.index(clinics[0])]
    place = {k: position for position, k in enumerate(group.clinics)}
    _demand(place.keys() >= set(clinics), "a clinic is not here")
    return [place[k] for k in clinics]


def _answered(context: Context, group: NodeGroup) -> list[int]:
    """Return what the node's clinics have answered so far; changed in place."""
    if ANSWERED not in context.state:
        context.state[ANSWERED] = ConfigRecord({ANSWERED: [0] * len(group.clinics)})
    answered: list[int] = held(held(context.state)[ANSWERED])[ANSWERED]
    return answered


def _takes_part(context: Context, turn: str, clinics: Iterable[int]) -> bool:
    """Whether a turn is open that one of these clinics takes part in."""
    record = held(context.state).get(f"{turn}.turn")
    return record is not None and not set(held(record)["clinics"]).isdisjoint(clinics)
