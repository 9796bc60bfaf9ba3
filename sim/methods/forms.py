"""What the arrays of a message may be: names, shapes, element types and ranges, by which both sides check each other.

Each check returns what is wrong, in words that quote no value, or an empty text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from sim.methods.compression import PLACES, VALUES, places_fault
from sim.methods.crossing import GRADIENT_OF, crossing_form, label_form, places_sent
from sim.methods.job import Job
from sim.methods.messages import CUT_KINDS, ROW_KINDS, Kind
from sim.methods.parties import crossing_at
from sim.scenario.outcomes import STEPS
from sim.tensor.rows import NO_NUMBER

NOT_FINITE = "a value that is not finite"
"""Stands in every error that a diverged model may have caused."""

_NEVER_NEGATIVE = re.compile(r":square/|:steps$|(^|\.)running_var$")


Form = tuple[tuple[int, ...], torch.dtype, bool]
"""Of one array of parameters or optimiser state: shape without the lane axis, type, and whether it may lie below 0."""


class Forms:
    """The arrays of a job's messages.

    Attributes
    ----------
    parameters : dict of Kind to dict of str to Form
        By name: the parameters that cross between server and clinics, and their optimiser's state.
    row_shapes : dict of Kind to tuple of int
        The shape of one record's row.
    row_dtypes : dict of Kind to torch.dtype
        As rows cross.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        own = job.shapes(job.protocol.clinic_parts)
        empty = {name: torch.empty(1, *shape, device="meta") for name, shape in own.items()}
        crossing = {name: value for name, value in empty.items() if name not in job.apart}
        state = job.initial_optimizer_state(empty)
        trained = job.shapes(parts_of(job))
        masked = {n: (tuple(shape), torch.int32, True) for n, shape in trained.items() if n in crossing}
        self.parameters = {Kind.MODEL: _forms_of(crossing), Kind.OPTIMIZER: _forms_of(state), Kind.MASKED: masked}
        if job.compression is not None:
            sent = job.compression.forms.items()
            self.parameters[Kind.UPDATE] = {
                n: (shape, getattr(torch, dtype), n != PLACES) for n, (shape, dtype) in sent
            }
        cut_rows = {kind: crossing_form(job, kind, shape) for kind, shape in job.row_shapes.items()}
        self.row_shapes: dict[Kind, tuple[int, ...]] = dict.fromkeys(ROW_KINDS, ())
        self.row_shapes |= {kind: shape for kind, (shape, _) in cut_rows.items()}
        self.row_shapes[Kind.RECORDS] = job.network.input_shape
        self.row_dtypes = dict.fromkeys(ROW_KINDS, torch.float32) | {
            kind: getattr(torch, dtype) for kind, (_, dtype) in cut_rows.items()
        }
        self.row_dtypes[Kind.LABELS] = label_dtype(job)
        largest = {"amount": STEPS, "time": 2 * len(job.outcome.edges), "ordinal": job.network.outputs}
        self._largest_label = largest.get(job.outcome.kind, max(2, job.network.outputs) - 1)

    def rows_fault(self, kind: Kind, value: Tensor, rows: Sequence[int], clinics: Sequence[int] = ()) -> str:
        """Say what is wrong with rows of a kind, ``[lane, batch, *feature]``, of so many records ``[lane]``.

        Records are as wide as the party among the ``clinics`` has columns.
        """
        shape, own = value.shape, self.row_shapes[kind]
        if kind == Kind.RECORDS and self.job.parties is not None and clinics:
            own = (len(self.job.parties.columns[clinics[0]]),)
        if len(shape) < 2 or shape[0] != len(rows) or shape[2:] != own or shape[1] != max(rows):
            return "an array of the wrong shape"
        if value.dtype != self.row_dtypes[kind]:
            return "an array of the wrong element type"
        return (self._range_fault(kind, value) or self._places_fault(kind, value, rows)) if value.numel() else ""

    def _range_fault(self, kind: Kind, value: Tensor) -> str:
        if kind == Kind.LABELS:
            sound = int(value.min()) >= 0 and int(value.max()) <= self._largest_label
            return "" if sound else "a label that is no class"
        if kind == Kind.NORMS:  # an infinite one says that the record is not to count
            return "" if bool((value >= 0).all()) else "a norm that is negative or no number"
        if kind == Kind.CLIP_FACTORS:
            return "" if bool(((value >= 0) & (value <= 1)).all()) else "a factor outside its range"
        if self.job.on_grid(kind):
            return ""
        if value.dtype == torch.uint8:
            value = self.job.cut.values_sent(value, self.job.row_shapes[kind])
        if value.dtype == torch.int8:
            return NOT_FINITE if bool((value[..., -1] == NO_NUMBER).any()) else ""
        if value.dtype == torch.int16:
            return "" if bool(value.contiguous().view(self.job.cut.torch_dtype).isfinite().all()) else NOT_FINITE
        return "" if finite(value) else NOT_FINITE

    def _places_fault(self, kind: Kind, value: Tensor, rows: Sequence[int]) -> str:
        """Say what is wrong with the places beside values that are not all that a row has."""
        if kind not in CUT_KINDS or kind in GRADIENT_OF or (places := places_sent(self.job, kind, value)) is None:
            return ""
        places = torch.cat([own[:count] for own, count in zip(places, rows, strict=True)])
        return places_fault(places, math.prod(self.job.row_shapes[kind]))

    def parameters_fault(
        self,
        kind: Kind,
        found: Mapping[str, Tensor],
        lanes: int,
        *,
        may_diverge: bool = False,
        clinics: Sequence[int] = (),
    ) -> str:
        """Say what is wrong with parameters or optimiser state, ``[lane, *shape]`` each.

        Of parties it is what the one among the ``clinics`` has.
        """
        forms = self.parameters[kind]
        if self.job.parties is not None and clinics:
            forms = {name: forms[name] for name in crossing_at(self.job, clinics[0])}
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
        return self._update_fault(found, may_diverge) if kind == Kind.UPDATE else ""

    def _update_fault(self, found: Mapping[str, Tensor], may_diverge: bool) -> str:
        compression = self.job.compression
        if compression is None:
            return "an update"
        diverged = found[VALUES].dtype == torch.int8 and bool((found[VALUES][..., -1] == NO_NUMBER).any())
        return NOT_FINITE if diverged and not may_diverge else compression.fault(found)


def parts_of(job: Job) -> Iterator[str]:
    """Yield the clinics' parts that train."""
    yield from (part for part in job.protocol.clinic_parts if part not in job.frozen)


def _forms_of(values: Mapping[str, Tensor]) -> dict[str, Form]:
    return {n: (tuple(v.shape[1:]), v.dtype, not _NEVER_NEGATIVE.search(n)) for n, v in values.items()}


def label_dtype(job: Job) -> torch.dtype:
    """Return what a label is when it crosses."""
    found: torch.dtype = getattr(torch, label_form(job)[1])
    return found


def finite(value: Tensor) -> bool:
    """Whether all values are finite; their sum, where it is finite itself, tells so at once."""
    return math.isfinite(value.sum().item()) or bool(value.isfinite().all())


def sendable(job: Job, kind: Kind, rows: Tensor) -> Tensor:
    """Return rows as their sender may let them go: where records or clinics are protected, no single one ends the run.

    What is not finite becomes 0, a norm infinite: its record does not count.
    """
    if not job.shielded or not rows.is_floating_point():
        return rows
    if kind == Kind.NORMS:
        return torch.nan_to_num(rows, nan=math.inf, posinf=math.inf)
    return torch.nan_to_num(rows, nan=0.0, posinf=0.0, neginf=0.0)
