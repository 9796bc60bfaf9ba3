"""How rows cross at a cut: without what pads them, and of 16 or 8 bits if so asked.

8 bits are those of the Microscaling format MXINT8 (Open Compute Project 2023), with a block for each stretch of a row
along its last axis: a power of two that all its values share, and each value as a multiple of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from sim.foundation.lazy import Lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = Lazy("torch")

LARGEST_CODE, NO_NUMBER, LEAST_EXPONENT = 127, -128, -126
"""Of 8 bits: the largest value, and among exponents what says that a block is not finite, and the least one."""
_BIAS: Final = 127
_FRACTION_BITS: Final = 23


def narrowed(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Round rows at a cut to what crosses: 16 bits as they are (an integer array), 8 bits, or the rows themselves.

    What is too large for a type of 16 bits becomes its largest value. 8 bits have the block's exponent behind its
    values: ``[lane, batch, *feature]`` with a last axis one longer.
    """
    if dtype == rows.dtype:
        return rows
    if dtype == torch.int8:
        largest = rows.abs().amax(-1, keepdim=True)
        fraction, exponent = torch.frexp(largest / LARGEST_CODE)
        exponent = (exponent - (fraction == 0.5).int()).clamp(min=LEAST_EXPONENT)
        codes = (rows * _power_of_two(-exponent)).round().clamp(-LARGEST_CODE, LARGEST_CODE)
        packed = torch.cat([codes, exponent.to(codes.dtype)], -1)
        lost = torch.zeros_like(packed)
        lost[..., -1] = NO_NUMBER
        return torch.where(largest.isfinite(), packed, lost).to(torch.int8)
    limits = torch.finfo(dtype)
    return rows.clamp(limits.min, limits.max).to(dtype).view(torch.int16)


def unpadded(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return rows ``[lane, batch, ...]`` without what pads them: all zeros beyond each lane's own, and no row too many.

    A lane's padding may be a copy of a record: it must not leave.
    """
    width = max(sizes)
    rows = rows if rows.shape[1] == width else rows[:, :width]
    if min(sizes) == width:
        return rows
    padding = torch.arange(width) >= torch.tensor(sizes)[:, None]
    return rows.masked_fill(padding.view(*padding.shape, *[1] * (rows.dim() - 2)), 0)


def at_least_one_row(rows: Tensor) -> Tensor:
    """Return rows ``[lane, batch, ...]`` with one of zeros where there is none: nothing computes on no rows."""
    return rows if rows.shape[1] else rows.new_zeros(rows.shape[0], 1, *rows.shape[2:])


def widened(sent: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what ``narrowed`` has sent as float32."""
    if dtype == torch.int8:
        exponent = sent[..., -1:].int()
        values = sent[..., :-1].float() * _power_of_two(exponent.clamp(min=LEAST_EXPONENT))
        limits = torch.finfo(values.dtype)
        return values.clamp(limits.min, limits.max).masked_fill(exponent == NO_NUMBER, torch.nan)
    return sent if dtype == torch.float32 else sent.view(dtype).float()


def crossing_shape(shape: tuple[int, ...], dtype: str) -> tuple[int, ...]:
    """Return the shape of one record's row as it crosses, rounded to a type of this name."""
    return (*shape[:-1], shape[-1] + 1) if dtype == "int8" else shape


def _power_of_two(exponent: Tensor) -> Tensor:
    """Return 2 to a whole number of -126 to 127, exactly."""
    return ((exponent.int() + _BIAS) << _FRACTION_BITS).view(torch.float32)
