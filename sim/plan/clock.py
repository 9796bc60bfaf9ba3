"""How long a round takes: a clock turns each clinic's batches into seconds.

A round of one clinic is: the parts that are sent to it, its batches one after another, the parts it sends back. Nothing
is pipelined within a clinic: the head's forward pass of a batch needs the head that the cut gradient of the batch
before has trained. Clinics run side by side in SplitFed and federated learning, one after another in the relay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sim.methods.protocol import HEADER_BYTES, SECURE, Traffic
from sim.methods.sampling import lane_by_lane
from sim.privacy.secure_aggregation import Stage
from sim.scenario.clinics import ClinicResources, ServerResources

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Place = Literal["clinic", "server", "up", "down"]
PHASES = {"clinic": "clinic", "server": "server", "up": "upload", "down": "download"}


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
class RoundLoad:
    """What a round asks of the clinics and of the server."""

    clinics: Ints  # [lane] those who take part
    rows: Ints  # [batch] records in each batch, one lane after another
    steps: Ints  # [lane] number of batches
    legs: tuple[Leg, ...]  # The way of every batch, in order
    # begin_bytes, end_bytes: payload at the beginning (down) and the end (up) of each turn; no message where it is 0
    begin_bytes: int
    end_bytes: int
    turns: Ints  # [lane] number of turns; 0 for a lane whose turn never comes in a relay
    # `(lane, step)` in the order in which one serial body serves them; None where every clinic has a body copy
    schedule: tuple[tuple[int, int], ...] | None
    handed_on: bool  # Whether a turn begins only when the one before it has ended (the relay)
    # The server's work that waits for all clinics: aggregation, or training on pooled records
    common_server_flops: float
    lost: frozenset[int] = frozenset()  # Lanes whose last turn ends with its last batch: nothing is sent back
    # Whether one body serves all lanes' batches together, behind the join of their rows: each of the server's legs
    # begins when the slowest has come to it
    joined: bool = False
    before_s: float = 0.0  # Seconds before anything of the round begins: parties find out whom they share
    # Under secure aggregation, what comes before the turns and after them, one thing after another
    before: tuple[Stage, ...] = ()
    after: tuple[Stage, ...] = ()
    # Lanes whose computer and line are slower in this round, and how many times
    slowed: tuple[tuple[int, float], ...] = ()

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
        if self.handed_on or self.joined or len(self.clinics) < 2:
            return False
        at_server = any(leg.place == "server" for leg in self.legs)
        workers_short = self.schedule is None and at_server and len(self.clinics) > server.workers
        return workers_short or server.shares_its_link

    def key(self) -> tuple[object, ...]:
        """Return what tells this load from others of the same run."""
        arrays = (self.clinics, self.rows, self.steps, self.turns)
        named = (self.schedule, self.common_server_flops, self.lost, self.slowed, self.before_s)
        return (*named, *(array.tobytes() for array in arrays))

    def turn_steps(self, lane: int) -> int:
        """Return the number of batches in one turn of a lane: all, or one where clinics alternate by mini-batch."""
        return int(self.steps[lane] // max(self.turns[lane], 1))


@dataclass(frozen=True, kw_only=True)
class Span:
    """A stretch of time in which something is done for a clinic."""

    lane: int  # -1 for the aggregation
    phase: str
    # start, end: seconds since the round began
    start: float
    end: float
    worker: int = field(default=0, kw_only=True)  # Of the server, from 1; 0 where none is at work


@dataclass(frozen=True, kw_only=True)
class RoundTime:
    """When a round is over, and what each clinic spent on what."""

    seconds: float  # From the first download to the end of the aggregation
    phases: dict[str, Floats]  # [lane] seconds of `download`, `clinic`, `upload` and `server`, waiting not included
    # [lane] seconds since the round began when the lane's last message has arrived at the server (where nothing is sent
    # back, when its last batch is done); the aggregation comes after all of them
    finish: Floats
    completed: Floats  # [batch] seconds since the round began when the batch has been trained on, at the clinic too
    spans: tuple[Span, ...] = ()  # In the order in which they began; empty unless asked for

    @property
    def waiting(self) -> Floats:
        """``[lane]`` seconds before the lane's finish in which nothing was done for it."""
        busy: Floats = np.sum(list(self.phases.values()), axis=0)
        return np.maximum(self.finish - busy, 0.0)


