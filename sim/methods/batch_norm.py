"""What forbids BatchNorm in a run: its statistics mix the records of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sim.models import Network, needs_two_rows
from sim.scenario.spec import RunSpec


def unfit_for_batch_norm(spec: RunSpec, network: Network, batch_size: int, clinics: Mapping[str, int]) -> Iterator[str]:
    """Say what forbids BatchNorm; ``clinics`` holds training records by name."""
    if spec.privacy.mechanisms:
        yield (
            f"model: holds BatchNorm, whose statistics mix the records of a batch, so that {spec.privacy.mechanism} "
            "bounds no record's influence; use GroupNorm"
        )
    if "." in spec.strategy.name:
        yield (
            f"model.batch-norm: {spec.strategy.name} would treat running statistics as parameters to learn; "
            "use fedavg, or GroupNorm"
        )
    if spec.model.freeze:
        yield f"model.freeze: the {spec.model.freeze[0]} cannot be frozen in a model with BatchNorm; use GroupNorm"
    for name, size in clinics.items():
        if 1 in (batch_size, size % batch_size) and needs_two_rows(network):
            yield (
                f"train.batch-size: {name} has {size} training records, which leaves a batch of one, and BatchNorm "
                "finds no variance in it; choose another batch size, leave the clinic out, or use GroupNorm"
            )
