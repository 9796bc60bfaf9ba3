"""Rows at a cut as a job's messages carry them, by kind: what crosses, of which form, and at which places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from sim.methods.messages import CUT_KINDS, Kind
from sim.tensor.cut_rows import Form
from sim.tensor.rows import unpadded

if TYPE_CHECKING:
    from torch import Tensor

    from sim.methods.job import Job

GRADIENT_OF: Final = {Kind.CUT_GRADIENT: Kind.SMASHED, Kind.TAIL_GRADIENT: Kind.BODY_OUTPUT}
"""The kinds of rows that are gradients, and in which rows."""


def row_shapes(job: Job) -> dict[Kind, tuple[int, ...]]:
    """Return the shape of a record's row at each cut, whatever of it crosses."""
    from sim.tensor.lanes import output_shape

    shape = job.network.input_shape
    if job.protocol.topology == "whole":
        return dict.fromkeys(CUT_KINDS, shape)
    outputs = []
    for part in job.parts:
        shape = output_shape(part, shape)
        outputs.append(shape)
    if job.parties is not None:
        outputs[0] = output_shape(job.parties.head_of(0), (len(job.parties.columns[0]),))
    return {
        **dict.fromkeys((Kind.SMASHED, Kind.CUT_GRADIENT), outputs[0]),
        **dict.fromkeys((Kind.BODY_OUTPUT, Kind.TAIL_GRADIENT), outputs[1]),
    }


def crossing_form(job: Job, kind: str, shape: tuple[int, ...]) -> Form:
    """Return the shape and the element type of a row of a kind as it crosses; noised ones keep their shape."""
    return (shape, "int16") if job.on_grid(kind) else job.cut.form(shape, back=kind in GRADIENT_OF)


def label_form(job: Job) -> Form:
    """Return what a label is when it crosses."""
    return (), "int32" if job.outcome.kind == "amount" else "uint8"


def packed(job: Job, rows: Tensor, sizes: Sequence[int], at: Tensor | None = None) -> Tensor:
    """Return un-noised rows ``[lane, batch, *feature]`` as they cross, without padding.

    Parameters
    ----------
    sizes : sequence of int
        ``[lane]`` rows that are real.
    at : Tensor, optional
        Where a gradient belongs: the places of the values that were sent, see :func:`places_sent`.
    """
    if at is not None:
        rows = unpadded(rows, sizes)
    return unpadded(job.cut.packed(rows, at), sizes)


def unpacked(job: Job, kind: Kind, sent: Tensor, at: Tensor | None = None) -> Tensor:
    """Return rows ``[lane, row, *feature]`` as numbers from what :func:`packed` returned."""
    return job.cut.unpacked(sent, job.row_shapes[kind], at)


def places_sent(job: Job, kind: Kind, sent: Tensor) -> Tensor | None:
    """Return which values of rows were sent, from their message; None where all were."""
    return job.cut.places_sent(sent, job.row_shapes[kind]) if job.cut.sparse else None
