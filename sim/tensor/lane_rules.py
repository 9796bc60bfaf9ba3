"""How each kind of module runs over lanes: one tensor program for many independent copies with their own parameters.

A rule takes ``[lane, batch, *feature]`` to ``[lane, batch, *feature]``. Convolutions and what goes with them see the
lanes as groups of channels, ``[batch, lane * channel, *space]`` with the channels innermost in memory; they hand on a
view of that, so that a chain of such modules never reorders its data. Modules without a rule go through
``torch.func.vmap``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional

from sim.foundation.rng import Keys, lane_streams
from sim.models.architectures import Residual
from sim.models.clip import ClipRows
from sim.models.network import STATISTICS
from sim.tensor.clipping import ConvolutionRecord, ExpandedRecord, LinearRecord, Tape


@dataclass(frozen=True)
class DropoutMasks:
    """The dropout masks of one training step, drawn from each clinic's own stream.

    The stream's name holds the layer, the clinic, the round and the step, so a recomputed forward pass draws the same
    mask, wherever the model is cut and however clinics are grouped.

    Attributes
    ----------
    seed : int or sequence of int
        The run's seed, or each lane's.
    clinics : sequence of int
        The clinic of each lane.
    server_round, step : int
    """

    seed: Keys
    clinics: Sequence[int]
    server_round: int
    step: int

    def lanes(self, first: int, last: int) -> DropoutMasks:
        """Return the masks of a range of lanes."""
        seed = self.seed if isinstance(self.seed, int | str) else self.seed[first:last]
        return DropoutMasks(seed, self.clinics[first:last], self.server_round, self.step)

    def draw(self, layer: str, rate: float, like: Tensor) -> Tensor:
        """Return 0 with probability ``rate`` and otherwise 1 / (1 - rate), in the shape ``[lane, batch, *feature]``."""
        uniform = np.empty(like.shape, dtype=np.float32)
        streams = lane_streams(self.seed, f"dropout.{layer}", len(self.clinics))
        for lane, clinic in enumerate(self.clinics):
            streams[lane].at(clinic, self.server_round, self.step).random(out=uniform[lane], dtype=np.float32)
        return torch.from_numpy(uniform >= rate).to(like) * (1 / (1 - rate) if rate < 1 else 0.0)


@dataclass(frozen=True)
class BatchStatistics:
    """What BatchNorm needs and leaves in one training step.

    Attributes
    ----------
    rows : Tensor
        ``[lane]`` real rows of each batch; the others are padding.
    updated : dict of str to list of Tensor
        By name, running statistics ``[lane, channel]`` as they will be after the step, a piece a group of lanes. The
        forward pass changes none itself, so that it may be repeated.
    """

    rows: Tensor
    updated: dict[str, list[Tensor]] = field(default_factory=dict)

    def lanes(self, first: int, last: int) -> BatchStatistics:
        """Return those of a range of lanes."""
        return BatchStatistics(self.rows[first:last], self.updated)

    def note(self, name: str, momentum: float, before: Tensor, batch: Tensor) -> None:
        """Note a statistic of the batch, ``[lane, channel]``."""
        self.updated.setdefault(name, []).append((1 - momentum) * before + momentum * batch.detach())


@dataclass(frozen=True)
class LaneRun:
    """One forward run over some lanes.

    Attributes
    ----------
    parameters : mapping of str to Tensor
        ``[lane, *shape]`` each.
    tape : list of Record or None
        Where rules write down what per-sample clipping needs; None without it.
    masks : DropoutMasks or None
        None in evaluation, where nothing is dropped.
    lanes : slice
        These lanes among all lanes of the step.
    norms : BatchStatistics or None
        None in evaluation, where BatchNorm takes its running statistics.
    """

    parameters: Mapping[str, Tensor]
    tape: Tape | None
    masks: DropoutMasks | None
    lanes: slice
    norms: BatchStatistics | None = None

    def apply(self, module: nn.Module, name: str, x: Tensor) -> Tensor:
        """Run a module by its rule; ``name`` is the prefix of its parameters' names, with the dot."""
        return LANE_RULES.get(type(module), _stacked_by_vmap)(module, name, self, x)

    def spread(self, name: str, batch: int) -> Tensor | None:
        """Return a parameter as ``[lane, 1, *shape]``, or one copy a record for per-sample clipping; None if absent."""
        value = self.parameters.get(name)
        if value is None or self.tape is None:
            return None if value is None else value.unsqueeze(1)
        copies = value.unsqueeze(1).expand(-1, batch, *value.shape[1:])
        self.tape.append(ExpandedRecord(self.lanes, name, copies))
        return copies


