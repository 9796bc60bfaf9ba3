"""Blocks, parts and networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from sim.foundation.rng import stream
from sim.models.layers import Dropout, Layer, Module, Shape, one_after_another

if TYPE_CHECKING:
    from torch import Tensor, nn

Parameters: TypeAlias = "dict[str, Tensor]"
"""Parameters by name, each ``[lane, *shape]``."""
Built = TypeVar("Built")
_ROLES = {
    "vanilla": ("head", "body"),
    "u-shaped": ("head", "body", "tail"),
    "multi-hop": ("head", "middle", "body"),
    "multi-hop-u-shaped": ("head", "middle", "body", "tail"),
}
STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class Block:
    """A named stretch of the network."""

    name: str  # Prefix of its parameters' names
    made_of: Layer | nn.Module  # A module is one that exists already

    @property
    def layer(self) -> Layer:
        """What it is made of as a layer."""
        return self.made_of if isinstance(self.made_of, Layer) else Module(self.made_of)

    @cached_property
    def module(self) -> nn.Module:
        """The template; its own parameters hold the shapes, never the values in training."""
        if not isinstance(self.made_of, Layer):
            return self.made_of
        import torch

        from sim.models.modules import made

        with torch.device("meta"):
            return made(self.made_of)

    @cached_property
    def described(self) -> Layer:
        """What it is made of in plain data, as far as that is known of a module."""
        if isinstance(self.made_of, Layer):
            return self.made_of
        from sim.models.modules import described

        return described(self.made_of)


@dataclass(frozen=True)
class Part:
    """Consecutive blocks that stand at one place: the whole model, or its head, body or tail."""

    name: str  # "model", "head", "middle", "body" or "tail"
    blocks: tuple[Block, ...]

    @cached_property
    def _shapes(self) -> dict[str, Shape]:
        shapes = {
            f"{block.name}.{name}": shape for block in self.blocks for name, shape in block.layer.shapes().items()
        }
        return shapes | {name: tuple(value.shape) for name, value in _running_values(self.blocks).items()}

    @cached_property
    def statistics(self) -> frozenset[str]:
        """Names of BatchNorm's running statistics, which stand among the parameters and are not trained."""
        if not (modules := _modules(self.blocks)):
            return frozenset()
        from torch.nn.modules.batchnorm import _BatchNorm

        return frozenset(
            f"{block.name}.{prefix}{'.' if prefix else ''}{name}"
            for block, outer in modules
            for prefix, module in outer.named_modules()
            if isinstance(module, _BatchNorm)
            for name in STATISTICS
        )

    @cached_property
    def drops(self) -> bool:
        """Whether the part holds dropout."""
        return any(isinstance(layer, Dropout) for block in self.blocks for layer in block.described.all())

    def chain(self) -> Iterator[tuple[str, Layer]]:
        """Yield the part's layers one after another, each with its name."""
        for block in self.blocks:
            yield from one_after_another(block.described, f"{block.name}.")

    def shapes(self) -> dict[str, Shape]:
        """Return the shape of every parameter of the part by name, and behind them those of running statistics."""
        return self._shapes

    def parameter_count(self) -> int:
        """Return the number of scalars that train in the part."""
        return sum(prod(shape) for name, shape in self.shapes().items() if name not in self.statistics)

    def statistics_count(self) -> int:
        """Return the number of scalars in the part's running statistics."""
        return sum(prod(self.shapes()[name]) for name in self.statistics)

    def trained(self, parameters: Mapping[str, Tensor]) -> Parameters:
        """Return those of the part's parameters that train, in the order given."""
        return {name: value for name, value in parameters.items() if name not in self.statistics}

    def select(self, parameters: Mapping[str, Tensor]) -> Parameters:
        """Return this part's parameters out of a larger set, in the part's own order."""
        return {name: parameters[name] for name in self.shapes()}


