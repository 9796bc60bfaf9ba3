"""What forbids BatchNorm in a run: its statistics mix the records of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sim.models import needs_two_rows

if TYPE_CHECKING:
    from sim.methods.job import Job


def unfit_for_batch_norm(job: Job, names: Sequence[str]) -> Iterator[str]:
    """Say what forbids BatchNorm; ``names`` are the clinics'."""
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
    clinics = {"the pool": sum(job.sizes)} if job.method.pooled else dict(zip(names, job.sizes, strict=True))
    for name, size in clinics.items():
        if 1 in (batch_size, size % batch_size) and needs_two_rows(job.network):
            yield (
                f"train.batch-size: {name} has {size} training records, which leaves a batch of one, and BatchNorm "
                "finds no variance in it; choose another batch size, leave the clinic out, or use GroupNorm"
            )
