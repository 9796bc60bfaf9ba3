"""How rows cross at a cut: without what pads them, and of 16 bits if so asked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def narrowed(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Round rows at a cut to what crosses: 16 bits as they are (an integer array), or the rows themselves.

    What is too large for the type becomes its largest value.
    """
    if dtype == rows.dtype:
        return rows
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
    return sent if dtype == torch.float32 else sent.view(dtype).float()
