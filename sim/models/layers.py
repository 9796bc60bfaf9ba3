"""Layers as plain data: all that planning knows of a network, and what modules are made of when something trains.

:func:`sim.models.modules.made` makes the modules. Layers are compared by identity, as modules are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, ...]


class Layer:
    """A layer, or several in one."""

    @property
    def inner(self) -> tuple[tuple[str, Layer], ...]:
        """The layers inside it by name, in order."""
        return ()

    @property
    def own_shapes(self) -> dict[str, Shape]:
        """Shapes of its parameters by name, but for those of the layers inside it."""
        return {}

    def shapes(self) -> dict[str, Shape]:
        """Return the shape of every parameter by name."""
        found = dict(self.own_shapes)
        for name, layer in self.inner:
            found |= {f"{name}.{key}": shape for key, shape in layer.shapes().items()}
        return found

    def all(self) -> Iterator[Layer]:
        """Yield itself and all that is inside it."""
        yield self
        for _, layer in self.inner:
            yield from layer.all()


@dataclass(frozen=True, eq=False)
class Linear(Layer):
    """Takes ``[inputs]`` to ``[outputs]``."""

    inputs: int
    outputs: int
    bias: bool = True

    @property
    def own_shapes(self) -> dict[str, Shape]:
        """See :class:`Layer`."""
        return {"weight": (self.outputs, self.inputs)} | ({"bias": (self.outputs,)} if self.bias else {})


@dataclass(frozen=True)
class Window:
    """What slides over places along one axis or two, and how far at a time."""

    kernel: Shape
    stride: Shape
    padding: Shape
    dilation: Shape

    @classmethod
    def alike(cls, axes: int, kernel: int, stride: int = 1, padding: int = 0) -> Window:
        """Return a window that is alike along all axes."""
        return cls((kernel,) * axes, (stride,) * axes, (padding,) * axes, (1,) * axes)


@dataclass(frozen=True, eq=False)
class Convolution(Layer):
    """Takes ``[channel, *place]`` to as many channels of its own."""

    inputs: int
    outputs: int
    window: Window
    bias: bool = True

    @property
    def own_shapes(self) -> dict[str, Shape]:
        """See :class:`Layer`."""
        weight = (self.outputs, self.inputs, *self.window.kernel)
        return {"weight": weight} | ({"bias": (self.outputs,)} if self.bias else {})


@dataclass(frozen=True, eq=False)
class GroupNorm(Layer):
    """Normalises each record's groups of channels."""

    groups: int
    channels: int
    affine: bool = True

    @property
    def own_shapes(self) -> dict[str, Shape]:
        """See :class:`Layer`."""
        return {"weight": (self.channels,), "bias": (self.channels,)} if self.affine else {}


@dataclass(frozen=True, eq=False)
class MaxPool(Layer):
    """The largest value in each window."""

    window: Window


@dataclass(frozen=True, eq=False)
class AdaptiveAvgPool(Layer):
    """Means over windows such that there are so many places along one axis or two."""

    places: Shape


class ReLU(Layer):
    """The rectifier."""


class Flatten(Layer):
    """Takes a record to a row."""


class Identity(Layer):
    """Nothing."""


@dataclass(frozen=True, eq=False)
class Dropout(Layer):
    """Drops values in training, each with this probability."""

    rate: float


@dataclass(frozen=True, eq=False)
class ClipRows(Layer):
    """See :class:`sim.models.clip.ClipRows`."""

    clip: float
    order: Literal[1, 2] = 2


@dataclass(frozen=True, eq=False)
class KeepLargest(Layer):
    """See :class:`sim.models.largest.KeepLargest`."""

    share: float


def kept(share: float, values: int) -> int:
    """Return how many of a row's values are kept."""
    return max(1, ceil(share * values - 1e-9))


@dataclass(frozen=True, eq=False)
class Columns(Layer):
    """See :class:`sim.models.heads.Columns`."""

    columns: tuple[int, ...]


class Known(Layer):
    """See :class:`sim.models.heads.Known`."""


@dataclass(frozen=True, eq=False)
class Sequential(Layer):
    """Layers one after another; without names they are numbered."""

    layers: tuple[Layer, ...]
    names: tuple[str, ...] = ()

    @property
    def inner(self) -> tuple[tuple[str, Layer], ...]:
        """See :class:`Layer`."""
        return tuple(zip(self.names or map(str, range(len(self.layers))), self.layers, strict=True))


def chain(*layers: Layer) -> Sequential:
    """Return layers one after another, numbered."""
    return Sequential(layers)


@dataclass(frozen=True, eq=False)
class Residual(Layer):
    """See :class:`sim.models.modules.Residual`."""

    main: Layer
    shortcut: Layer

    @property
    def inner(self) -> tuple[tuple[str, Layer], ...]:
        """See :class:`Layer`."""
        return ("main", self.main), ("shortcut", self.shortcut)


CONCATENATION: Final = "concatenation"
SUM: Final = "sum"
MEAN: Final = "mean"
JOINS: Final = (CONCATENATION, SUM, MEAN)
"""How the heads' outputs become the body's input (Ceballos et al. 2020)."""


@dataclass(frozen=True, eq=False)
class Heads(Layer):
    """See :class:`sim.models.heads.Heads`."""

    heads: tuple[Layer, ...]
    columns: tuple[Shape, ...]
    how: str
    everywhere: bool = True
    absent: int = -1

    @property
    def inner(self) -> tuple[tuple[str, Layer], ...]:
        """See :class:`Layer`."""
        return tuple((str(party), head) for party, head in enumerate(self.heads))


@dataclass(frozen=True, eq=False)
class Module(Layer):
    """A module that exists, with values of its own, as one that a user's factory has made."""

    module: nn.Module

    @property
    def own_shapes(self) -> dict[str, Shape]:
        """See :class:`Layer`."""
        return {name: tuple(value.shape) for name, value in self.module.named_parameters()}


def one_after_another(layer: Layer, name: str = "") -> Iterator[tuple[str, Layer]]:
    """Yield the layers of a chain, each with its name; what is no chain is one layer."""
    if isinstance(layer, Sequential):
        for inner_name, inner in layer.inner:
            yield from one_after_another(inner, f"{name}{inner_name}.")
    else:
        yield name, layer
