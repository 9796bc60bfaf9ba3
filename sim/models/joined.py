"""A network whose first blocks stand side by side: a head for each party's columns, and one body behind their join."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor, nn

from sim.models.build import build_network
from sim.models.network import Block, Network, Part
from sim.scenario.model import Model as ModelSettings
from sim.scenario.outcomes import Outcome

CONCATENATION: Final = "concatenation"
SUM: Final = "sum"
MEAN: Final = "mean"
JOINS: Final = (CONCATENATION, SUM, MEAN)
"""How the heads' outputs become the body's input (Ceballos et al. 2020)."""


def join(rows: Mapping[int, Tensor], parties: int, how: str) -> Tensor:
    """Join the rows ``[..., feature]`` of the parties that are there, by number; absent ones count as 0.

    A mean is over those that are there.
    """
    present = [rows[party] for party in sorted(rows)]
    if how == CONCATENATION:
        nothing = torch.zeros_like(present[0])
        return torch.cat([rows.get(party, nothing) for party in range(parties)], -1)
    added = torch.stack(present).sum(0)
    return added / len(present) if how == MEAN else added


def shares(gradient: Tensor, present: Sequence[int], parties: int, how: str) -> dict[int, Tensor]:
    """Return each present party's share of the gradient in what was joined."""
    if how == CONCATENATION:
        pieces = torch.tensor_split(gradient, parties, -1)
        return {party: pieces[party] for party in present}
    return dict.fromkeys(present, gradient / len(present) if how == MEAN else gradient)


class Heads(nn.Module):
    """All parties' heads, each on its own columns of a record, and their join.

    Parameters
    ----------
    heads : sequence of Sequential
    columns : sequence of tuple of int
        By party.
    how : str
        One of :data:`JOINS`.
    everywhere : bool
        Whether every record has all parties' columns; otherwise a party is absent where its own are no numbers.
    """

    def __init__(
        self, heads: Sequence[nn.Sequential], columns: Sequence[tuple[int, ...]], how: str, *, everywhere: bool = True
    ) -> None:
        super().__init__()
        self._everywhere = everywhere
        self._columns, self._how = [list(own) for own in columns], how
        self._absent = -1
        for party, head in enumerate(heads):
            self.add_module(str(party), head)

    def forward(self, x: Tensor) -> Tensor:
        """Run every head on its columns of ``[..., feature]``, and join."""
        heads = enumerate(zip(self._modules.values(), self._columns, strict=True))
        there = {k: (head, own) for k, (head, own) in heads if head is not None and k != self._absent}
        seen = {party: x[..., own] for party, (_, own) in there.items()}
        if self._everywhere:
            return join({k: head(seen[k]) for k, (head, _) in there.items()}, len(self._columns), self._how)
        known = {k: ~own.isnan().any(-1, keepdim=True) for k, own in seen.items()}
        rows = {k: torch.where(known[k], head(seen[k].nan_to_num()), 0.0) for k, (head, _) in there.items()}
        joined = join(rows, len(self._columns), SUM if self._how == MEAN else self._how)
        return joined / torch.stack(list(known.values())).sum(0).clamp(min=1) if self._how == MEAN else joined

    def without(self, party: int) -> Heads:
        """Return the same heads where one party is absent."""
        others = copy(self)
        others._absent = party
        return others


def side_by_side(head: Part) -> Part:
    """Return all parties' heads with their rows as each sends them, not added up; any other head as it is."""
    first, *rest = head.blocks
    if not isinstance(first.module, Heads):
        return head
    apart = copy(first.module)
    apart._how = CONCATENATION
    return replace(head, blocks=(Block(first.name, apart), *rest))


class Columns(nn.Module):
    """Some columns of a record."""

    def __init__(self, columns: Sequence[int]) -> None:
        super().__init__()
        self.columns = list(columns)

    def forward(self, x: Tensor) -> Tensor:
        """Take them out of ``[..., feature]``."""
        return x[..., self.columns]


