"""The form in which un-noised rows cross at a cut: rounded, and of each only the values that are kept.

    up or down with a row's values     [values | places]    the kept values, and which of the row's they are
    back with the gradient in them     [values]             at the same places: whoever sent them knows which

Places take two bytes each, and four in rows of more than 32,768 values. Values are rounded as :mod:`sim.tensor.rows`
says; 8 bits share one power of two over a row's kept values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from sim.foundation.lazy import Lazy
from sim.models.layers import kept
from sim.tensor.rows import crossing_shape, narrowed, widened

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = Lazy("torch")

_SHORT: Final = 2**15

Form = tuple[tuple[int, ...], str]
"""A shape, and the name of an element type."""


def form_bytes(form: Form) -> int:
    """Return how many bytes an array of a form takes."""
    shape, dtype = form
    return math.prod(shape) * np.dtype(dtype).itemsize


@dataclass(frozen=True)
class CutRows:
    """How un-noised rows cross.

    Attributes
    ----------
    dtype : str
        Name of the type that their values are rounded to.
    share : float
        Of a row's values, how many are kept; all where it is 1, and then rows cross as they are, without places.
    """

    dtype: str
    share: float = 1.0

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type that their values are rounded to."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found

    @property
    def exact(self) -> bool:
        """Whether rows cross as they are."""
        return self.dtype == "float32" and not self.sparse

    @property
    def sparse(self) -> bool:
        """Whether some of a row's values stay behind."""
        return self.share < 1

    def form(self, shape: tuple[int, ...], *, back: bool) -> Form:
        """Return the shape and the element type of a row of this shape as it crosses; `back` with a gradient."""
        own = crossing_shape((kept(self.share, math.prod(shape)),) if self.sparse else shape, self.dtype)
        dtype = self.dtype if self.dtype in ("float32", "int8") else "int16"
        if not self.sparse or back:
            return own, dtype
        count = kept(self.share, math.prod(shape))
        return (form_bytes((own, dtype)) + form_bytes(((count,), _places_type(shape))),), "uint8"

    def places(self, rows: Tensor) -> Tensor:
        """Return ``[lane, batch, kept]``: which values of rows ``[lane, batch, *feature]`` cross."""
        from sim.models.largest import largest

        flat = rows.flatten(2)
        return largest(flat, kept(self.share, flat.shape[-1]))

    def places_sent(self, sent: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the places in rows of this shape that have been sent with their values."""
        return _bytes_as(sent[..., self._bytes_of_values(shape) :], _places_type(shape)).long()

    def packed(self, rows: Tensor, at: Tensor | None = None) -> Tensor:
        """Return rows as they cross; with `at`, the gradient in values at these places, and no places beside it."""
        if not self.sparse:
            return narrowed(rows, self.torch_dtype)
        places = self.places(rows) if at is None else at
        values = narrowed(rows.flatten(2).gather(-1, places), self.torch_dtype)
        if at is not None:
            return values
        told = places.to(getattr(torch, _places_type(tuple(rows.shape[2:]))))
        return torch.cat([values.contiguous().view(torch.uint8), told.contiguous().view(torch.uint8)], -1)

    def unpacked(self, sent: Tensor, shape: tuple[int, ...], at: Tensor | None = None) -> Tensor:
        """Return rows ``[lane, batch, *shape]``, 0 where nothing was sent, from what :meth:`packed` returned."""
        if not self.sparse:
            return widened(sent, self.torch_dtype)
        values = widened(self.values_sent(sent, shape) if at is None else sent, self.torch_dtype)
        places = self.places_sent(sent, shape) if at is None else at
        rows = values.new_zeros(*values.shape[:-1], math.prod(shape))
        return rows.scatter(-1, places, values).view(*values.shape[:-1], *shape)

    def values_sent(self, sent: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the rounded values of rows of this shape that have been sent with their places."""
        dtype = self.form(shape, back=True)[1]
        return _bytes_as(sent[..., : self._bytes_of_values(shape)], dtype)

    def _bytes_of_values(self, shape: tuple[int, ...]) -> int:
        return form_bytes(self.form(shape, back=True))


def _bytes_as(sent: Tensor, dtype: str) -> Tensor:
    return sent.clone(memory_format=torch.contiguous_format).view(getattr(torch, dtype))


def _places_type(shape: tuple[int, ...]) -> str:
    return "int16" if math.prod(shape) <= _SHORT else "int32"
