"""The way of one batch between a clinic and the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from sim.methods.job import Job
from sim.plan.costs import PartCost, nopeek_flops
from sim.plan.load import Leg


def legs_of_a_batch(job: Job, costs: Mapping[str, PartCost], row_bytes: Callable[[str], int]) -> Iterator[Leg]:
    """Yield them in order; ``row_bytes`` says what one record's row of a kind takes."""
    protocol = job.protocol
    if protocol.topology == "whole":
        yield Leg("clinic", costs["model"].forward_flops + costs["model"].backward_flops)
        return
    yield Leg("clinic", costs["head"].forward_flops)
    yield Leg("up", sum(row_bytes(kind) for kind in protocol.batch_up[0]))
    if protocol.topology == "vanilla":
        yield Leg("server", costs["body"].forward_flops + costs["body"].backward_flops)
    else:
        yield Leg("server", costs["body"].forward_flops)
        yield Leg("down", row_bytes("body-output"))
        yield Leg("clinic", costs["tail"].forward_flops + costs["tail"].backward_flops)
        yield Leg("up", row_bytes("tail-gradient"))
        yield Leg("server", costs["body"].backward_flops)
    yield Leg("down", row_bytes("cut-gradient"))
    yield Leg("clinic", costs["head"].backward_flops + nopeek_flops(job, costs["head"]))
    if job.joint:
        yield Leg("up", row_bytes("norms"))
        yield Leg("server", 0)
        yield Leg("down", row_bytes("clip-factors"))