@dataclass(frozen=True, kw_only=True)
class Network:
    """A model as a chain of blocks."""

    blocks: tuple[Block, ...]
    input_shape: tuple[int, ...]
    outputs: int  # 1 for a binary head with one logit or an amount; otherwise one a class, or one an interval of times
    # Makes the blocks anew, with initial values from PyTorch's generator; without it the templates' own values are the
    # initial ones
    build: Callable[[], tuple[Block, ...]] | None = field(default=None, repr=False, compare=False)
    # [1, *shape] initial values that are not drawn
    given: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def whole(self) -> Part:
        """The network as one part."""
        return Part("model", self.blocks)

    def split(self, topology: str, cut: int | tuple[int, ...]) -> tuple[Part, ...]:
        """Cut the network where a topology asks for it.

        Parameters
        ----------
        topology : {"vanilla", "u-shaped", "multi-hop", "multi-hop-u-shaped"}
            Vanilla: ``(head, body)``, U-shaped: ``(head, body, tail)``, multi-hop: ``(head, middle, body)``, or with a
            tail behind them.
        cut : int or tuple of int
            Index of the first block of the second part and, where there are more, of the others; negative counts from
            the end. Of more than are needed vanilla and multi-hop take the first, U-shaped the first and the last.

        Raises
        ------
        ValueError
            If a part would hold no block, or nothing to train.
        """
        n = len(self.blocks)
        given = cut if isinstance(cut, tuple) else (cut,)
        roles, needed = _ROLES[topology], len(_ROLES[topology]) - 1
        if topology.startswith("multi-hop") and len(given) < needed:
            raise ValueError(
                f"cut {list(given)} has {len(given)} of the {needed} blocks with which parts of {topology} begin"
            )
        bounds = (given[0], given[-1] if len(given) > 1 else -1) if topology == "u-shaped" else given[:needed]
        absolute = tuple(b + n if b < 0 else b for b in bounds)
        edges = (0, *absolute, n)
        names = ", ".join(block.name for block in self.blocks)
        if any(low >= high for low, high in pairwise(edges)):
            need = len(edges) - 1
            raise ValueError(
                f"cut {list(bounds)} lies outside the model: {topology} needs {need} parts of at least one block each, "
                f"and this model's blocks are: {names}; take another cut, or a deeper model"
            )
        parts = tuple(
            Part(role, self.blocks[low:high]) for role, (low, high) in zip(roles, pairwise(edges), strict=False)
        )
        for part in parts:
            if not part.parameter_count():
                raise ValueError(
                    f"cut {list(bounds)} leaves the {part.name} without a parameter to train; "
                    f"this model's blocks are: {names}"
                )
        return parts

    def anew(self) -> tuple[Block, ...]:
        """Return the blocks with initial values from PyTorch's generator, or with the templates' own."""
        return self.blocks if self.build is None else self.build()

    def initial_parameters(self, seed: int) -> Parameters:
        """Draw the initial parameters, ``[1, *shape]`` each, as the modules initialise themselves."""
        torch_seed = int(stream(seed, "initial-parameters").integers(2**63))
        blocks = seeded(self.anew, torch_seed)
        drawn = {name: value.detach().clone().unsqueeze(0) for name, value in named_values(blocks).items()}
        return drawn | {name: value.clone() for name, value in self.given.items()}


def named_values(blocks: tuple[Block, ...]) -> Parameters:
    """Return the blocks' own parameters, and behind them BatchNorm's running statistics, without a lane axis."""
    values: Parameters = {f"{b.name}.{name}": value for b in blocks for name, value in b.module.named_parameters()}
    return values | _running_values(blocks)


def _running_values(blocks: tuple[Block, ...]) -> Parameters:
    statistics = Part("", blocks).statistics
    buffers = (
        (f"{block.name}.{name}", value) for block, module in _modules(blocks) for name, value in module.named_buffers()
    )
    return {name: value for name, value in buffers if name in statistics}


def _modules(blocks: tuple[Block, ...]) -> list[tuple[Block, nn.Module]]:
    """Return the blocks that are modules already, and may hold BatchNorm, which no layer in plain data does."""
    return [(block, block.made_of) for block in blocks if not isinstance(block.made_of, Layer)]


def seeded(build: Callable[[], Built], seed: int) -> Built:
    """Build modules with PyTorch's generator seeded, and leave the generator as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
