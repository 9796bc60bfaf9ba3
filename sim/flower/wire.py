"""Messages on the wire: typed messages as Flower's records, and back.

A message holds one array record for each kind, named by the kind (the model is named ``arrays``, as Flower's own
strategies have it), and a config record ``config`` with the other fields; whole models come with a metric record. What
is read is exactly what the type of the message has: nothing may be missing, and nothing may stand beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, NamedTuple

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch import Tensor

from sim.flower.internals import KEY_CLIPPING_NORM, TensorArray, as_tensor, filled, held
from sim.methods.messages import INSTRUCTIONS, PARAMETER_KINDS, Instruction, Kind, Reply

CONFIG, METRICS = "config", "metrics"
CLINICS, ROWS, NOISED = "clinics", "rows", "noised-"
_RECORD_OF = {kind: "arrays" if kind == Kind.MODEL else str(kind) for kind in Kind}
_KIND_OF = {record: kind for kind, record in _RECORD_OF.items()}
_TRAFFIC_OF = {record: str(kind) for record, kind in _KIND_OF.items()}
_KEYS = {"clipping_norm": KEY_CLIPPING_NORM}


class WireError(ValueError):
    """A message is not what its type has; the text quotes no value."""


class _Shape(NamedTuple):
    """What the type of an instruction has on the wire."""

    stated: dict[str, tuple[str, str]]  # By key, the field's name and the type that it states
    needed: frozenset[str]  # The keys that must be there
    arrays: tuple[tuple[str, Kind, bool], ...]  # Name, kind, and whether they must be there


@cache
def _shape(action: str) -> _Shape:
    of = INSTRUCTIONS[action]
    kinds, types = of.kinds(), {each.name: str(each.type) for each in fields(of)}
    needed = {each.name for each in fields(of) if each.default is MISSING and each.default_factory is MISSING}
    keys = {name: _KEYS.get(name, name.replace("_", "-")) for name in types if name not in kinds}
    return _Shape(
        {key: (name, types[name]) for name, key in keys.items()},
        frozenset(key for name, key in keys.items() if name in needed),
        tuple((name, kind, name in needed) for name, kind in kinds.items()),
    )


def array_record(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Wrap tensors for Flower without a copy."""
    return filled(ArrayRecord(), {name: TensorArray(tensor) for name, tensor in tensors.items()})


def tensors_in(record: ArrayRecord) -> dict[str, Tensor]:
    """Return an array record's tensors by name, without a copy where it holds tensors."""
    return {name: as_tensor(array) for name, array in held(record).items()}


def instruct(instruction: Instruction, node_id: int) -> Message:
    """Write an instruction for a node."""
    shape = _shape(instruction.action)
    records: dict[str, Any] = {}
    for name, kind, _ in shape.arrays:
        value = getattr(instruction, name)
        if value is not None:
            records[_RECORD_OF[kind]] = array_record(value if kind in PARAMETER_KINDS else {kind: value})
    stated = {key: getattr(instruction, name) for key, (name, _) in shape.stated.items()}
    records[CONFIG] = filled(ConfigRecord(), {key: value for key, value in stated.items() if value not in (None, [])})
    return Message(filled(RecordDict(), records), node_id, instruction.action)


def instruction_in(message: Message, here: list[int], *, foreign: bool = False) -> Instruction:
    """Read an instruction.

    Parameters
    ----------
    message : Message
    here : list of int
        The clinics of the node, for a foreign message that names none.
    foreign : bool
        Whether a strategy of Flower's sent it, which may state more than is read.

    Raises
    ------
    WireError
        If it is none of its type.
    """
    action = message.metadata.message_type
    shape, content = _shape(action), held(message.content)
    config = content.get(CONFIG)
    stated = held(config) if isinstance(config, ConfigRecord) else {}
    if foreign:
        stated = {CLINICS: here, **{key: value for key, value in stated.items() if key in shape.stated}}
    if not shape.needed <= stated.keys() <= shape.stated.keys():
        raise WireError("it states other things than it should")
    fields_of = {key: of for key, of in shape.stated.items() if key in stated}
    found: dict[str, Any] = {name: _checked(stated[key], kind, key) for key, (name, kind) in fields_of.items()}
    brought = 0
    for name, kind, needed in shape.arrays:
        record = content.get(_RECORD_OF[kind])
        if isinstance(record, ArrayRecord):
            brought += 1
            tensors = tensors_in(record)
            found[name] = tensors if kind in PARAMETER_KINDS else _one(tensors, kind)
        elif needed:
            raise WireError("it brings other arrays than it should")
    if not foreign and len(content) != 1 + brought:
        raise WireError("it brings other arrays than it should")
    return INSTRUCTIONS[action](**found)