class Known(nn.Module):
    """A record with zeros for what is no number: the columns of a party that is not there."""

    def forward(self, x: Tensor) -> Tensor:
        """Put them in ``[..., feature]``."""
        return x.nan_to_num()


def network_without(network: Network, party: int) -> Network:
    """Return a joined network in which one party is absent at prediction."""
    first, *rest = network.blocks
    heads = first.module.without(party) if isinstance(first.module, Heads) else first.module
    return replace(network, blocks=(Block(first.name, heads), *rest))


def joined_network(
    settings: ModelSettings,
    columns: Sequence[tuple[int, ...]],
    features: int,
    classes: int,
    outcome: Outcome,
    topology: str,
    how: str,
    behind: Block | None = None,
    *,
    everywhere: bool = True,
) -> tuple[Network, tuple[Part, ...], tuple[Part, ...]]:
    """Build a multilayer perceptron that begins with a head for each party, cut where the settings say.

    Each head has the layers in front of the cut, on the party's own columns; the body has the others, the first of them
    as wide as the join. A block without parameters may stand at the end of each head. ``everywhere`` is as of
    :class:`Heads`.

    Returns
    -------
    Network
        On whole records: the heads as one block, ``heads``, and the body's blocks.
    tuple of Part
        All heads together, body and, U-shaped, tail.
    tuple of Part
        By party: its head on its own columns, with the names that its parameters have in the network.

    Raises
    ------
    ValueError
        In one line: if it is no multilayer perceptron, or the cut lies outside it.
    """
    if settings.name != "mlp":
        raise ValueError(f'"{settings.name}" has no heads for parties; take name = "mlp"')
    layers = len(settings.hidden) + 1
    cuts = settings.cut if isinstance(settings.cut, tuple) else (settings.cut, -1)
    first, last = cuts[0], cuts[-1]
    begin, end = (place + layers if place < 0 else place for place in (first, last))
    if not 0 < begin < layers:
        raise ValueError(f"cut {first} lies outside the model, which has {layers} layers; take cut = 1")
    whole = [build_network(settings, (len(own),), classes, outcome) for own in columns]
    width = settings.hidden[begin - 1] * (len(columns) if how == CONCATENATION else 1)
    rest = settings.hidden[begin:]
    own_body = {"hidden": rest} if rest else {"name": "logistic"}
    body = build_network(settings.model_copy(update=own_body), (width,), classes, outcome)

    last_of_head = (behind,) if behind is not None else ()

    def blocks_of(networks: Sequence[Sequence[Block]], rest: Sequence[Block]) -> tuple[Block, ...]:
        heads = [
            nn.Sequential(OrderedDict((own.name, own.module) for own in (*blocks[:begin], *last_of_head)))
            for blocks in networks
        ]
        named = (
            replace(block, name=f"hidden{begin + number}") if block.name != "output" else block
            for number, block in enumerate(rest, 1)
        )
        return (Block("heads", Heads(heads, columns, how, everywhere=everywhere)), *named)

    def build() -> tuple[Block, ...]:
        return blocks_of([_made(each) for each in whole], _made(body))

    network = Network(
        blocks=blocks_of([deepcopy(each.blocks) for each in whole], body.blocks),  # alike, they may be one object
        input_shape=(features,),
        outputs=body.outputs,
        build=build,
    )
    parts = network.split(topology, 1 if topology == "vanilla" else (1, end - begin + 1))
    heads = []
    for party, each in enumerate(whole):
        named = (replace(own, name=f"heads.{party}.{own.name}") for own in (*each.blocks[:begin], *last_of_head))
        heads.append(Part("head", tuple(named)))
    return network, parts, tuple(heads)


def network_behind(first: nn.Module, network: Network, features: int) -> Network:
    """Return a network on records of so many features that begins with a module without parameters."""
    block = Block(type(first).__name__.lower(), first)
    return replace(
        network, blocks=(block, *network.blocks), input_shape=(features,), build=lambda: (block, *_made(network))
    )


def _made(network: Network) -> tuple[Block, ...]:
    return network.blocks if network.build is None else network.build()
