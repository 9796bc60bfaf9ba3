"""The form in which un-noised rows cross at a cut: rounded, and of each only the values that are kept.

    up or down with a row's values     [values | places]    the kept values, and which of the row's they are
    back with the gradient in them     [values]             at the same places: whoever sent them knows which

Places take two bytes each, and four in rows of more than 32,768 values. Values are rounded as :mod:`sim.tensor.rows`
says; 8 bits share one power of two over a row's kept values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from sim.models.largest import kept, largest
from sim.tensor.rows import crossing_shape, narrowed, widened

_SHORT: Final = 2**15

Form = tuple[tuple[int, ...], torch.dtype]


@dataclass(frozen=True)
class CutRows:
    """How un-noised rows cross.

    Attributes
    ----------
    dtype : torch.dtype
        What their values are rounded to.
    share : float
        Of a row's values, how many are kept; all where it is 1, and then rows cross as they are, without places.
    """

    dtype: torch.dtype
    share: float = 1.0

    @property
    def exact(self) -> bool:
        """Whether rows cross as they are."""
        return self.dtype == torch.float32 and not self.sparse

    @property
    def sparse(self) -> bool:
        """Whether some of a row's values stay behind."""
        return self.share < 1

    def form(self, shape: tuple[int, ...], *, back: bool) -> Form:
        """Return the shape and the element type of a row of this shape as it crosses; `back` with a gradient."""
        own = crossing_shape((kept(self.share, math.prod(shape)),) if self.sparse else shape, self.dtype)
        dtype = self.dtype if self.dtype in (torch.float32, torch.int8) else torch.int16
        if not self.sparse or back:
            return own, dtype
        count, places = kept(self.share, math.prod(shape)), _places_type(shape)
        return (own[0] * dtype.itemsize + count * places.itemsize,), torch.uint8

    def places(self, rows: Tensor) -> Tensor:
        """Return ``[lane, batch, kept]``: which values of rows ``[lane, batch, *feature]`` cross."""
        flat = rows.flatten(2)
        return largest(flat, kept(self.share, flat.shape[-1]))

    def places_sent(self, sent: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the places in rows of this shape that have been sent with their values."""
        return _bytes_as(sent[..., self._bytes_of_values(shape) :], _places_type(shape)).long()

    def packed(self, rows: Tensor, at: Tensor | None = None) -> Tensor:
        """Return rows as they cross; with `at`, the gradient in values at these places, and no places beside it."""
        if not self.sparse:
            return narrowed(rows, self.dtype)
        places = self.places(rows) if at is None else at
        values = narrowed(rows.flatten(2).gather(-1, places), self.dtype)
        if at is not None:
            return values
        told = places.to(_places_type(tuple(rows.shape[2:])))
        return torch.cat([values.contiguous().view(torch.uint8), told.contiguous().view(torch.uint8)], -1)

    def unpacked(self, sent: Tensor, shape: tuple[int, ...], at: Tensor | None = None) -> Tensor:
        """Return rows ``[lane, batch, *shape]``, 0 where nothing was sent, from what :meth:`packed` returned."""
        if not self.sparse:
            return widened(sent, self.dtype)
        values = widened(self.values_sent(sent, shape) if at is None else sent, self.dtype)
        places = self.places_sent(sent, shape) if at is None else at
        rows = values.new_zeros(*values.shape[:-1], math.prod(shape))
        return rows.scatter(-1, places, values).view(*values.shape[:-1], *shape)

    def values_sent(self, sent: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the rounded values of rows of this shape that have been sent with their places."""
        dtype = self.form(shape, back=True)[1]
        return _bytes_as(sent[..., : self._bytes_of_values(shape)], dtype)

    def _bytes_of_values(self, shape: tuple[int, ...]) -> int:
        (values,), dtype = self.form(shape, back=True)
        return values * dtype.itemsize


def _bytes_as(sent: Tensor, dtype: torch.dtype) -> Tensor:
    return sent.clone(memory_format=torch.contiguous_format).view(dtype)


def _places_type(shape: tuple[int, ...]) -> torch.dtype:
    return torch.int16 if math.prod(shape) <= _SHORT else torch.int32
