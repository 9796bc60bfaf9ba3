"""What layers of known types make of one record and what that costs, in closed form: no tensor is formed.

The FLOPs are those of ``torch.utils.flop_counter``, and the tensors kept those that autograd saves for one copy of the
network; on tensors without data both would load PyTorch's compiler, which takes longer than to plan a study.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from sim.models import layers
from sim.models.layers import CONCATENATION, MEAN, Shape
from sim.models.network import Part

_FLOAT_BYTES = 4
_INDEX_BYTES = 8


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

    def apply(self, layer: layers.Layer, x: _Row) -> _Row:
        """Pass a layer."""
        rule = _RULES.get(type(layer))
        if rule is None:
            raise UnknownLayerError(type(layer).__name__)
        return rule(layer, self, x)

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
        x = found.apply(block.described, x)
    found.output_shape = x.shape
    return found


def _fit(fits: bool) -> None:
    if not fits:
        raise UnknownLayerError


def _linear(layer: layers.Linear, passed: Passage, x: _Row) -> _Row:
    _fit(x.shape == (layer.inputs,))
    if passed.trained:
        passed.keep(x)
    return passed.weigh(2 * layer.inputs * layer.outputs, x, (layer.outputs,))


def _convolution(layer: layers.Convolution, passed: Passage, x: _Row) -> _Row:
    _fit(len(x.shape) == 1 + len(layer.window.kernel) and x.shape[0] == layer.inputs)
    space = _slid(x.shape[1:], layer.window)
    if passed.trained or x.differentiable:
        passed.keep(x)
    products = prod(space) * prod(layer.window.kernel) * layer.inputs * layer.outputs
    return passed.weigh(2 * products, x, (layer.outputs, *space))


def _slid(space: Shape, window: layers.Window) -> Shape:
    """Return how many places a window takes along each axis."""
    along = zip(space, window.kernel, window.stride, window.padding, window.dilation, strict=True)
    places = tuple(
        (size + 2 * around - apart * (wide - 1) - 1) // step + 1 for size, wide, step, around, apart in along
    )
    _fit(min(places) > 0)
    return places


def _group_norm(layer: layers.GroupNorm, passed: Passage, x: _Row) -> _Row:
    _fit(len(x.shape) > 1 and x.shape[0] == layer.channels)
    differentiable = x.differentiable or (passed.trained and layer.affine)
    if differentiable:
        passed.keep(x)
        for statistics in (object(), object()):  # means, and reciprocal standard deviations
            passed.kept[statistics] = _FLOAT_BYTES * layer.groups
    return _Row(x.shape, differentiable)


def _max_pool(layer: layers.MaxPool, passed: Passage, x: _Row) -> _Row:
    _fit(len(x.shape) == 1 + len(layer.window.kernel))
    y = _Row((x.shape[0], *_slid(x.shape[1:], layer.window)), x.differentiable)
    if x.differentiable:
        passed.keep(x)
        passed.kept[object()] = _INDEX_BYTES * prod(y.shape)
    return y


def _adaptive_average(layer: layers.AdaptiveAvgPool, passed: Passage, x: _Row) -> _Row:
    _fit(len(x.shape) == 1 + len(layer.places))
    if x.differentiable and set(layer.places) != {1}:  # the mean of all places keeps nothing
        passed.keep(x)
    return _Row((x.shape[0], *layer.places), x.differentiable)


def _relu(layer: layers.Layer, passed: Passage, x: _Row) -> _Row:
    y = _Row(x.shape, x.differentiable)
    if y.differentiable:
        passed.keep(y)
    return y


def _flatten(layer: layers.Flatten, passed: Passage, x: _Row) -> _Row:
    return _Row((prod(x.shape),), x.differentiable, x.base)


def _keep_largest(layer: layers.KeepLargest, passed: Passage, x: _Row) -> _Row:
    if x.differentiable:
        passed.kept[object()] = prod(x.shape)  # one byte a value: whether it is kept
    return _Row(x.shape, x.differentiable)


def _clip_rows(layer: layers.ClipRows, passed: Passage, x: _Row) -> _Row:
    y = _Row(x.shape, x.differentiable)
    if x.differentiable:
        passed.keep(x)
        passed.keep(_Row(x.shape, differentiable=True))  # without what is no finite number
        scalars, conditions = 4, layer.order  # of the row's size, and of how it compares
        passed.kept[object()] = _FLOAT_BYTES * scalars + conditions
    return y


def _heads(layer: layers.Heads, passed: Passage, x: _Row) -> _Row:
    _fit(len(x.shape) == 1 and not x.differentiable)
    rows = []
    for party, (head, columns) in enumerate(zip(layer.heads, layer.columns, strict=True)):
        if party != layer.absent:
            rows.append(passed.apply(head, _Row((len(columns),), differentiable=False)))
            if rows[-1].differentiable and not layer.everywhere:
                passed.kept[object()] = 1  # whether the party is there
    differentiable = any(row.differentiable for row in rows)
    if layer.how == MEAN and differentiable and not layer.everywhere:
        passed.kept[object()] = _INDEX_BYTES  # of how many it is the mean
    width = rows[0].shape[0]
    return _Row((width * len(layer.heads) if layer.how == CONCATENATION else width,), differentiable)


def _columns(layer: layers.Columns, passed: Passage, x: _Row) -> _Row:
    _fit(len(x.shape) == 1 and not x.differentiable)
    return _Row((len(layer.columns),), differentiable=False)


def _known(layer: layers.Known, passed: Passage, x: _Row) -> _Row:
    _fit(not x.differentiable)
    return _Row(x.shape, differentiable=False)


def _same(layer: layers.Layer, passed: Passage, x: _Row) -> _Row:
    return x


def _sequential(layer: layers.Sequential, passed: Passage, x: _Row) -> _Row:
    for inner in layer.layers:
        x = passed.apply(inner, x)
    return x


def _residual(layer: layers.Residual, passed: Passage, x: _Row) -> _Row:
    main, shortcut = passed.apply(layer.main, x), passed.apply(layer.shortcut, x)
    _fit(main.shape == shortcut.shape)
    return _relu(layer, passed, _Row(main.shape, main.differentiable or shortcut.differentiable))


_RULES: Mapping[type[layers.Layer], Callable[[Any, Passage, _Row], _Row]] = {
    layers.Linear: _linear,
    layers.Convolution: _convolution,
    layers.GroupNorm: _group_norm,
    layers.MaxPool: _max_pool,
    layers.AdaptiveAvgPool: _adaptive_average,
    layers.ReLU: _relu,
    layers.Flatten: _flatten,
    layers.Identity: _same,
    layers.Dropout: _same,
    layers.KeepLargest: _keep_largest,
    layers.ClipRows: _clip_rows,
    layers.Heads: _heads,
    layers.Columns: _columns,
    layers.Known: _known,
    layers.Sequential: _sequential,
    layers.Residual: _residual,
}