def as_channels(x: Tensor) -> Tensor:
    """Turn ``[lane, batch, channel, *space]`` into ``[batch, lane * channel, *space]``, channels innermost in memory.

    A single lane is left in the layout that it has.
    """
    if x.shape[0] == 1:
        return x.squeeze(0)
    space = range(3, x.dim())
    return x.permute(1, *space, 0, 2).contiguous().flatten(-2).movedim(-1, 1)


def as_lanes(x: Tensor, lanes: int) -> Tensor:
    """Undo ``as_channels`` on a result ``[batch, lane * channel, *space]``, without a copy."""
    return torch.unflatten(x, 1, (lanes, -1)).transpose(0, 1)


def _linear(module: nn.Linear, name: str, run: LaneRun, x: Tensor) -> Tensor:
    weight = run.parameters[f"{name}weight"]
    bias = run.parameters.get(f"{name}bias")
    rows = x.flatten(1, -2)
    if bias is None:
        z = torch.bmm(rows, weight.transpose(1, 2))
    else:
        z = torch.baddbmm(bias.unsqueeze(1), rows, weight.transpose(1, 2))
    z = z.view(*x.shape[:-1], z.shape[-1])
    if run.tape is not None:
        run.tape.append(LinearRecord(run.lanes, f"{name}weight", "" if bias is None else f"{name}bias", x, z))
    return z


def _convolution(module: nn.Conv1d | nn.Conv2d, name: str, run: LaneRun, x: Tensor) -> Tensor:
    if isinstance(module.padding, str) or module.padding_mode != "zeros":
        return _stacked_by_vmap(module, name, run, x)
    lanes, flat = x.shape[0], x.dim() == 4
    weight, bias = run.parameters[f"{name}weight"], run.parameters.get(f"{name}bias")
    kernel = weight.unsqueeze(3) if flat else weight
    options = {
        "stride": (1, *module.stride)[-2:],
        "padding": (0, *module.padding)[-2:],
        "dilation": (1, *module.dilation)[-2:],
    }
    inputs = as_channels(x.unsqueeze(3) if flat else x)
    groups = lanes * module.groups
    z = functional.conv2d(
        inputs, kernel.flatten(0, 1), None if bias is None else bias.flatten(), groups=groups, **options
    )
    if run.tape is not None:
        names = f"{name}weight", "" if bias is None else f"{name}bias"
        shapes = weight.shape[1:], kernel.shape[1:]
        run.tape.append(ConvolutionRecord(run.lanes, *names, *shapes, inputs, z, options, module.groups))
    outputs = as_lanes(z, lanes)
    return outputs.squeeze(3) if flat else outputs


class _ChannelsLastGroupNorm(torch.autograd.Function):
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


def _group_norm(module: nn.GroupNorm, name: str, run: LaneRun, x: Tensor) -> Tensor:
    lanes, batch, channels = x.shape[:3]
    weight, bias = run.spread(f"{name}weight", batch), run.spread(f"{name}bias", batch)
    weight = x.new_ones(lanes, 1, channels) if weight is None else weight
    bias = x.new_zeros(lanes, 1, channels) if bias is None else bias
    rows = as_channels(x).movedim(1, -1)
    normalised: Tensor = _ChannelsLastGroupNorm.apply(  # type: ignore[no-untyped-call]
        rows.reshape(batch, -1, lanes * channels),
        weight.transpose(0, 1).flatten(1),
        bias.transpose(0, 1).flatten(1),
        lanes * module.num_groups,
        module.eps,
    )
    return as_lanes(normalised.view(rows.shape).movedim(-1, 1), lanes)


def _batch_norm(module: nn.BatchNorm1d | nn.BatchNorm2d, name: str, run: LaneRun, x: Tensor) -> Tensor:
    """Batch normalisation (Ioffe & Szegedy 2015) over each lane's real rows and all positions."""
    one_each = (x.shape[0], 1, x.shape[2], *[1] * (x.dim() - 3))
    running = [run.parameters[f"{name}{statistic}"] for statistic in STATISTICS]
    if run.norms is None:
        mean, variance = (value.view(one_each) for value in running)
    else:
        rows = run.norms.rows.view(-1, *[1] * (x.dim() - 1)).to(x)
        inside = torch.arange(x.shape[1]).view(1, -1, *[1] * (x.dim() - 2)) < rows
        axes, count = (1, *range(3, x.dim())), rows * x[0, 0, 0].numel()
        mean = torch.where(inside, x, 0.0).sum(axes, keepdim=True) / count
        variance = torch.where(inside, x - mean, 0.0).square().sum(axes, keepdim=True) / count
        batch = mean, variance * (count / (count - 1))
        for statistic, before, value in zip(STATISTICS, running, batch, strict=True):
            run.norms.note(f"{name}{statistic}", module.momentum or 0.0, before, value.view(before.shape))
    y = (x - mean) * (variance + module.eps).rsqrt()
    weight, bias = run.parameters.get(f"{name}weight"), run.parameters.get(f"{name}bias")
    if weight is None or bias is None:
        return y
    return y * weight.view(one_each) + bias.view(one_each)


