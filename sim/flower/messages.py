"""What messages hold: array records named by what crosses, and a config record that says for whom.

Every array has a leading clinic axis. Parameters are ``[1, *shape]`` on the way down (the same for every clinic of the
node) and ``[clinic, *shape]`` on the way up. Row-wise kinds are ``[clinic, batch, *feature]``, padded, with the rows
that are real in the config. The record ``arrays`` is the model, as Flower's own strategies name it.
"""

from __future__ import annotations

from collections.abc import Mapping

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from torch import Tensor

from sim.flower.internals import TensorArray, as_tensor, filled

MODEL = "arrays"
OPTIMIZER = "optimizer"
NOISED = "noised-"
"""Begins the config keys that say, part by part, how many gradients each clinic clipped and noised."""
ConfigValue = int | float | str | list[int] | list[float] | list[str]


def content(kinds: Mapping[str, Mapping[str, Tensor]], config: Mapping[str, ConfigValue]) -> RecordDict:
    """Build a message's content.

    Parameters
    ----------
    kinds : mapping of str to mapping of str to Tensor
        Array records by kind, tensors by name.
    config : mapping of str to scalar or list
        Becomes the record ``config``; ``clinics`` names the clinics in lane order, ``rows`` the real rows of each.

    Returns
    -------
    RecordDict
    """
    records: dict[str, ArrayRecord | ConfigRecord] = {kind: array_record(named) for kind, named in kinds.items()}
    return filled(RecordDict(), {**records, "config": filled(ConfigRecord(), config)})


def array_record(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Wrap tensors for Flower without a copy."""
    return filled(ArrayRecord(), {name: TensorArray(tensor) for name, tensor in tensors.items()})


def tensors_in(record: ArrayRecord) -> dict[str, Tensor]:
    """Return an array record's tensors by name, without a copy where it holds tensors."""
    return {name: as_tensor(array) for name, array in record.items()}


def tensors(message: Message, kind: str) -> dict[str, Tensor]:
    """Return a message's tensors of one kind by name."""
    record = message.content[kind]
    if not isinstance(record, ArrayRecord):
        raise TypeError(f"{kind!r} in a {message.metadata.message_type!r} message is no array record")
    return tensors_in(record)


def array_kinds(message: Message) -> list[str]:
    """Return the names of the message's array records."""
    return [kind for kind, record in message.content.items() if isinstance(record, ArrayRecord)]


def config_of(message: Message) -> ConfigRecord:
    """Return the message's config record, empty where it has none."""
    record = message.content.get("config")
    return record if isinstance(record, ConfigRecord) else ConfigRecord()


def integers(config: ConfigRecord, key: str) -> list[int]:
    """Return a list of integers out of a config record, empty where it is absent."""
    values = config[key] if key in config else []  # noqa: SIM401 - the mapping's own ``get`` takes three times as long
    return list(map(int, values)) if isinstance(values, list) else []


def integer(config: ConfigRecord, key: str) -> int:
    """Return one integer out of a config record."""
    value = config[key]
    if not isinstance(value, int):
        raise TypeError(f"{key!r} in a message is no integer")
    return value


def number(config: ConfigRecord, key: str) -> float:
    """Return one number out of a config record."""
    value = config[key]
    if not isinstance(value, int | float):
        raise TypeError(f"{key!r} in a message is no number")
    return float(value)
