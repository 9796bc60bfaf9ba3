"""What a round asks of its places: the way of a batch leg by leg, and whose batches they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from sim.methods.messages import Kind
from sim.methods.protocol import HEADER_BYTES, SECURE, Direction, Kinds, Traffic
from sim.methods.sampling import lane_by_lane
from sim.privacy.secure_aggregation import Stage
from sim.scenario.clinics import ServerResources

if TYPE_CHECKING:
    from sim.methods.job import Job

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Place = Literal["clinic", "server", "up", "down", "edge", "edge-up", "edge-down"]
PHASES = {
    "clinic": "clinic",
    "server": "server",
    "up": "upload",
    "down": "download",
    "edge": "edge",
    "edge-up": "to cloud",
    "edge-down": "from cloud",
}
EDGE_PHASES = ("edge", "to cloud", "from cloud")
"""What is done at edge servers and on their links to the cloud."""


@dataclass(frozen=True)
class Leg:
    """One stretch of a batch's way: work at a place, or a message."""

    place: Place
    per_row: int  # FLOPs of the work, or bytes of the payload, for one record
    # [clinic] the same where clinics differ, -1 for one whose batches do without it; empty where they are alike
    by_clinic: tuple[int, ...] = ()

    def of(self, clinics: Ints) -> Ints:
        """Return ``[lane]`` what it asks for one record of each of some clinics; 0 of one that does without it."""
        own = (
            np.array(self.by_clinic, dtype=np.int64)[clinics] if self.by_clinic else np.full(len(clinics), self.per_row)
        )
        return np.maximum(own, 0)

    def taken(self, clinics: Ints) -> Bools:
        """Return ``[lane]`` whether it is on the way of each of some clinics' batches."""
        return np.array(self.by_clinic)[clinics] >= 0 if self.by_clinic else np.ones(len(clinics), dtype=np.bool_)


@dataclass(frozen=True, kw_only=True)
class EdgeLoad:
    """What a round asks of edge servers, and of their links to the cloud, beside the legs of its batches."""

    home: Ints  # [lane] the edge server of each
    # Whether one message brings the parameters for all clinics of an edge server, and one takes their average up when
    # the last of them has finished; otherwise each turn has its own
    together: bool
    begin_bytes: int  # Payload of each message that brings parameters from the cloud, and
    end_bytes: int  # of each that takes them up
    begins: Ints  # [edge] how many of the former, and
    ends: Ints  # [edge] of the latter there are
    common_flops: Floats  # [edge] its work that waits for all its clinics: averaging