def _layer_norm(module: nn.LayerNorm, name: str, run: LaneRun, x: Tensor) -> Tensor:
    batch, shape = x.shape[1], list(module.normalized_shape)
    y = functional.layer_norm(x, shape, eps=module.eps)
    weight, bias = run.spread(f"{name}weight", batch), run.spread(f"{name}bias", batch)
    between = [1] * (x.dim() - 2 - len(shape))
    if weight is not None:
        y = y * weight.view(*weight.shape[:2], *between, *shape)
    return y if bias is None else y + bias.view(*bias.shape[:2], *between, *shape)


def _each_channel(module: nn.Module, name: str, run: LaneRun, x: Tensor) -> Tensor:
    """Run a module that treats every channel alone and has no parameters."""
    return as_lanes(module(as_channels(x)), x.shape[0])


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


def _max_pool_2d(module: nn.MaxPool2d, name: str, run: LaneRun, x: Tensor) -> Tensor:
    return _each_channel(module, name, run, x) if x.shape[0] > 1 else max_pool_2d(module, x.squeeze(0)).unsqueeze(0)


def _elementwise(module: nn.Module, name: str, run: LaneRun, x: Tensor) -> Tensor:
    # In place it would change what the tape and the sender of x still hold.
    result: Tensor = module(x.clone() if getattr(module, "inplace", False) else x)
    return result


def _flatten(module: nn.Flatten, name: str, run: LaneRun, x: Tensor) -> Tensor:
    first, last = (axis + 1 if axis >= 0 else axis for axis in (module.start_dim, module.end_dim))
    return x.flatten(first, last)


def _clip_rows(module: ClipRows, name: str, run: LaneRun, x: Tensor) -> Tensor:
    return module.over(x, 2)


def _dropout(module: nn.Dropout, name: str, run: LaneRun, x: Tensor) -> Tensor:
    return x if run.masks is None else x * run.masks.draw(name.removesuffix("."), module.p, x)


def _sequential(module: nn.Sequential, name: str, run: LaneRun, x: Tensor) -> Tensor:
    for child_name, child in module._modules.items():
        if child is not None:
            x = run.apply(child, f"{name}{child_name}.", x)
    return x


def _residual(module: Residual, name: str, run: LaneRun, x: Tensor) -> Tensor:
    main = run.apply(module.main, f"{name}main.", x)
    return functional.relu(main + run.apply(module.shortcut, f"{name}shortcut.", x))


def _stacked_by_vmap(module: nn.Module, name: str, run: LaneRun, x: Tensor) -> Tensor:
    own = [key for key in run.parameters if key.startswith(name)]
    buffers = {key: buffer.to(x.device) for key, buffer in module.named_buffers()}

    def call(parameters: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        result: Tensor = functional_call(module, {**buffers, **parameters}, (rows,))
        return result

    if run.tape is None or not own:
        stacked = {key.removeprefix(name): run.parameters[key] for key in own}
        result: Tensor = vmap(call)(stacked, x)
        return result
    copies = {key.removeprefix(name): run.spread(key, x.shape[1]) for key in own}
    alone: Tensor = vmap(vmap(lambda parameters, row: call(parameters, row.unsqueeze(0)).squeeze(0)))(copies, x)
    return alone


LaneRule = Callable[[Any, str, LaneRun, Tensor], Tensor]
LANE_RULES: dict[type[nn.Module], LaneRule] = {
    nn.Linear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.GroupNorm: _group_norm,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.Sequential: _sequential,
    Residual: _residual,
    nn.Flatten: _flatten,
    nn.Dropout: _dropout,
    nn.MaxPool2d: _max_pool_2d,
    ClipRows: _clip_rows,
    **dict.fromkeys((nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Tanh, nn.Sigmoid, nn.Identity), _elementwise),
    **dict.fromkeys(
        (nn.MaxPool1d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
        _each_channel,
    ),
}
