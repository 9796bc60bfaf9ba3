"""The layer that clips rows at the cut, so that noise can hide one record's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from sim.models.architectures import Residual
from sim.models.network import Part

_KEEP_SIGN = (nn.Flatten, nn.Dropout, nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.Identity)


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


def never_negative(part: Part) -> bool:
    """Say whether a part surely ends in a rectifier or a sigmoid, but for modules behind it that keep the sign."""
    for module in reversed([m for block in part.blocks for m in _chain(block.module)]):
        if type(module) not in _KEEP_SIGN:
            return type(module) in (nn.ReLU, nn.Sigmoid, Residual)
    return False


def _chain(module: nn.Module) -> Iterator[nn.Module]:
    if type(module) is nn.Sequential:
        for child in module:
            yield from _chain(child)
    else:
        yield module
