"""The one place that touches Flower's private names.

Checked against flwr 1.41; ``tests/sim/test_flower.py`` says which name moved when a new release breaks one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supercore.differential_privacy import KEY_CLIPPING_NORM as KEY_CLIPPING_NORM
from flwr.supercore.differential_privacy import KEY_NORM_BIT as KEY_NORM_BIT
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from torch import Tensor

from sim.foundation.problems import SutureError

SERVER_NODE_ID = 1
RecordT = TypeVar("RecordT", ArrayRecord, ConfigRecord, MetricRecord, RecordDict)


class TensorArray(Array):
    """An ``Array`` that holds a tensor and encodes it only when its bytes are asked for.

    Within one process a tensor travels as it is; the receiver must not write into it. On a wire it becomes an ordinary
    ``Array``.

    Parameters
    ----------
    tensor : Tensor
        Any shape; detached.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.__dict__["tensor"] = tensor.detach()

    tensor: Tensor

    @property
    def dtype(self) -> str:  # type: ignore[override]
        """Name of the element type, as numpy writes it."""
        return str(self.tensor.dtype).removeprefix("torch.")

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Shape of the tensor."""
        return tuple(self.tensor.shape)

    @property
    def stype(self) -> str:  # type: ignore[override]
        """Flower's name of the encoding."""
        return "numpy.ndarray"

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """The encoded tensor, made anew each time."""
        return Array.from_numpy_ndarray(self.numpy()).data

    def numpy(self) -> Any:
        """Return the values as a numpy array."""
        return self.tensor.cpu().numpy()

    def __reduce__(self) -> tuple[Any, ...]:
        return Array, (self.dtype, self.shape, self.stype, self.data)


# Flower writes the class name into the encoded object and looks it up when reading.
TensorArray.__qualname__ = Array.__qualname__


def filled(record: RecordT, values: Mapping[str, Any]) -> RecordT:
    """Fill an empty record of Flower's with values whose types are known to be right, without checking each again."""
    record.__dict__["_data"].update(values)
    return record


def held(record: ArrayRecord | ConfigRecord | RecordDict) -> dict[str, Any]:
    """Return what a record of Flower's holds as a plain dictionary, which is read several times as fast."""
    values: dict[str, Any] = record.__dict__["_data"]
    return values


def as_tensor(array: Array) -> Tensor:
    """Return an array's values as a tensor, without a copy where it holds one."""
    return array.tensor if isinstance(array, TensorArray) else torch.from_numpy(array.numpy())


def identify_server(run_id: int) -> None:
    """Say that the code which runs from here on is the server's, as Flower's runtime would."""
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = SERVER_NODE_ID
    TaskIdentity.task_id = run_id


def stamp(message: Message, message_id: str) -> None:
    """Give a message the identifier that Flower's link would."""
    message.metadata.__dict__["_message_id"] = message_id


def empty_run(run_id: int) -> Run:
    """Return run information that carries nothing but the identifier."""
    return Run.create_empty(run_id)


def quiet() -> None:
    """Leave Flower's log to errors; the study's own display tells the rest."""
    logging.getLogger("flwr").setLevel(logging.ERROR)


def told_in_one_line() -> None:
    """Let Flower's log tell errors of ours by their text alone, without a traceback."""
    logging.getLogger("flwr").addFilter(_without_traceback)


def _without_traceback(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, SutureError):
        record.msg, record.args, record.exc_info = str(error), (), None
    return True


def unavailable(reply: Message) -> bool:
    """Whether a reply is only the SuperLink's word that none came, or that the node is gone."""
    lost = ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE, ErrorCode.NODE_UNAVAILABLE
    return reply.has_error() and reply.error.code in lost
