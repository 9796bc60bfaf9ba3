"""What the arrays of a message may be: names, shapes, element types and ranges, by which both sides check each other.

Each function returns what is wrong, in words that quote no value, or an empty text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from sim.methods.job import Job
from sim.methods.protocol import CUT_KINDS, ROW_KINDS
from sim.models import Parameters, Part
from sim.tensor.lanes import forward

NOT_FINITE = "a value that is not finite"
"""Stands in every error that a diverged model may have caused."""

_NEVER_NEGATIVE = re.compile(r":square/|:steps$|(^|\.)running_var$")


class Form(NamedTuple):
    """What one array of parameters or of optimiser state is.

    Attributes
    ----------
    shape : tuple of int
        Without the clinic axis.
    dtype : torch.dtype
    negative : bool
        Whether its values may lie below 0.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    negative: bool


@dataclass(frozen=True, eq=False)
class Forms:
    """The arrays of a job's messages.

    Attributes
    ----------
    job : Job
    shared, optimizer : dict of str to Form
        By name: the parameters that cross between server and clinics, and their optimiser's state.
    row_shapes : dict of str to tuple of int
        By kind of rows: the shape of one record's.
    row_dtypes : dict of str to torch.dtype
        By kind of rows, as they cross.
    """

    job: Job
    shared: dict[str, Form]
    optimizer: dict[str, Form]
    row_shapes: dict[str, tuple[int, ...]]
    row_dtypes: dict[str, torch.dtype]

    @classmethod
    def of(cls, job: Job) -> Forms:
        """Return the forms of a job's arrays, found out once for each of the jobs in progress."""
        found = _FORMS.get(id(job))
        if found is None or found.job is not job:
            if len(_FORMS) >= JOBS_IN_PROGRESS:
                _FORMS.clear()
            values = {name: value for name, value in _parameters(job).items() if name not in job.apart}
            state = job.initial_optimizer_state(_parameters(job))
            shapes = {kind: row_shape(job, kind) for kind in ROW_KINDS}
            dtypes = {kind: expected_dtype(job, kind) for kind in ROW_KINDS}
            found = _FORMS[id(job)] = cls(job, forms_of(values), forms_of(state), shapes, dtypes)
        return found


JOBS_IN_PROGRESS = 16
_FORMS: dict[int, Forms] = {}


def _parameters(job: Job) -> Parameters:
    """Return the parameters of the clinic's parts, ``[1, *shape]``, without values."""
    parts = (job.part(part) for part in job.protocol.clinic_parts)
    return {n: torch.empty(1, *shape, device="meta") for part in parts for n, shape in part.shapes().items()}


def forms_of(values: Mapping[str, Tensor]) -> dict[str, Form]:
    """Return the forms of arrays ``[lane, *shape]``."""
    return {n: Form(tuple(v.shape[1:]), v.dtype, not _NEVER_NEGATIVE.search(n)) for n, v in values.items()}


def row_shape(job: Job, kind: str) -> tuple[int, ...]:
    """Return the shape of one record's row of a kind."""
    if kind in ("labels", "norms", "clip-factors"):
        return ()
    if kind == "records" or job.protocol.topology == "whole":
        return job.network.input_shape
    return _output_shapes(job.parts, job.network.input_shape)[1 if kind in ("body-output", "tail-gradient") else 0]


@lru_cache(maxsize=16)
def _output_shapes(parts: tuple[Part, ...], input_shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    x, shapes = torch.empty(1, 1, *input_shape, device="meta"), []
    for part in parts:
        x = forward(part, {name: torch.empty(1, *s, device="meta") for name, s in part.shapes().items()}, x)
        shapes.append(tuple(x.shape[2:]))
    return tuple(shapes)


def expected_dtype(job: Job, kind: str) -> torch.dtype:
    """Return the element type of a kind of rows as they cross; those of 16 bits travel as integers."""
    if kind == "labels":
        return torch.uint8
    if kind not in CUT_KINDS:
        return torch.float32
    return torch.int16 if job.crossing(kind) != torch.float32 else torch.float32


def parameters_fault(
    found: Mapping[str, Tensor], forms: Mapping[str, Form], lanes: int, *, may_diverge: bool = False
) -> str:
    """Say what is wrong with parameters or optimiser state, ``[lane, *shape]`` each."""
    if found.keys() != forms.keys():
        return "the wrong names"
    for name, value in found.items():
        shape, dtype, negative = forms[name]
        if value.shape != (lanes, *shape):
            return "an array of the wrong shape"
        if value.dtype != dtype:
            return "an array of the wrong element type"
        if not may_diverge and not finite(value):
            return NOT_FINITE
        if not negative and bool((value < 0).any()):
            return "a negative value"
    return ""


def rows_fault(job: Job, kind: str, found: Mapping[str, Tensor], rows: Sequence[int]) -> str:
    """Say what is wrong with rows of a kind, ``[lane, batch, *feature]``, of so many records ``[lane]``."""
    if len(found) != 1 or kind not in found:
        return "the wrong names"
    forms, value, widest = Forms.of(job), found[kind], max(rows)
    shape = value.shape
    if len(shape) < 2 or shape[0] != len(rows) or shape[2:] != forms.row_shapes[kind]:
        return "an array of the wrong shape"
    if shape[1] != widest:
        return "an array of the wrong shape"
    if value.dtype != forms.row_dtypes[kind]:
        return "an array of the wrong element type"
    return _range_fault(job, kind, value) if value.numel() else ""


def _range_fault(job: Job, kind: str, value: Tensor) -> str:
    if kind == "labels":
        return "" if int(value.max()) < max(2, job.network.outputs) else "a label that is no class"
    if kind == "norms":  # an infinite one says that the record is not to count
        return "" if bool((value >= 0).all()) else "a norm that is negative or no number"
    if kind == "clip-factors":
        return "" if bool(((value >= 0) & (value <= 1)).all()) else "a factor outside its range"
    if job.on_grid(kind):
        return ""
    if value.dtype == torch.int16:
        return "" if bool(value.contiguous().view(job.cut_dtype).isfinite().all()) else NOT_FINITE
    return "" if finite(value) else NOT_FINITE


def finite(value: Tensor) -> bool:
    """Whether all values are finite; their sum, where it is finite itself, tells so at once."""
    return math.isfinite(value.sum().item()) or bool(value.isfinite().all())


def sendable(job: Job, kind: str, rows: Tensor) -> Tensor:
    """Return rows as their sender may let them go: where records or clinics are protected, no single one ends the run.

    What is not finite becomes 0, a norm infinite: its record does not count.
    """
    protected = job.dp is not None or job.rows is not None or job.spec.privacy.unit == "clinic"
    if not protected or not rows.is_floating_point():
        return rows
    if kind == "norms":
        return torch.nan_to_num(rows, nan=math.inf, posinf=math.inf)
    return torch.nan_to_num(rows, nan=0.0, posinf=0.0, neginf=0.0)
