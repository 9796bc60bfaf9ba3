"""What clinics are to train after the last round, for models of their own: known to all, and to planning."""

from __future__ import annotations

from sim.methods.job import Job
from sim.models import Part


def epochs_of(job: Job) -> int:
    """Return how often a clinic goes through its records after the last round."""
    return int(job.option("epochs")) if job.method.personal is not None else 0


def own_blocks(job: Job) -> tuple[Part, Part]:
    """Return the blocks that stay as all have them, of which there may be none, and those that a clinic trains."""
    blocks = job.network.whole.blocks
    own = 1 if job.method.personal == "last-block" else len(blocks)
    return Part("model", blocks[:-own]), Part("model", blocks[-own:])
