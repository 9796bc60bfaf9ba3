"""How each kind of module runs over lanes: one tensor program for many independent copies with their own parameters.

A rule takes ``[lane, batch, *feature]`` to ``[lane, batch, *feature]``. Convolutions and what goes with them see the
lanes as groups of channels, ``[batch, lane * channel, *space]`` with the channels innermost in memory; they hand on a
view of that, so that a chain of such modules never reorders its data. Modules without a rule go through
``torch.func.vmap``.

One copy alone has no lane axis, ``[batch, *feature]`` and parameters ``[*shape]``, and runs as PyTorch itself would:
each view that adds or removes an axis costs as much as an activation on a small network.
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
from sim.models.clip import ClipRows
from sim.models.largest import KeepLargest
from sim.models.modules import Residual
from sim.models.network import STATISTICS, Part
from sim.tensor.clipping import ConvolutionRecord, ExpandedRecord, LinearRecord, Tape
from sim.tensor.kernels import ChannelsLastGroupNorm, max_pool_2d


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


@dataclass(frozen=True, kw_only=True)
class LaneRun:
    """One forward run over some lanes.

    Attributes
    ----------
    parameters : mapping of str to Tensor
        ``[lane, *shape]`` each, or ``[*shape]`` of one copy alone.
    lanes : slice
        These lanes among all lanes of the step.
    tape : list of Record or None
        Where rules write down what per-sample clipping needs; None without it.
    masks : DropoutMasks or None
        None in evaluation, where nothing is dropped.
    norms : BatchStatistics or None
        None in evaluation, where BatchNorm takes its running statistics.
    alone : bool
        Whether it is one copy without a lane axis; it has no tape, and holds no BatchNorm.
    """

    parameters: Mapping[str, Tensor]
    lanes: slice
    tape: Tape | None = None
    masks: DropoutMasks | None = None
    norms: BatchStatistics | None = None
    alone: bool = False

    def part(self, part: Part, x: Tensor) -> Tensor:
        """Run a part."""
        for block in part.blocks:
            x = self.apply(block.module, f"{block.name}.", x)
        return x

    def apply(self, module: nn.Module, name: str, x: Tensor) -> Tensor:
        """Run a module by its rule; ``name`` is the prefix of its parameters' names, with the dot."""
        return LANE_RULES.get(type(module), _any)(module, name, self, x)

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
    if run.alone:
        return functional.linear(x, weight, bias)
    rows = x.flatten(1, -2)
    if bias is None:
        z = torch.bmm(rows, weight.transpose(1, 2))
    else:
        z = torch.baddbmm(bias.unsqueeze(1), rows, weight.transpose(1, 2))
    z = z.view(*x.shape[:-1], z.shape[-1])
    if run.tape is not None:
        names = {"weight": f"{name}weight", "bias": "" if bias is None else f"{name}bias"}
        run.tape.append(LinearRecord(lanes=run.lanes, **names, inputs=x, wanted=z))
    return z


def _convolution(module: nn.Conv1d | nn.Conv2d, name: str, run: LaneRun, x: Tensor) -> Tensor:
    if module.padding_mode != "zeros" or (isinstance(module.padding, str) and not run.alone):
        return _any(module, name, run, x)
    weight, bias = run.parameters[f"{name}weight"], run.parameters.get(f"{name}bias")
    if run.alone:
        convolve = functional.conv1d if type(module) is nn.Conv1d else functional.conv2d
        return convolve(x, weight, bias, module.stride, module.padding, module.dilation, module.groups)
    lanes, flat = x.shape[0], x.dim() == 4
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
        run.tape.append(
            ConvolutionRecord(
                lanes=run.lanes,
                weight=f"{name}weight",
                bias="" if bias is None else f"{name}bias",
                shape=weight.shape[1:],
                kernel=kernel.shape[1:],
                inputs=inputs,
                wanted=z,
                options=options,
                groups=module.groups,
            )
        )
    outputs = as_lanes(z, lanes)
    return outputs.squeeze(3) if flat else outputs


