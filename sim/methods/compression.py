"""Compressed updates: what a clinic sends of how far it has moved the parts that are averaged.

    u <- (what the clinic trained) - (what it received) + e          the update, and what was left out before
    S <- the k largest of |u|                                        all of them without update-top-k
    sent <- rounded(u_S),   e <- u - sent                            error feedback

Top-k sparsification with memory is Stich et al., "Sparsified SGD with Memory", NeurIPS 2018; the 8 bits are those of
the Microscaling format MXINT8 (Open Compute Project 2023), 32 numbers a block. The server adds what was sent to the
model that the round began with. Whatever noise is in the update has been added before: rounding costs no epsilon.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from sim.foundation.lazy import Lazy
from sim.foundation.problems import SutureError
from sim.methods.messages import Instruction, Kind, Reply
from sim.tensor.cut_rows import Form, form_bytes
from sim.tensor.rows import narrowed, widened

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sim.methods.job import Job
    from sim.models import Parameters
else:
    torch = Lazy("torch")

BLOCK: Final = 32
PLACE_BYTES: Final = 4
VALUES, PLACES = "values", "places"


@dataclass(frozen=True, kw_only=True)
class Compression:
    """How updates are compressed.

    Attributes
    ----------
    shapes : mapping of str to tuple of int
        Of the parameters that cross, one clinic's, in the order in which they are sent.
    kept : int
        How many of their numbers are sent.
    dtype : str
        Name of the type as which they are sent: ``float32`` or ``int8``.
    """

    shapes: Mapping[str, tuple[int, ...]]
    kept: int
    dtype: str

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]], share: float, dtype: str) -> Compression:
        """Send a share of the numbers, at least one."""
        numbers = sum(map(math.prod, shapes.values()))
        return cls(shapes=shapes, kept=max(1, math.ceil(share * numbers)), dtype=dtype)

    @property
    def numbers(self) -> int:
        """How many numbers an update has."""
        return sum(map(math.prod, self.shapes.values()))

    @property
    def sparse(self) -> bool:
        """Whether some numbers are left out."""
        return self.kept < self.numbers

    @property
    def forms(self) -> dict[str, Form]:
        """Shape, without the lane axis, and element type of each array that is sent."""
        blocks = (math.ceil(self.kept / BLOCK), BLOCK + 1)
        forms: dict[str, Form] = {VALUES: ((self.kept,) if self.dtype == "float32" else blocks, self.dtype)}
        return forms | ({PLACES: ((self.kept,), "int32")} if self.sparse else {})

    @property
    def sent_bytes(self) -> int:
        """Bytes of one clinic's update as it is sent."""
        return sum(map(form_bytes, self.forms.values()))

    def flat(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return ``[lane, number]`` of ``[lane, *shape]`` by name."""
        return torch.cat([values[name].flatten(1) for name in self.shapes], 1)

    def packed(self, update: Tensor) -> Parameters:
        """Return what is sent of updates ``[lane, number]``; of equally large numbers the first ones."""
        places = None
        if self.sparse:
            from sim.models.largest import largest

            places = largest(update, self.kept)
            update = update.gather(-1, places)
        if self.dtype != "float32":
            blocks = math.ceil(self.kept / BLOCK)
            padded = torch.nn.functional.pad(update, (0, blocks * BLOCK - self.kept))
            update = narrowed(padded.view(-1, blocks, BLOCK), getattr(torch, self.dtype))
        return {VALUES: update} if places is None else {VALUES: update, PLACES: places.int()}

    def unpacked(self, sent: Mapping[str, Tensor]) -> Tensor:
        """Return the update ``[lane, number]`` that was sent, 0 where nothing was."""
        values = widened(sent[VALUES], getattr(torch, self.dtype)).flatten(1)[:, : self.kept]
        if not self.sparse:
            return values
        return values.new_zeros(len(values), self.numbers).scatter(-1, sent[PLACES].long(), values)

    def added(self, before: Mapping[str, Tensor], sent: Mapping[str, Tensor]) -> Parameters:
        """Return ``[lane, *shape]`` by name: what was received, ``[1, *shape]``, and what was sent, added up."""
        update = self.unpacked(sent)
        pieces = torch.split(update, [math.prod(shape) for shape in self.shapes.values()], 1)
        named = zip(self.shapes.items(), pieces, strict=True)
        return {name: before[name] + piece.view(-1, *shape) for (name, shape), piece in named}

    def fault(self, sent: Mapping[str, Tensor]) -> str:
        """Say what is wrong with the places of an update whose arrays have the right forms."""
        if not self.sparse:
            return ""
        return places_fault(sent[PLACES], self.numbers)


def places_fault(places: Tensor, values: int) -> str:
    """Say what is wrong with places ``[..., place]`` among so many values."""
    inside = bool(((places >= 0) & (places < values)).all())
    return "" if inside and bool((places.diff(dim=-1) > 0).all()) else "places that do not ascend"


class Opening:
    """Adds compressed updates to the model that they are updates of, as they arrive."""

    def __init__(self, job: Job) -> None:
        self._compression = job.compression
        self._begun: Mapping[str, Tensor] = {}

    def __call__(self, asked: Instruction, reply: Reply) -> Reply:
        """Return a reply to an instruction with the clinics' parameters in place of their updates.

        Raises
        ------
        SutureError
            If no model was sent before.
        """
        if self._compression is None:
            return reply
        brought: Mapping[str, Tensor] | None = getattr(asked, "model", None)
        if brought is not None:
            self._begun = brought
        if Kind.UPDATE not in reply.parts:
            return reply
        if not self._begun:
            raise SutureError("an update came before a model was sent")
        return replace(reply, parts={Kind.MODEL: self._compression.added(self._begun, reply.parts[Kind.UPDATE])})


def compression_of(job: Job) -> Compression | None:
    """Return how a job's clinics compress their updates; None where they do not."""
    train = job.spec.train
    if train.update_dtype == "float32" and train.update_top_k == 1:
        return None
    sent = job.shapes(part for part in job.protocol.clinic_parts if part not in job.frozen)
    shapes = {name: tuple(shape) for name, shape in sent.items() if name not in job.apart}
    return Compression.of(shapes, train.update_top_k, train.update_dtype)
