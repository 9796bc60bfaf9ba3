"""How a run's network is cut, which of its parts train, and what a public head begins with."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import combinations

import torch

from sim.data.facts import Facts
from sim.foundation.problems import ScenarioError
from sim.methods.method import Method
from sim.methods.protocol import Protocol
from sim.models import Block, Network, Part, build_network, stored_values
from sim.scenario import Model
from sim.scenario.spec import RunSpec


def cut_network(spec: RunSpec, facts: Facts, protocol: Protocol) -> tuple[Network, tuple[Part, ...]]:
    """Build the network and cut it as the method asks.

    Raises
    ------
    ScenarioError
        If the model does not fit the data, or the cut lies outside it.
    """
    try:
        # Modules draw initial values from PyTorch's global generator when they are made; ours come from a stream.
        with torch.random.fork_rng(devices=[]):
            network = build_network(spec.model, facts.input_shape, len(facts.classes), spec.data.outcome_of_a_record)
    except ValueError as error:
        raise ScenarioError([f"model: {error}"]) from None
    if protocol.topology == "whole":
        return network, (network.whole,)
    try:
        return network, network.split(protocol.topology, spec.model.cut)
    except ValueError as error:
        raise ScenarioError([f"model.cut: {error}; {_with_a_cut(spec.model, protocol.topology, network)}"]) from None


def _with_a_cut(model: Model, topology: str, network: Network) -> str:
    """Name a cut that this model has or, where it has none, a model that has one."""
    blocks, vanilla = len(network.blocks), topology == "vanilla"
    places = 3 if topology == "multi-hop-u-shaped" else 2
    for bounds in combinations(range(1, blocks + vanilla), places):
        with suppress(ValueError):
            network.split(topology, bounds)
            return f"take cut = {bounds[0] if vanilla else list(bounds)}"
    example = "hidden = [32], cut = 1" if vanilla else "hidden = [32, 16], cut = [1, -1]"
    return f"give it more hidden layers: {example}" if model.name == "mlp" else f'take name = "mlp", {example}'


def frozen_parts(spec: RunSpec, method: Method, parts: Sequence[Part]) -> frozenset[str]:
    """Return the parts that do not train: those that the scenario freezes, and a head behind which rows leave once."""
    frozen = frozenset(spec.model.freeze) | ({"head"} if method.pooled and method.cuts else frozenset())
    if absent := frozen - {part.name for part in parts} - {"body"}:
        raise ScenarioError([f"model.freeze: {spec.strategy.name} has no {min(absent)}; remove it or cut the model"])
    if spec.model.public_file is not None and "head" not in frozen:
        raise ScenarioError(
            [f'model.public-head: {spec.strategy.name} has no frozen head; add freeze = ["head"], or remove it']
        )
    return frozen


def behind(network: Network, parts: tuple[Part, ...], block: Block, place: int = 0) -> tuple[Network, tuple[Part, ...]]:
    """Return the network and its parts with a block without parameters at the end of the head, or of another part."""
    longer = replace(parts[place], blocks=(*parts[place].blocks, block))
    parts = (*parts[:place], longer, *parts[place + 1 :])
    return replace(network, blocks=tuple(each for part in parts for each in part.blocks)), parts


def with_public_head(spec: RunSpec, network: Network, parts: Sequence[Part], frozen: frozenset[str]) -> Network:
    """Return the network with the values that a file gives its head."""
    if spec.model.public_file is None or spec.model.components is not None:
        return network
    try:
        return replace(network, given=stored_values(spec.model.public_file, parts[0].shapes()))
    except ValueError as error:
        raise ScenarioError([f"model.public-head: {error}"]) from None
