"""A network whose first blocks stand side by side: a head for each party's columns, and one body behind their join."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sim.models import layers
from sim.models.build import build_network
from sim.models.network import Block, Network, Part
from sim.scenario.model import Model as ModelSettings
from sim.scenario.outcomes import Outcome


def side_by_side(head: Part) -> Part:
    """Return all parties' heads with their rows as each sends them, not added up; any other head as it is."""
    first, *rest = head.blocks
    if not isinstance(first.layer, layers.Heads):
        return head
    return replace(head, blocks=(Block(first.name, replace(first.layer, how=layers.CONCATENATION)), *rest))


def network_without(network: Network, party: int) -> Network:
    """Return a joined network in which one party is absent at prediction."""
    first, *rest = network.blocks
    heads = replace(first.layer, absent=party) if isinstance(first.layer, layers.Heads) else first.made_of
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
    :class:`sim.models.heads.Heads`.

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
    depth = len(settings.hidden) + 1
    cuts = settings.cut if isinstance(settings.cut, tuple) else (settings.cut, -1)
    first, last = cuts[0], cuts[-1]
    begin, end = (place + depth if place < 0 else place for place in (first, last))
    if not 0 < begin < depth:
        raise ValueError(f"cut {first} lies outside the model, which has {depth} layers; take cut = 1")
    whole = [build_network(settings, (len(own),), classes, outcome) for own in columns]
    width = settings.hidden[begin - 1] * (len(columns) if how == layers.CONCATENATION else 1)
    rest = settings.hidden[begin:]
    own_body = {"hidden": rest} if rest else {"name": "logistic"}
    body = build_network(settings.model_copy(update=own_body), (width,), classes, outcome)

    last_of_head = (behind,) if behind is not None else ()

    def blocks_of(networks: Sequence[Sequence[Block]], rest: Sequence[Block]) -> tuple[Block, ...]:
        chains = [(*blocks[:begin], *last_of_head) for blocks in networks]
        heads = tuple(
            layers.Sequential(tuple(own.layer for own in chain), tuple(own.name for own in chain)) for chain in chains
        )
        named = (
            replace(block, name=f"hidden{begin + number}") if block.name != "output" else block
            for number, block in enumerate(rest, 1)
        )
        return (Block("heads", layers.Heads(heads, tuple(columns), how, everywhere)), *named)

    def build() -> tuple[Block, ...]:
        return blocks_of([each.anew() for each in whole], body.anew())

    network = Network(
        blocks=blocks_of([each.blocks for each in whole], body.blocks),
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


def network_behind(first: layers.Layer, network: Network, features: int) -> Network:
    """Return a network on records of so many features that begins with a layer without parameters."""
    block = Block(type(first).__name__.lower(), first)
    return replace(
        network, blocks=(block, *network.blocks), input_shape=(features,), build=lambda: (block, *network.anew())
    )