@dataclass(frozen=True, kw_only=True)
class Durations:
    """What each piece of a round takes by itself, waiting not included.

    A message takes the clinic's latency and its bytes over the clinic's line; on a server link that all clinics share,
    its bytes over that link come on top (store and forward).
    """

    # legs, links: [batch] for each leg: at its place or on the clinic's line, and on the server's link
    legs: tuple[Floats, ...]
    links: tuple[Floats, ...]
    # begin, begin_link, end, end_link: [lane] the same for the message that begins and that ends a turn; 0 where there
    # is none
    begin: Floats
    begin_link: Floats
    end: Floats
    end_link: Floats
    common: float  # What waits for all clinics: the server's work, and the opening of a sum
    # Under secure aggregation: when the turns begin, and [lane] by phase what is done before and after them
    set_up: float = 0.0
    around: Mapping[str, Floats] = field(default_factory=dict)

    @classmethod
    def of(cls, load: RoundLoad, resources: Mapping[str, Floats], server: ServerResources) -> Durations:
        """Work out the pieces of one round; ``resources`` are ``[clinic]`` by field of ClinicResources."""
        by_lane = {name: values[load.clinics] for name, values in resources.items()}
        for lane, times in load.slowed:
            for name in ("uplink_bits_per_s", "downlink_bits_per_s", "compute_flop_per_s"):
                by_lane[name][lane] /= times
        by_batch = {name: values[load.lane_and_step[0]] for name, values in by_lane.items()}
        link = {"up": server.downlink_bits_per_s or np.inf, "down": server.uplink_bits_per_s or np.inf}

        def message(
            direction: Literal["up", "down"], payload: Ints, own: Mapping[str, Floats]
        ) -> tuple[Floats, Floats]:
            bits: Floats = 8.0 * (payload + HEADER_BYTES).astype(np.float64)
            return own["latency_s"] + bits / own[f"{direction}link_bits_per_s"], bits / link[direction]

        legs = []
        for leg in load.legs:
            amount = load.rows * leg.of(load.clinics)[load.lane_and_step[0]]
            if leg.place == "server" or leg.place == "clinic":
                rate = by_batch["compute_flop_per_s"] if leg.place == "clinic" else server.compute_flop_per_s
                legs.append((amount / rate, np.zeros(len(amount))))
            else:
                taken = leg.taken(load.clinics)[load.lane_and_step[0]]
                line, over_link = message(leg.place, amount, by_batch)
                legs.append((line * taken, over_link * taken))
        once = np.ones(len(load.steps), dtype=np.int64)
        none = np.zeros(len(load.steps))
        begin = message("down", once * load.begin_bytes, by_lane) if load.begin_bytes else (none, none)
        end = message("up", once * load.end_bytes, by_lane) if load.end_bytes else (none, none)
        at_place, at_link = zip(*legs, strict=True)
        around: dict[str, Floats] = {}

        def together(stages: Sequence[Stage], there: Bools) -> float:
            """Do one thing after another, each when all lanes that are there have done the one before."""
            seconds = 0.0
            for place, amount in stages:
                if place == "clinic":
                    line, over_link = once * amount / by_lane["compute_flop_per_s"], none
                else:
                    line, over_link = message(place, once * amount, by_lane)
                phase = PHASES[place]
                around[phase] = around.get(phase, none) + (line + over_link) * there
                seconds += _all_over(place, line[there], over_link[there])
            return seconds

        set_up, opening = together(load.before, once > 0), together(load.after, load.returns)
        return cls(
            legs=at_place,
            links=at_link,
            begin=begin[0],
            begin_link=begin[1],
            end=end[0],
            end_link=end[1],
            common=load.common_server_flops / server.compute_flop_per_s + opening,
            set_up=set_up,
            around=around,
        )

    @cached_property
    def both(self) -> tuple[Floats, ...]:
        """``[batch]`` for each leg, at its place and on the server's link."""
        return tuple(leg + link for leg, link in zip(self.legs, self.links, strict=True))

    def phases(self, load: RoundLoad) -> dict[str, Floats]:
        """Return ``[lane]`` seconds by phase."""
        phases = {phase: np.zeros(len(load.steps)) for phase in ("download", "clinic", "upload", "server")}
        phases["download"] += (self.begin + self.begin_link) * load.turns
        phases["upload"] += (self.end + self.end_link) * load.ends
        for leg, seconds in zip(load.legs, self.both, strict=True):
            phases[PHASES[leg.place]] += load.by_lane(seconds)
        for phase, seconds in self.around.items():
            phases[phase] += seconds
        return phases


def _all_over(place: Place, line: Floats, link: Floats) -> float:
    """Return when lanes that begin together have all sent a message, over their lines and one shared link."""
    if place == "down":
        return float((np.cumsum(link) + line).max(initial=0.0))
    over = 0.0
    for lane in np.argsort(line, kind="stable"):
        over = max(over, float(line[lane])) + float(link[lane])
    return over


@dataclass(frozen=True)
class RoundClock:
    """What every clock knows."""

    resources: Sequence[ClinicResources]  # Of all clinics
    server: ServerResources

    @cached_property
    def _by_field(self) -> dict[str, Floats]:
        names = ("uplink_bits_per_s", "downlink_bits_per_s", "latency_s", "compute_flop_per_s")
        return {name: np.array([getattr(clinic, name) for clinic in self.resources], np.float64) for name in names}

    def durations(self, load: RoundLoad) -> Durations:
        """Return what each piece of a round takes by itself."""
        return Durations.of(load, self._by_field, self.server)


