"""What layers of known types make of one record and what that costs, in closed form: no tensor is formed.

The FLOPs are those of ``torch.utils.flop_counter``, and the tensors kept those that autograd saves for one copy of the
network; on tensors without data both would load PyTorch's compiler, which takes longer than to plan a study.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from torch import nn

from sim.models.architectures import Residual
from sim.models.largest import KeepLargest
from sim.models.network import Part

_FLOAT_BYTES = 4
_INDEX_BYTES = 8

Shape = tuple[int, ...]


class UnknownLayerError(Exception):
    """A layer has no closed form, or does not fit the record."""


@dataclass(frozen=True, eq=False)
class _Row:
    """One record between two layers."""

    shape: Shape
    differentiable: bool
    base: object = field(default_factory=object)  # Stands for its memory, which views share


@dataclass(kw_only=True)
class Passage:
    """One record's way through a part."""

    trained: bool  # Whether the part's parameters get gradients
    output_shape: Shape = ()
    # Multiplications and additions counted apart, matrix products and convolutions only
    forward_flops: int = 0
    backward_flops: int = 0
    # Bytes of each tensor kept for the backward pass, parameters aside
    kept: dict[object, int] = field(default_factory=dict)

    def apply(self, module: nn.Module, x: _Row) -> _Row:
        """Pass a module."""
        rule = _RULES.get(type(module))
        if rule is None:
            raise UnknownLayerError(type(module).__name__)
        return rule(module, self, x)

    def keep(self, row: _Row) -> None:
        """Keep a row; its views keep it only once."""
        self.kept[row.base] = _FLOAT_BYTES * prod(row.shape)

    def weigh(self, flops: int, x: _Row, shape: Shape) -> _Row:
        """Pass a layer of products, and return its output."""
        self.forward_flops += flops
        self.backward_flops += flops * (self.trained + x.differentiable)
        return _Row(shape, self.trained or x.differentiable)


def passage(part: Part, shape: Shape, *, trained: bool = True, differentiable: bool = False) -> Passage:
    """Send one record through a part.

    Parameters
    ----------
    shape : tuple of int
        Of the record at the part's entry.
    trained, differentiable : bool
        Whether the part's parameters and its inputs get gradients.

    Raises
    ------
    UnknownLayerError
    """
    found, x = Passage(trained=trained), _Row(shape, differentiable)
    for block in part.blocks:
        x = found.apply(block.module, x)
    found.output_shape = x.shape
    return found


def _fit(fits: bool) -> None:
    if not fits:
        raise UnknownLayerError


def _linear(module: nn.Linear, passed: Passage, x: _Row) -> _Row:
    _fit(x.shape == (module.in_features,))
    if passed.trained:
        passed.keep(x)
    return passed.weigh(2 * module.in_features * module.out_features, x, (module.out_features,))


def _convolution(module: nn.Conv1d | nn.Conv2d, passed: Passage, x: _Row) -> _Row:
    known = module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    _fit(known and len(x.shape) == 1 + len(module.kernel_size) and x.shape[0] == module.in_channels)
    space = _slid(x.shape[1:], module)
    if passed.trained or x.differentiable:
        passed.keep(x)
    products = prod(space) * prod(module.kernel_size) * module.in_channels * module.out_channels
    return passed.weigh(2 * products, x, (module.out_channels, *space))


def _slid(space: Shape, module: Any) -> Shape:
    """Return how many places a window takes along each axis."""

    def along(option: int | Shape) -> Shape:
        return (option,) * len(space) if isinstance(option, int) else option

    kernel, stride, padding, dilation = map(along, (module.kernel_size, module.stride, module.padding, module.dilation))
    places = tuple(
        (size + 2 * around - apart * (wide - 1) - 1) // step + 1
        for size, wide, step, around, apart in zip(space, kernel, stride, padding, dilation, strict=True)
    )
    _fit(min(places) > 0)
    return places


def _group_norm(module: nn.GroupNorm, passed: Passage, x: _Row) -> _Row:
    _fit(len(x.shape) > 1 and x.shape[0] == module.num_channels)
    differentiable = x.differentiable or (passed.trained and module.affine)
    if differentiable:
        passed.keep(x)
        for statistics in (object(), object()):  # means, and reciprocal standard deviations
            passed.kept[statistics] = _FLOAT_BYTES * module.num_groups
    return _Row(x.shape, differentiable)


def _max_pool(module: nn.MaxPool1d | nn.MaxPool2d, passed: Passage, x: _Row) -> _Row:
    axes = 1 if isinstance(module, nn.MaxPool1d) else 2
    _fit(len(x.shape) == 1 + axes and not module.ceil_mode and not module.return_indices)
    y = _Row((x.shape[0], *_slid(x.shape[1:], module)), x.differentiable)
    if x.differentiable:
        passed.keep(x)
        passed.kept[object()] = _INDEX_BYTES * prod(y.shape)
    return y


def _adaptive_average(module: nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d, passed: Passage, x: _Row) -> _Row:
    axes = 1 if isinstance(module, nn.AdaptiveAvgPool1d) else 2
    wanted: Any = module.output_size
    space = (wanted,) * axes if isinstance(wanted, int) else tuple(wanted)
    _fit(len(x.shape) == 1 + axes and None not in space)
    if x.differentiable and set(space) != {1}:  # the mean of all places keeps nothing
        passed.keep(x)
    return _Row((x.shape[0], *space), x.differentiable)


def _relu(module: nn.Module, passed: Passage, x: _Row) -> _Row:
    y = _Row(x.shape, x.differentiable)
    if y.differentiable:
        passed.keep(y)
    return y


def _flatten(module: nn.Flatten, passed: Passage, x: _Row) -> _Row:
    _fit((module.start_dim, module.end_dim) == (1, -1))
    return _Row((prod(x.shape),), x.differentiable, x.base)


def _keep_largest(module: KeepLargest, passed: Passage, x: _Row) -> _Row:
    if x.differentiable:
        passed.kept[object()] = prod(x.shape)  # one byte a value: whether it is kept
    return _Row(x.shape, x.differentiable)


def _same(module: nn.Module, passed: Passage, x: _Row) -> _Row:
    return x


def _sequential(module: nn.Sequential, passed: Passage, x: _Row) -> _Row:
    for child in module:
        x = passed.apply(child, x)
    return x


def _residual(module: Residual, passed: Passage, x: _Row) -> _Row:
    main, shortcut = passed.apply(module.main, x), passed.apply(module.shortcut, x)
    _fit(main.shape == shortcut.shape)
    return _relu(module, passed, _Row(main.shape, main.differentiable or shortcut.differentiable))


_RULES: Mapping[type[nn.Module], Callable[[Any, Passage, _Row], _Row]] = {
    nn.Linear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.GroupNorm: _group_norm,
    nn.MaxPool1d: _max_pool,
    nn.MaxPool2d: _max_pool,
    nn.AdaptiveAvgPool1d: _adaptive_average,
    nn.AdaptiveAvgPool2d: _adaptive_average,
    nn.ReLU: _relu,
    nn.Flatten: _flatten,
    nn.Identity: _same,
    nn.Dropout: _same,
    KeepLargest: _keep_largest,
    nn.Sequential: _sequential,
    Residual: _residual,
}