@dataclass(frozen=True, kw_only=True)
class RoundLoad:
    """What a round asks of the clinics and of the server."""

    clinics: Ints  # [lane] those who take part
    rows: Ints  # [batch] records in each batch, one lane after another
    steps: Ints  # [lane] number of batches
    legs: tuple[Leg, ...]  # The way of every batch, in order
    # begin_bytes, end_bytes: payload at the beginning (down) and the end (up) of each turn, or [lane] where clinics
    # differ; no message where it is 0
    begin_bytes: Ints | int
    end_bytes: Ints | int
    turns: Ints  # [lane] number of turns; 0 for a lane whose turn never comes in a relay
    # `(lane, step)` in the order in which one serial body serves them; None where every clinic has a body copy
    schedule: tuple[tuple[int, int], ...] | None
    handed_on: bool  # Whether a turn begins only when the one before it has ended (the relay)
    # The server's work that waits for all clinics: aggregation, or training on pooled records
    common_server_flops: float
    lost: frozenset[int] = frozenset()  # Lanes whose last turn ends with its last batch: nothing is sent back
    # [clinic] under vertical learning: the region, whose body serves its lanes' batches together, behind the join of
    # their rows; each of the server's legs begins when the slowest has come to it
    joined: tuple[int, ...] = ()
    before_s: float = 0.0  # Seconds before anything of the round begins: parties find out whom they share
    # Under secure aggregation, what comes before the turns and after them, one thing after another
    before: tuple[Stage, ...] = ()
    after: tuple[Stage, ...] = ()
    # Lanes whose computer and line are slower in this round, and how many times
    slowed: tuple[tuple[int, float], ...] = ()
    edges: EdgeLoad | None = None

    @cached_property
    def lane_and_step(self) -> tuple[Ints, Ints]:
        """``[batch]`` each: whose it is, and which of that lane's."""
        return lane_by_lane(self.steps)

    @cached_property
    def first(self) -> Ints:
        """``[lane]`` where the lane's batches begin among all."""
        return np.cumsum(self.steps) - self.steps

    @cached_property
    def returns(self) -> Bools:
        """``[lane]`` whether the last turn ends with the clinic's parts sent back."""
        returns = np.ones(len(self.steps), dtype=np.bool_)
        returns[list(self.lost)] = False
        return returns

    @property
    def set_up(self) -> Traffic:
        """``[lane]`` bytes of secure aggregation's own messages; lost lanes are in none that comes after the turns."""
        found: Traffic = {}
        for stages, there in ((self.before, np.ones_like(self.steps)), (self.after, self.returns.astype(np.int64))):
            for place, size in stages:
                if place != "clinic":
                    found[place, SECURE] = found.get((place, SECURE), np.zeros_like(self.steps)) + there * (
                        size + HEADER_BYTES
                    )
        return found

    @property
    def ends(self) -> Ints:
        """``[lane]`` number of turns at whose end the clinic's parts are sent back."""
        return np.where(self.returns, self.turns, np.maximum(self.turns - 1, 0))

    @cached_property
    def records(self) -> Ints:
        """``[lane]`` records in all its batches."""
        return self.by_lane(self.rows).astype(np.int64)

    def by_lane(self, values: Floats | Ints | Bools) -> Floats:
        """Add up, ``[lane]``, what is given for each batch."""
        if len(self.steps) == 1:
            return np.add.reduce(values, keepdims=True, dtype=np.float64)  # in pairs, as NumPy adds up a vector
        return np.asarray(np.bincount(self.lane_and_step[0], values, len(self.steps)), dtype=np.float64)

    def flops(self, place: Place) -> Ints:
        """Return ``[lane]`` what all batches ask at a place, or bytes of a direction."""
        asked = sum((leg.of(self.clinics) for leg in self.legs if leg.place == place), np.zeros_like(self.steps))
        return self.records * asked

    def may_queue(self, server: ServerResources) -> bool:
        """Whether clinics may wait for a worker of the server, or for its shared link."""
        if self.handed_on or self.joined or len(self.clinics) < (2 if self.edges is None else 1):
            return False
        if self.edges is not None:
            return True
        at_server = any(leg.place == "server" for leg in self.legs)
        workers_short = self.schedule is None and at_server and len(self.clinics) > server.workers
        return workers_short or server.uplink_bits_per_s is not None or server.downlink_bits_per_s is not None

    def key(self) -> tuple[object, ...]:
        """Return what tells this load from others of the same run."""
        edges = () if self.edges is None else (self.edges.home, self.edges.begins, self.edges.ends)
        arrays = (self.clinics, self.rows, self.steps, self.turns, *edges)
        named = (self.schedule, self.common_server_flops, self.lost, self.slowed, self.before_s)
        return (*named, *(array.tobytes() for array in arrays))

    def turn_steps(self, lane: int) -> int:
        """Return the number of batches in one turn of a lane: all, or one where clinics alternate by mini-batch."""
        return int(self.steps[lane] // max(self.turns[lane], 1))


def legs_of_a_batch(
    job: Job, work: Callable[..., Leg], message: Callable[[Direction, Kinds], Iterable[Leg]]
) -> Iterator[Leg]:
    """Yield the way of one batch, in order.

    ``work`` takes a place, a part and which passes (``"forward"``, ``"backward"``) it makes there; ``message`` a
    direction and the kinds of rows in a message.
    """
    protocol = job.protocol
    if protocol.topology == "whole":
        yield work("clinic", "model", "forward", "backward")
        return
    yield work("clinic", "head", "forward")
    yield from message("up", protocol.batch_up[0])
    if (Kind.TAIL_GRADIENT,) not in protocol.batch_up:
        yield work("server", "body", "forward", "backward")
    else:
        yield work("server", "body", "forward")
        yield from message("down", (Kind.BODY_OUTPUT,))
        yield work("clinic", "tail", "forward", "backward")
        yield from message("up", (Kind.TAIL_GRADIENT,))
        yield work("server", "body", "backward")
    yield from message("down", (Kind.CUT_GRADIENT,))
    yield work("clinic", "head", "backward")
    if job.joint:
        yield from message("up", (Kind.NORMS,))
        yield Leg("server", 0)
        yield from message("down", (Kind.CLIP_FACTORS,))