class ClosedFormClock(RoundClock):
    """Times a round without a simulation of events, where nobody can wait for a worker or for a shared link.

    Body copies (SplitFed V1 and V3) have a worker each, so that a clinic's round is a sum and the round a maximum
    (Thapa et al. 2022, table 1, with a rate and a latency for each clinic and direction). A relay is a sum over the
    schedule. One body (SplitFed V2) serves the batches in the order of the schedule and waits for each.
    """

    def time_round(self, load: RoundLoad) -> RoundTime:
        """Return when each clinic has finished, and the round once the common work is done."""
        spent = self.durations(load)
        begin, end = spent.begin + spent.begin_link, spent.end + spent.end_link
        if load.handed_on:
            completed, finish = _relay(load, _total(spent.both, load), begin, end)
        elif load.joined:
            completed, finish, _ = side_by_side(load, spent)
        elif load.schedule is not None:
            completed, finish = _one_body(load, spent.both, begin, end)
        else:
            batch = _total(spent.both, load)
            completed = begin[load.lane_and_step[0]] + _so_far(batch, load)
            finish = begin + load.by_lane(batch) + end * load.ends
        return RoundTime(
            seconds=float(finish.max(initial=0.0)) + spent.common,
            phases=spent.phases(load),
            finish=finish,
            completed=completed,
        )


def side_by_side(load: RoundLoad, spent: Durations) -> tuple[Floats, Floats, list[Span]]:
    """Let all lanes go through their batches side by side, and the one body wait for the slowest before it works.

    Returns when each batch is trained on ``[batch]``, when each lane has finished ``[lane]``, and who did what when.
    """
    now, completed, spans = np.zeros(len(load.steps)), np.zeros(len(load.rows)), list[Span]()
    lanes = range(len(load.steps))
    for step in range(int(load.steps.max(initial=0))):
        at = load.first + step
        for leg, seconds in zip(load.legs, spent.both, strict=True):
            start = np.full_like(now, now.max()) if leg.place == "server" else now
            own = seconds[at]
            now = start + (own.max() if leg.place == "server" else own)
            spans += [
                Span(lane=lane, phase=PHASES[leg.place], start=float(start[lane]), end=float(start[lane] + own[lane]))
                for lane in lanes
                if own[lane]
            ]
        completed[at] = now
    return completed, now, spans


def _total(legs: Sequence[Floats], load: RoundLoad) -> Floats:
    return sum(legs, np.zeros(len(load.rows)))


def _so_far(batch: Floats, load: RoundLoad) -> Floats:
    """Return, for each batch, the sum over the lane's batches up to it."""
    so_far = batch.copy()
    for step in range(1, int(load.steps.max(initial=0))):
        at = (load.first + step)[load.steps > step]
        so_far[at] += so_far[at - 1]
    return so_far


def _relay(load: RoundLoad, batch: Floats, begin: Floats, end: Floats) -> tuple[Floats, Floats]:
    """Add up the turns in the order of the schedule."""
    lane, step = np.array(load.schedule, dtype=np.int64).reshape(-1, 2).T
    in_turn = (load.steps // np.maximum(load.turns, 1))[lane]
    opens, closes = step % in_turn == 0, step % in_turn == in_turn - 1
    closes &= load.returns[lane] | (step < load.steps[lane] - 1)
    at = load.first[lane] + step
    over = np.cumsum(batch[at] + begin[lane] * opens + end[lane] * closes)
    completed, finish = np.zeros(len(batch)), np.zeros(len(load.steps))
    completed[at] = over - end[lane] * closes
    np.maximum.at(finish, lane, over)
    return completed, finish


def _one_body(load: RoundLoad, legs: Sequence[Floats], begin: Floats, end: Floats) -> tuple[Floats, Floats]:
    """Follow the schedule: a batch is served when it has arrived and the body is free; then its clinic goes on.

    The body is taken from the first to the last of the server's legs, U-shaped also while the tail is at work.
    """
    at_server = [i for i, leg in enumerate(load.legs) if leg.place == "server"]
    first, last = at_server[0], at_server[-1]
    before, served, after = (
        _total(legs[part], load).tolist() for part in (slice(first), slice(first, last + 1), slice(last + 1, None))
    )
    clinic_free, begins = begin.tolist(), load.first.tolist()
    body_free = 0.0
    completed = np.zeros(len(load.rows))
    for lane, step in load.schedule or ():
        at = begins[lane] + step
        body_free = max(body_free, clinic_free[lane] + before[at]) + served[at]
        clinic_free[lane] = completed[at] = body_free + after[at]
    return completed, np.array(clinic_free) + end * load.ends
