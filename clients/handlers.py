"""Which function answers which instruction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from clients import records, split, whole
from clients.admission import RefusedError
from sim.methods.messages import (
    Begin,
    Clip,
    Close,
    Hello,
    Instruction,
    Open,
    Reply,
    Step,
    Tail,
    Train,
    TrainAlone,
    Upload,
)
from sim.methods.secure_sum import DivergedUpdateError
from sim.methods.workplace import Workplace

HANDLERS: Final[dict[type[Instruction], Callable[[Any, Workplace], Reply]]] = {
    Hello: records.hello,
    Upload: records.upload,
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