def _group_norm(module: nn.GroupNorm, name: str, run: LaneRun, x: Tensor) -> Tensor:
    if run.alone:
        weight, bias = run.parameters.get(f"{name}weight"), run.parameters.get(f"{name}bias")
        return torch.group_norm(x, module.num_groups, weight, bias, module.eps)
    lanes, batch, channels = x.shape[:3]
    weight, bias = run.spread(f"{name}weight", batch), run.spread(f"{name}bias", batch)
    weight = x.new_ones(lanes, 1, channels) if weight is None else weight
    bias = x.new_zeros(lanes, 1, channels) if bias is None else bias
    rows = as_channels(x).movedim(1, -1)
    normalised: Tensor = ChannelsLastGroupNorm.apply(  # type: ignore[no-untyped-call]
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
    if run.alone:
        return _any(module, name, run, x)
    batch, shape = x.shape[1], list(module.normalized_shape)
    y = functional.layer_norm(x, shape, eps=module.eps)
    weight, bias = run.spread(f"{name}weight", batch), run.spread(f"{name}bias", batch)
    between = [1] * (x.dim() - 2 - len(shape))
    if weight is not None:
        y = y * weight.view(*weight.shape[:2], *between, *shape)
    return y if bias is None else y + bias.view(*bias.shape[:2], *between, *shape)


def _each_channel(module: nn.Module, name: str, run: LaneRun, x: Tensor) -> Tensor:
    """Run a module that treats every channel alone and has no parameters."""
    result: Tensor = module(x) if run.alone else as_lanes(module(as_channels(x)), x.shape[0])
    return result


def _max_pool_2d(module: nn.MaxPool2d, name: str, run: LaneRun, x: Tensor) -> Tensor:
    if run.alone:
        return max_pool_2d(module, x)
    return _each_channel(module, name, run, x) if x.shape[0] > 1 else max_pool_2d(module, x.squeeze(0)).unsqueeze(0)


def _elementwise(module: nn.Module, name: str, run: LaneRun, x: Tensor) -> Tensor:
    result: Tensor = module(_own(module, x))
    return result


def _own(module: nn.Module, x: Tensor) -> Tensor:
    """Return a copy for a module that works in place: the tape and the sender of x still hold it."""
    return x.clone() if getattr(module, "inplace", False) else x


def _flatten(module: nn.Flatten, name: str, run: LaneRun, x: Tensor) -> Tensor:
    first, last = (axis + (not run.alone) if axis >= 0 else axis for axis in (module.start_dim, module.end_dim))
    return x.flatten(first, last)


def _over_rows(module: ClipRows | KeepLargest, name: str, run: LaneRun, x: Tensor) -> Tensor:
    return module.over(x, 1 if run.alone else 2)


def _dropout(module: nn.Dropout, name: str, run: LaneRun, x: Tensor) -> Tensor:
    if run.masks is None:
        return x
    layer = name.removesuffix(".")
    if run.alone:
        return x * run.masks.draw(layer, module.p, x.unsqueeze(0))[0]
    return x * run.masks.draw(layer, module.p, x)


def _sequential(module: nn.Sequential, name: str, run: LaneRun, x: Tensor) -> Tensor:
    for child_name, child in module._modules.items():
        if child is not None:
            x = run.apply(child, f"{name}{child_name}.", x)
    return x


def _residual(module: Residual, name: str, run: LaneRun, x: Tensor) -> Tensor:
    main = run.apply(module.main, f"{name}main.", x)
    return functional.relu(main + run.apply(module.shortcut, f"{name}shortcut.", x))


def _any(module: nn.Module, name: str, run: LaneRun, x: Tensor) -> Tensor:
    """Run a module that has no rule."""
    own = [key for key in run.parameters if key.startswith(name)]
    buffers = {key: buffer.to(x.device) for key, buffer in module.named_buffers()}

    def call(parameters: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        result: Tensor = functional_call(module, {**buffers, **parameters}, (rows,))
        return result

    if run.tape is None or not own:
        given = {key.removeprefix(name): run.parameters[key] for key in own}
        result: Tensor = call(given, _own(module, x)) if run.alone else vmap(call)(given, x)
        return result
    copies = {key.removeprefix(name): run.spread(key, x.shape[1]) for key in own}
    each: Tensor = vmap(vmap(lambda parameters, row: call(parameters, row.unsqueeze(0)).squeeze(0)))(copies, x)
    return each


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
    ClipRows: _over_rows,
    KeepLargest: _over_rows,
    **dict.fromkeys((nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Tanh, nn.Sigmoid, nn.Identity), _elementwise),
    **dict.fromkeys(
        (nn.MaxPool1d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
        _each_channel,
    ),
}
