"""Where edge servers stand between clinics and cloud: whose they are, and the job as each side of them sees it.

To its clinics an edge server is the server: they have the head, and whatever comes behind it is its business. To the
cloud an edge server is a node that hosts its clinics: whatever lies in front of the body is the node's. So both sides
run the job of a method that knows nothing of edge servers, each with a cut of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sim.methods.protocol import Protocol
from sim.models import Part
from sim.scenario.edges import MULTI_HOP

if TYPE_CHECKING:
    from sim.methods.job import Job

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Edges:
    """The edge servers of a run.

    Attributes
    ----------
    home : ndarray
        ``[clinic]`` the edge server of each.
    """

    names: tuple[str, ...]
    home: Ints

    @cached_property
    def clinics(self) -> tuple[tuple[int, ...], ...]:
        """By edge server, its clinics in ascending order."""
        return tuple(tuple(np.flatnonzero(self.home == edge).tolist()) for edge in range(len(self.names)))


def edges_of(job: Job) -> Edges | None:
    """Return the edge servers of a run that have a clinic which takes part; None where there are none."""
    names = job.facts.names
    own = [(edge.name, [k for k, name in enumerate(names) if name in edge.clinics]) for edge in job.spec.edges]
    own = [(name, clinics) for name, clinics in own if clinics]
    if not own:
        return None
    home = np.zeros(len(names), dtype=np.int64)
    for edge, (_, clinics) in enumerate(own):
        home[clinics] = edge
    return Edges(tuple(name for name, _ in own), home)


_SIDE = {"multi-hop": "vanilla", "multi-hop-u-shaped": "u-shaped"}
"""How the network is cut for either side of an edge server."""


def as_clinics_see(job: Job) -> Job:
    """Return the job between clinics and their edge servers: head, and the rest at a server."""
    hops = job.protocol.topology in MULTI_HOP
    protocol = _plain(job.protocol, _SIDE.get(job.protocol.topology, job.protocol.topology), job.protocol.clinic_parts)
    parts = _joined(job.parts, 1, 3, "body") if hops else job.parts
    at_edge = hops and job.spec.privacy.rows_noised_at == "edge"
    return replace(job, protocol=protocol, parts=parts, rows=None if at_edge else job.rows)


def as_cloud_sees(job: Job) -> Job:
    """Return the job between edge servers and cloud: all that lies in front of the body, and the body.

    Where edge servers have the body, the whole model crosses, and nothing but its average.
    """
    averaged = job.protocol.movement == "averaged"
    if job.protocol.topology not in MULTI_HOP:
        names = tuple(part.name for part in job.parts)
        whole = replace(_plain(job.protocol, "whole", names), batch_up=(), batch_down=(), server_parts=())
        return replace(job, protocol=replace(whole, averaged_before=True), rows=None, labels=None)
    side, in_front = _SIDE[job.protocol.topology], ("middle", *job.protocol.clinic_parts[1:])
    frozen = (job.frozen - {"head", "middle"}) | ({"middle"} if {"head", "middle"} <= job.frozen else set())
    return replace(
        job,
        protocol=replace(
            _plain(job.protocol, side, in_front),
            averaged_before=averaged,
            counted_before=("middle",) if "middle" in job.frozen else (),
        ),
        parts=_joined(job.parts, 0, 2, "middle"),
        frozen=frozen,
        labels=None,  # which randomised them at the clinic
        rows=job.rows if job.spec.privacy.rows_noised_at == "edge" else None,
    )


CLOUD_EVERY = "cloud-every"
"""The option of methods whose edge servers train in rounds of their own: how many of these the cloud waits for."""


def meets_at_cloud(job: Job, server_round: int, rounds: int) -> bool:
    """Whether the cloud averages the edge servers at the end of a round, of so many; at first all are alike."""
    every = int(job.option(CLOUD_EVERY))
    return server_round % every == 0 or server_round == rounds


def _plain(protocol: Protocol, topology: str, clinic_parts: tuple[str, ...]) -> Protocol:
    return replace(protocol, topology=topology, clinic_parts=clinic_parts, edge_parts=(), server_parts=("body",))


def _joined(parts: tuple[Part, ...], first: int, last: int, name: str) -> tuple[Part, ...]:
    """Return the parts with those of a range as one."""
    blocks = tuple(block for part in parts[first:last] for block in part.blocks)
    return (*parts[:first], Part(name, blocks), *parts[last:])
