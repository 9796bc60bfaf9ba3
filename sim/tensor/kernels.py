"""Operations whose own forward and backward are quicker in some layout than PyTorch's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class ChannelsLastGroupNorm(torch.autograd.Function):
    """Group normalisation (Wu & He 2018) whose reductions run along the channels, innermost in memory.

    PyTorch's own kernel is quick on one copy with the channels outermost, and takes twice the time on this layout. The
    weight may have one row a record, and so may its gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        """Normalise ``[batch, position, channel]`` with a weight and a bias ``[batch or 1, channel]``."""
        batch, positions, channels = x.shape
        grouped = (batch, groups, channels // groups)
        size = positions * grouped[2]
        mean = x.sum(1).view(grouped).sum(-1, keepdim=True) / size
        centred = x - mean.expand(grouped).reshape(batch, 1, channels)
        variance = centred.square_().sum(1).view(grouped).sum(-1, keepdim=True) / size
        scale = (variance + eps).rsqrt()
        slope = scale * weight.view(-1, *grouped[1:])
        offset = bias.view(-1, *grouped[1:]) - mean * slope
        ctx.save_for_backward(x, weight, mean, scale)
        return torch.addcmul(offset.reshape(batch, 1, channels), x, slope.reshape(batch, 1, channels))

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """Return the gradients in ``x``, ``weight`` and ``bias``."""
        x, weight, mean, scale = ctx.saved_tensors
        batch, positions, channels = x.shape
        grouped = (batch, mean.shape[1], channels // mean.shape[1])
        size = positions * grouped[2]
        slope = weight.view(-1, *grouped[1:])
        delta_sum = delta.sum(1).view(grouped)
        product_sum = (delta * x).sum(1).view(grouped)
        in_weight = (product_sum - delta_sum * mean) * scale
        delta_mean = (delta_sum * slope).sum(-1, keepdim=True) / size
        product_mean = (in_weight * slope).sum(-1, keepdim=True) / size
        by_x = -product_mean * scale * scale
        constant = -delta_mean * scale - by_x * mean

        def each(value: Tensor) -> Tensor:
            return value.expand(grouped).reshape(batch, 1, channels)

        in_x = torch.addcmul(each(constant), x, each(by_x)).addcmul_(delta, each(scale * slope))
        rows = weight.shape
        return in_x, in_weight.flatten(1).sum_to_size(rows), delta_sum.flatten(1).sum_to_size(rows), None, None


class _MaxPool2d(torch.autograd.Function):
    """Max pooling of one copy, each half in the layout in which PyTorch's kernel is quicker; no value depends on it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *window: Any) -> Tensor:
        """Pool ``[batch, channel, *space]``, the channels innermost; ``window`` is as the operator takes it."""
        innermost = x.contiguous(memory_format=torch.channels_last)
        pooled, index = torch.ops.aten.max_pool2d_with_indices(innermost, *window)
        ctx.save_for_backward(x, index)
        ctx.window = window
        result: Tensor = pooled.contiguous()
        return result

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient in ``x``, formed with the channels outermost."""
        x, index = ctx.saved_tensors
        in_x: Tensor = torch.ops.aten.max_pool2d_with_indices_backward(delta, x.contiguous(), *ctx.window, index)
        return in_x, *[None] * len(ctx.window)


def max_pool_2d(module: nn.MaxPool2d, x: Tensor) -> Tensor:
    """Pool one copy, ``[batch, channel, *space]``."""
    window = module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode
    pooled: Tensor = _MaxPool2d.apply(x, *window)  # type: ignore[no-untyped-call]
    return pooled