def _one(tensors: Mapping[str, Tensor], kind: Kind) -> Tensor:
    if len(tensors) != 1 or kind not in tensors:
        raise WireError(f"its {str(kind)!r} holds the wrong names")
    return tensors[kind]


def _checked(value: Any, kind: str, key: str) -> Any:
    """Return a stated value if it is of its type; all elements of a config record's list are of one type."""
    if kind == "int" and type(value) is int:
        return value
    if kind == "list[int]" and isinstance(value, list) and value and type(value[0]) is int:
        return value
    if kind == "str" and isinstance(value, str):
        return value
    if kind.startswith("float") and type(value) in (int, float):
        return float(value)
    raise WireError(f"its {key!r} is no {'list of integers' if kind == 'list[int]' else kind.partition(' ')[0]}")


def answer(reply: Reply, message: Message) -> Message:
    """Write a reply to an instruction."""
    records: dict[str, Any] = {_RECORD_OF[kind]: array_record({kind: rows}) for kind, rows in reply.payload.items()}
    records |= {_RECORD_OF[kind]: array_record(named) for kind, named in reply.parts.items()}
    config: dict[str, Any] = {CLINICS: reply.clinics}
    if reply.rows:
        config[ROWS] = reply.rows
    for what, steps in reply.noised.items():
        config[f"{NOISED}{what}"] = steps
    records[CONFIG] = filled(ConfigRecord(), config)
    if reply.metrics:
        records[METRICS] = filled(MetricRecord(), reply.metrics)
    return Message(filled(RecordDict(), records), reply_to=message)


def reply_in(message: Message) -> Reply:
    """Read a reply.

    Raises
    ------
    WireError
        If it is none.
    """
    content = held(message.content)
    payload: dict[Kind, Tensor] = {}
    parts: dict[Kind, dict[str, Tensor]] = {}
    metrics: dict[str, Any] = {}
    config: ConfigRecord | None = None
    for name, record in content.items():
        if isinstance(record, ArrayRecord) and name in _KIND_OF:
            kind = _KIND_OF[name]
            if kind in PARAMETER_KINDS:
                parts[kind] = tensors_in(record)
            else:
                payload[kind] = _one(tensors_in(record), kind)
        elif isinstance(record, ConfigRecord) and name == CONFIG:
            config = record
        elif isinstance(record, MetricRecord) and name == METRICS:
            metrics = dict(record)
        else:
            raise WireError("it holds other kinds of arrays than were asked for")
    if config is None:
        raise WireError("it says nothing about itself")
    stated: dict[str, list[int]] = {CLINICS: [], ROWS: []}
    noised: dict[str, list[int]] = {}
    for key, value in held(config).items():
        if not isinstance(value, list) or not all(type(each) is int for each in value[:1]):
            raise WireError("it states other things than were asked for")
        if key in stated:
            stated[key] = value
        elif key.startswith(NOISED):
            noised[key.removeprefix(NOISED)] = value
        else:
            raise WireError("it states other things than were asked for")
    return Reply(**stated, payload=payload, parts=parts, noised=noised, metrics=metrics)


def array_kinds(message: Message) -> Iterable[tuple[str, ArrayRecord]]:
    """Yield the message's array records, by the kinds that traffic knows."""
    for name, record in held(message.content).items():
        if isinstance(record, ArrayRecord):
            yield _TRAFFIC_OF.get(name, name), record
