"""A run's network as it is laid out: cut, frozen, clipped at the cut, and shared out to parties."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from sim.data.facts import Facts
from sim.foundation.problems import ScenarioError
from sim.methods import acting
from sim.methods.cutting import behind, cut_network, frozen_parts, with_public_head
from sim.methods.method import Method
from sim.methods.parties import Parties, parties_of
from sim.methods.protocol import Protocol
from sim.models import Block, KeepLargest, Network, Part
from sim.privacy.mechanisms.noises import RowNoise
from sim.scenario.edges import MULTI_HOP
from sim.scenario.spec import RunSpec
from sim.tensor.lanes import one_by_one


class Layout(NamedTuple):
    """What of a network stands where."""

    network: Network
    parts: tuple[Part, ...]
    frozen: frozenset[str]
    rows: RowNoise | None
    parties: Parties | None


def laid_out(spec: RunSpec, facts: Facts, method: Method, protocol: Protocol) -> Layout:
    """Lay the network of a run out; raises ``ScenarioError`` if the model does not fit the data or the cut."""
    parties = parties_of(spec, facts, method, protocol)
    network, parts = (parties.network, parties.parts) if parties else cut_network(spec, facts, protocol)
    frozen = frozen_parts(spec, method, parts)
    network = with_public_head(spec, network, parts, frozen)
    noised = 1 if spec.privacy.rows_noised_at == "edge" and protocol.topology in MULTI_HOP else 0
    before = parties.heads[0] if parties and parties.heads else parts[noised]
    rows = acting.row_noise(spec.privacy, before, with_tail="tail" in protocol.clinic_parts)
    if spec.model.cut_dropout:
        network, parts = behind(network, parts, Block("cut-dropout", nn.Dropout(spec.model.cut_dropout)))
    if (layer := acting.clip_layer(rows)) is not None and parties is None:
        network, parts = behind(network, parts, layer, noised)
    elif layer is not None and (parties := parties_of(spec, facts, method, protocol, layer)) is not None:
        network, parts = parties.network, parties.parts
    if spec.train.smashed_top_k < 1:
        for place in range(len(parts) - 1):
            layer = Block(f"largest-{place}", KeepLargest(spec.train.smashed_top_k))
            network, parts = behind(network, parts, layer, place)
    if spec.train.autocast is not None and not one_by_one(network.whole):
        raise ScenarioError(["train.autocast: pays for convolutions as large as resnet18's alone; drop it"])
    return Layout(network, parts, frozen, rows, parties)
