"""A run's network as it is laid out: cut, frozen, clipped at the cut, shared out to parties, and its public head."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

from sim.data.facts import Facts
from sim.foundation.problems import ScenarioError
from sim.methods.method import Method
from sim.methods.parties import Parties, parties_of
from sim.methods.protocol import Protocol
from sim.models import Block, Network, Part, build_network, layers, never_negative, stored_values
from sim.privacy.mechanisms.mechanism import on_rows
from sim.privacy.mechanisms.noises import RowNoise
from sim.scenario.edges import MULTI_HOP
from sim.scenario.model import Model
from sim.scenario.spec import RunSpec

if TYPE_CHECKING:
    from sim.methods.job import Job


def cut_network(spec: RunSpec, facts: Facts, protocol: Protocol) -> tuple[Network, tuple[Part, ...]]:
    """Build the network and cut it as the method asks.

    Raises
    ------
    ScenarioError
        If the model does not fit the data, or the cut lies outside it.
    """
    try:
        network = build_network(spec.model, facts.input_shape, len(facts.classes), spec.data.outcome_of_a_record)
    except ValueError as error:
        raise ScenarioError(f"model: {error}") from None
    if protocol.topology == "whole":
        return network, (network.whole,)
    try:
        return network, network.split(protocol.topology, spec.model.cut)
    except ValueError as error:
        raise ScenarioError(f"model.cut: {error}; {_with_a_cut(spec.model, protocol.topology, network)}") from None


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
        raise ScenarioError(f"model.freeze: {spec.strategy.name} has no {min(absent)}; remove it or cut the model")
    if spec.model.public_file is not None and "head" not in frozen:
        raise ScenarioError(
            f'model.public-head: {spec.strategy.name} has no frozen head; add freeze = ["head"], or remove it'
        )
    return frozen


def behind(network: Network, parts: tuple[Part, ...], block: Block, place: int = 0) -> tuple[Network, tuple[Part, ...]]:
    """Return the network and its parts with a block without parameters at the end of the head, or of another part."""
    longer = replace(parts[place], blocks=(*parts[place].blocks, block))
    parts = (*parts[:place], longer, *parts[place + 1 :])
    return replace(network, blocks=tuple(each for part in parts for each in part.blocks)), parts


def with_public_head(spec: RunSpec, network: Network, parts: Sequence[Part]) -> Network:
    """Return the network with the values that a file gives its head."""
    if spec.model.public_file is None or spec.model.components is not None:
        return network
    try:
        return replace(network, given=stored_values(spec.model.public_file, parts[0].shapes()))
    except ValueError as error:
        raise ScenarioError(f"model.public-head: {error}") from None


Layout = tuple[Network, tuple[Part, ...], frozenset[str], RowNoise | None, Parties | None]
"""Network, parts, names of those that are frozen, noise on rows at the cut, and the parties of a vertical layout."""


def laid_out(spec: RunSpec, facts: Facts, method: Method, protocol: Protocol) -> Layout:
    """Lay the network of a run out; raises ``ScenarioError`` if the model does not fit the data or the cut."""
    parties = parties_of(spec, facts, method, protocol)
    network, parts = (parties.network, parties.parts) if parties else cut_network(spec, facts, protocol)
    frozen = frozen_parts(spec, method, parts)
    network = with_public_head(spec, network, parts)
    noised = 1 if spec.privacy.rows_noised_at == "edge" and protocol.topology in MULTI_HOP else 0
    before = parties.heads[0] if parties and parties.heads else parts[noised]
    rows, with_tail = None, "tail" in protocol.clinic_parts
    if (mechanism := on_rows(spec.privacy)) is not None:
        rows = mechanism.acting(spec.privacy, never_negative=never_negative(before), with_tail=with_tail)
    if spec.model.cut_dropout:
        network, parts = behind(network, parts, Block("cut-dropout", layers.Dropout(spec.model.cut_dropout)))
    if rows is not None and math.isfinite(rows.clip["smashed"]):
        layer = Block("clip", layers.ClipRows(rows.clip["smashed"], rows.mechanism.norm))
        parties = parties_of(spec, facts, method, protocol, layer)
        network, parts = (parties.network, parties.parts) if parties else behind(network, parts, layer, noised)
    if spec.train.smashed_top_k < 1:
        for place in range(len(parts) - 1):
            layer = Block(f"largest-{place}", layers.KeepLargest(spec.train.smashed_top_k))
            network, parts = behind(network, parts, layer, place)
    if spec.train.autocast is not None:
        from sim.tensor.lanes import one_by_one

        if not one_by_one(network.whole):
            raise ScenarioError("train.autocast: pays for convolutions as large as resnet18's alone; drop it")
    return network, parts, frozen, rows, parties


def unfit_for_batch_norm(job: Job) -> Iterator[str]:
    """Say what forbids BatchNorm, whose statistics mix the records of a batch."""
    from sim.models.factory import needs_two_rows

    spec, batch_size = job.spec, job.sampling.batch_size
    if spec.privacy.mechanisms:
        yield (
            f"model: holds BatchNorm, whose statistics mix the records of a batch, so that {spec.privacy.mechanism} "
            "bounds no record's influence; use GroupNorm"
        )
    if job.method.imported:
        yield (
            f"model.batch-norm: {spec.strategy.name} would treat running statistics as parameters to learn; "
            "use fedavg, or GroupNorm"
        )
    if spec.model.freeze:
        yield f"model.freeze: the {spec.model.freeze[0]} cannot be frozen in a model with BatchNorm; use GroupNorm"
    clinics = {"the pool": sum(job.sizes)} if job.method.pooled else dict(zip(job.facts.names, job.sizes, strict=True))
    for name, size in clinics.items():
        if 1 in (batch_size, size % batch_size) and needs_two_rows(job.network):
            yield (
                f"train.batch-size: {name} has {size} training records, which leaves a batch of one, and BatchNorm "
                "finds no variance in it; choose another batch size, leave the clinic out, or use GroupNorm"
            )


def epochs_of(job: Job) -> int:
    """Return how often a clinic goes through its records after the last round."""
    return int(job.option("epochs")) if job.method.personal is not None else 0


def own_blocks(job: Job) -> tuple[Part, Part]:
    """Return the blocks that stay as all have them, of which there may be none, and those that a clinic trains."""
    blocks = job.network.whole.blocks
    own = 1 if job.method.personal == "last-block" else len(blocks)
    return Part("model", blocks[:-own]), Part("model", blocks[-own:])
