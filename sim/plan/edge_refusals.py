"""What edge servers do not go with, yet or ever: a line for each."""

from __future__ import annotations

from collections.abc import Iterator

from sim.data.facts import Facts
from sim.foundation.problems import show
from sim.methods.edges import CLOUD_EVERY
from sim.methods.method import method_of
from sim.scenario.edges import MULTI_HOP, membership_problems
from sim.scenario.spec import RunSpec


def edge_problems(spec: RunSpec, facts: Facts) -> Iterator[str]:
    """Yield a line for each reason why a run does not fit its edge servers, or the lack of them."""
    privacy, method = spec.privacy, method_of(spec.strategy.name)
    if privacy.rows_noised_at == "edge" and privacy.noises_rows and spec.strategy.cut not in MULTI_HOP:
        yield (
            f"privacy.rows-noised-at: under {method.name} no rows leave an edge server; take "
            f'cut = "{MULTI_HOP[0]}", or set it in the set of strategies that have it'
        )
    if not spec.edges:
        return
    yield from membership_problems(spec.edges, facts.everyone, facts.names)
    if method.edge_round is not None:
        every = spec.strategy.options.get(CLOUD_EVERY, method.options[CLOUD_EVERY])
        if not isinstance(every, int) or not 1 <= every <= 100_000:
            yield f"strategies.options.{CLOUD_EVERY}: {show(every)} is no number of rounds; give a whole number from 1"
        if privacy.epsilon_server is not None:
            yield "privacy.epsilon-server: the cloud gets no rows; give smashed-noise-multiplier for the edge servers"
    train, server, yet = spec.train, spec.server, "is not simulated with edge servers yet; "
    for fault in (
        train.deadline is not None and f"train.deadline: {yet}remove it",
        train.over_select > 1 and f"train.over-select: {yet}remove it",
        (train.update_dtype, train.update_top_k) != ("float32", 1.0) and f"train: compressing updates {yet}drop it",
        (server.uplink or server.downlink) and f"server: a link that edge servers share {yet}remove uplink, downlink",
        privacy.unit == "clinic" and f"privacy.mechanism: {privacy.mechanism} {yet}take dp-sgd or smashed-noise",
        privacy.secure_aggregation and f"privacy.secure-aggregation: {yet}drop it",
        privacy.colluding_clinics and f"privacy.colluding-clinics: {yet}drop them",
        privacy.trust == "active" and f"privacy.trust: an active server {yet}take trusted or curious",
        privacy.clipping == "joint" and f'privacy.clipping: "joint" {yet}take per-part',
        spec.model.batch_norm == "local" and f'model.batch-norm: "local" {yet}take average',
    ):
        if fault:
            yield str(fault)
