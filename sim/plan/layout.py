"""What a vertical layout does not go with, yet or ever: a line for each."""

from __future__ import annotations

from collections.abc import Iterator

from sim.data.facts import Facts
from sim.methods.method import method_of
from sim.methods.parties import groups_at
from sim.scenario.spec import RunSpec


def layout_problems(spec: RunSpec, facts: Facts) -> Iterator[str]:
    """Yield a line for each reason why a run does not fit the layout of its data."""
    method, layout = method_of(spec.strategy.name), "vertical" if facts.vertical else "horizontal"
    if layout not in method.layouts:
        mend = (
            "take vertical, vertical-splitfed, vertical-alone or centralised"
            if facts.vertical
            else "name [[parties]] under a vertical one"
        )
        yield f"strategies: {method.name} is not for a {layout} layout; {mend}"
    elif facts.vertical and method.trains:
        yield from _not_on_parties(spec, facts)


def _not_on_parties(spec: RunSpec, facts: Facts) -> Iterator[str]:
    train, privacy, model, server = spec.train, spec.privacy, spec.model, spec.server
    there = [group.behaviour() for group in groups_at(spec, facts)]
    yet = "is not simulated on a vertical layout yet; "
    for fault in (
        (train.participation < 1 or train.over_select > 1) and f"train.participation: less than all {yet}set it to 1.0",
        train.deadline is not None and f"train.deadline: {yet}remove it",
        any(each.drop_out for each in there) and f"parties: drop-out {yet}remove it",
        any(there[holder].availability < 1 for holder in facts.places.holders)
        and "parties: without the label's holder nothing trains; give it an availability of 1",
        (server.uplink or server.downlink) and f"server: a link that parties share {yet}remove uplink and downlink",
        privacy.unit == "clinic" and f"privacy.mechanism: {privacy.mechanism} {yet}take dp-sgd or smashed-noise",
        privacy.secure_aggregation and f"privacy.secure-aggregation: {yet}drop it",
        privacy.colluding_clinics and f"privacy.colluding-clinics: {yet}drop them",
        privacy.trust == "active" and f"privacy.trust: an active server {yet}take trusted or curious",
        model.public_head != "random" and f"model.public-head: {yet}remove it",
        model.cut_dropout and f"model.cut-dropout: {yet}drop it",
        train.nopeek and f"train.nopeek: {yet}drop it",
        train.smashed_top_k < 1 and f"train.smashed-top-k: {yet}drop it",
        (train.update_dtype != "float32" or train.update_top_k < 1) and f"train: compression of updates {yet}drop it",
        facts.places.absent_anywhere
        and getattr(spec.data, "scaling", "") == "pooled"
        and 'data.scaling: "pooled" needs every column in every region; take "public" or "per-clinic"',
    ):
        if fault:
            yield str(fault)
