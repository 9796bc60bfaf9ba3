"""Networks as ordered, named blocks; a cut is a boundary between two blocks.

One network serves every strategy: the whole model for federated learning, head and body for vanilla split learning,
head, body and tail for U-shaped split learning. Blocks are ordinary ``torch.nn.Module`` objects and serve as templates:
the engine keeps the parameters outside them, stacked over lanes (see ``sim.engine.lanes``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from sim.rng import stream
from sim.scenario import Model as ModelSettings

Parameters = dict[str, Tensor]
"""Parameters by name, each ``[lane, *shape]``."""


@dataclass(frozen=True)
class Block:
    """A named stretch of the network.

    Attributes
    ----------
    name : str
        Prefix of its parameters' names.
    module : torch.nn.Module
        The template; its own parameters hold the shapes, never the values in training.
    """

    name: str
    module: nn.Module


@dataclass(frozen=True)
class Part:
    """Consecutive blocks that stand at one place: the whole model, or its head, body or tail.

    Attributes
    ----------
    name : str
        ``"model"``, ``"head"``, ``"body"`` or ``"tail"``.
    blocks : tuple of Block
    """

    name: str
    blocks: tuple[Block, ...]

    def shapes(self) -> dict[str, torch.Size]:
        """Return the shape of every parameter of the part, by name."""
        return {
            f"{block.name}.{name}": parameter.shape
            for block in self.blocks
            for name, parameter in block.module.named_parameters()
        }

    def parameter_count(self) -> int:
        """Return the number of scalars in the part."""
        return sum(shape.numel() for shape in self.shapes().values())

    def select(self, parameters: Mapping[str, Tensor]) -> Parameters:
        """Return this part's parameters out of a larger set, in the part's own order."""
        return {name: parameters[name] for name in self.shapes()}


@dataclass(frozen=True)
class Network:
    """A model as a chain of blocks.

    Attributes
    ----------
    blocks : tuple of Block
    input_shape : tuple of int
        Shape of one record.
    outputs : int
        1 for a binary head with one logit, otherwise the number of classes.
    """

    blocks: tuple[Block, ...]
    input_shape: tuple[int, ...]
    outputs: int

    @property
    def whole(self) -> Part:
        """The network as one part."""
        return Part("model", self.blocks)

    def split(self, topology: str, cut: int | tuple[int, int]) -> tuple[Part, ...]:
        """Cut the network where a topology asks for it.

        Parameters
        ----------
        topology : {"vanilla", "u-shaped"}
            Vanilla: ``(head, body)``, U-shaped: ``(head, body, tail)``.
        cut : int or (int, int)
            Index of the body's first block and, for U-shaped, of the tail's first block; negative counts from the end.

        Returns
        -------
        tuple of Part

        Raises
        ------
        ValueError
            If a part would hold no block.
        """
        n = len(self.blocks)
        first, last = cut if isinstance(cut, tuple) else (cut, -1)
        bounds = (first,) if topology == "vanilla" else (first, last)
        absolute = tuple(b + n if b < 0 else b for b in bounds)
        edges = (0, *absolute, n)
        if any(low >= high for low, high in pairwise(edges)):
            names = ", ".join(block.name for block in self.blocks)
            need = len(edges) - 1
            raise ValueError(
                f"cut {list(bounds)} lies outside the model: {topology} needs {need} parts of at least one block each, "
                f"and this model's blocks are: {names}"
            )
        parts = ("head", "body", "tail")
        return tuple(
            Part(name, self.blocks[low:high]) for name, low, high in zip(parts, edges, edges[1:], strict=False)
        )

    def initial_parameters(self, seed: int) -> Parameters:
        """Draw the initial parameters; every party that knows the seed gets the same.

        Parameters
        ----------
        seed : int
            The run's seed.

        Returns
        -------
        dict of str to Tensor
            ``[1, *shape]`` each, initialised as PyTorch initialises the modules.
        """
        torch_seed = int(stream(seed, "initial-parameters").integers(2**63))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed)
            for block in self.blocks:
                block.module.apply(_reset)
        return {
            f"{block.name}.{name}": parameter.detach().clone().unsqueeze(0)
            for block in self.blocks
            for name, parameter in block.module.named_parameters()
        }


def _reset(module: nn.Module) -> None:
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()


def _logistic(settings: ModelSettings, inputs: int, outputs: int) -> tuple[Block, ...]:
    return (Block("output", nn.Linear(inputs, outputs)),)


def _mlp(settings: ModelSettings, inputs: int, outputs: int) -> tuple[Block, ...]:
    widths = (inputs, *settings.hidden)
    hidden = (
        Block(f"hidden{i}", nn.Sequential(nn.Linear(a, b), nn.ReLU()))
        for i, (a, b) in enumerate(pairwise(widths), start=1)
    )
    return (*hidden, Block("output", nn.Linear(widths[-1], outputs)))


FACTORIES: dict[str, Callable[[ModelSettings, int, int], tuple[Block, ...]]] = {"logistic": _logistic, "mlp": _mlp}


def build_network(settings: ModelSettings, input_shape: tuple[int, ...], classes: int) -> Network:
    """Build the network that a scenario asks for.

    Parameters
    ----------
    settings : sim.scenario.Model
    input_shape : tuple of int
        Shape of one record; one axis for tabular data.
    classes : int
        Number of classes in the data.

    Returns
    -------
    Network
    """
    outputs = 1 if classes == 2 and settings.head == "binary" else classes
    return Network(FACTORIES[settings.name](settings, input_shape[0], outputs), input_shape, outputs)
