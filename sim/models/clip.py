"""The layer that clips rows at the cut, so that noise can hide one record's."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn


class ClipRows(nn.Module):
    """Scales each record's row down to a norm (of order 1 or 2) of at most ``clip``; its gradient is the exact one."""

    def __init__(self, clip: float, order: Literal[1, 2] = 2) -> None:
        super().__init__()
        self.clip, self.order = clip, order

    def forward(self, x: Tensor) -> Tensor:
        """Clip ``[record, *feature]``."""
        return self.over(x, 1)

    def over(self, x: Tensor, leading: int) -> Tensor:
        """Clip rows behind ``leading`` axes; zeros stay, and a row whose norm is no finite number becomes zeros."""
        flat = x.flatten(leading)
        size = flat.abs().sum(-1, keepdim=True) if self.order == 1 else flat.square().sum(-1, keepdim=True)
        finite = size.isfinite()
        flat, size = torch.where(finite, flat, 0.0), torch.where(finite, size, 0.0)
        if self.order == 1:
            return (flat * (self.clip / size.clamp(min=self.clip))).view_as(x)
        bound = torch.full_like(size, self.clip**2)
        return (flat * (bound / torch.where(size > bound, size, bound)).sqrt()).view_as(x)
