"""What would not fit in this machine's memory, or take for ever: refused before anything is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sim.data.archives import archive_fault
from sim.data.facts import Facts
from sim.foundation.files import scarce, status
from sim.methods.method import method_of
from sim.models.build import build_network
from sim.scenario.spec import RunSpec

MOST_BATCHES: Final = 50_000_000
MOST_TURNS: Final = 10_000_000
"""Of a run: rounds times clinics."""


def size_problems(spec: RunSpec, facts: Facts) -> Iterator[str]:
    """Yield a line for each size of a run that is out of all proportion."""
    if fault := _fault_of_head(spec):
        yield fault
        return
    yield from _model_problems(spec, facts)
    pooled = method_of(spec.strategy.name).pooled
    yield from _batch_problems(spec, [sum(facts.sizes)] if pooled and not facts.vertical else list(facts.sizes))


def _fault_of_head(spec: RunSpec) -> str:
    path = spec.model.public_file
    if path is None:
        return ""
    try:
        status(path)
        fault = archive_fault(path, ("x",)) if spec.model.components is not None else ""
    except ValueError as error:
        fault = str(error)
    return f"model.public-head: {path} {fault}" if fault else ""


def _model_problems(spec: RunSpec, facts: Facts) -> Iterator[str]:
    if spec.model.factory is not None or spec.model.components is not None:
        return  # to count their parameters would be to make them
    try:
        network = build_network(spec.model, facts.input_shape, len(facts.classes), spec.data.outcome_of_a_record)
    except ValueError:
        return  # the job says what does not fit
    parameters = sum(p.numel() for block in network.blocks for p in block.module.parameters())
    if fault := scarce(3 * 4 * parameters):  # the model, its gradient, and a clinic's copy
        yield f"model: with {parameters:,} parameters, it takes at least {fault}; take narrower layers"


def _batch_problems(spec: RunSpec, sizes: list[int]) -> Iterator[str]:
    train = spec.train
    batches = train.local_epochs * sum(-(-own // train.batch_size) for own in sizes)
    if train.rounds * len(sizes) > MOST_TURNS:
        yield (
            f"train.rounds: {train.rounds:,} rounds of {len(sizes):,} clinics, and a run has at most {MOST_TURNS:,} "
            "rounds and clinics, multiplied; take fewer"
        )
        return
    if train.rounds * batches > MOST_BATCHES:
        yield (
            f"train: {train.rounds * batches:,} batches in all, and a run has at most {MOST_BATCHES:,}; "
            "take fewer rounds or local epochs, or larger batches"
        )
        return
    most = max(sizes)
    a_pass = -(-most // train.batch_size)
    if spec.privacy.noises_gradients:
        if fault := scarce(9 * train.local_epochs * a_pass * most):  # each record's coin, for each batch
            yield f"train.batch-size: to draw a round's batches of {most:,} records takes {fault}; take larger ones"
        return
    padded = train.batch_size > most  # the rows of every clinic then
    if fault := scarce(32 * (len(sizes) if padded else 1) * train.local_epochs * a_pass * train.batch_size):
        if padded:
            yield f"train.batch-size: to draw a round's batches takes {fault}; no clinic has more than {most:,} records"
        else:
            yield f"train.local-epochs: to draw a round's batches takes {fault}; take fewer"
