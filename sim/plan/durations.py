"""How long each piece of a round takes by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from sim.methods.protocol import HEADER_BYTES
from sim.plan.load import EDGE_PHASES, PHASES, Bools, EdgeLoad, Floats, Ints, Place, RoundLoad
from sim.privacy.secure_aggregation import Stage
from sim.scenario.clinics import EdgeResources, ServerResources


@dataclass(frozen=True, kw_only=True)
class Durations:
    """What each piece of a round takes by itself, waiting not included.

    A message takes the clinic's latency and its bytes over the clinic's line; on a server link that all clinics share,
    its bytes over that link come on top (store and forward). Between an edge server and the cloud a message keeps the
    edge server's link busy for its bytes, and arrives the link's latency later.
    """

    # legs, links: [batch] for each leg: at its place or on the clinic's line, and on the server's link
    legs: tuple[Floats, ...]
    # or the edge server's
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
    # With edge servers: [lane] the same between these and the cloud, empty without
    from_cloud: Floats = field(default_factory=lambda: np.zeros(0))
    from_cloud_link: Floats = field(default_factory=lambda: np.zeros(0))
    to_cloud: Floats = field(default_factory=lambda: np.zeros(0))
    to_cloud_link: Floats = field(default_factory=lambda: np.zeros(0))
    # [edge] when it has all parameters that it waits for, and what it does when its last clinic has finished
    edge_begin: Floats = field(default_factory=lambda: np.zeros(0))
    edge_end: Floats = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def of(
        cls,
        load: RoundLoad,
        resources: Mapping[str, Floats],
        server: ServerResources,
        edges: Sequence[EdgeResources] = (),
    ) -> Durations:
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

        legs, above = [], None if load.edges is None else EdgeLinks.of(load.edges, edges)
        for leg in load.legs:
            amount = load.rows * leg.of(load.clinics)[load.lane_and_step[0]]
            if above is not None and leg.place in ("edge", "edge-up", "edge-down"):
                legs.append(above.leg(leg.place, amount, load.lane_and_step[0]))
            elif leg.place == "server" or leg.place == "clinic":
                rate = by_batch["compute_flop_per_s"] if leg.place == "clinic" else server.compute_flop_per_s
                legs.append((amount / rate, np.zeros(len(amount))))
            elif leg.place == "up" or leg.place == "down":
                taken = leg.taken(load.clinics)[load.lane_and_step[0]]
                line, over_link = message(leg.place, amount, by_batch)
                legs.append((line * taken, over_link * taken))
        once = np.ones(len(load.steps), dtype=np.int64)
        none = np.zeros(len(load.steps))
        begin = message("down", once * load.begin_bytes, by_lane) if np.any(load.begin_bytes) else (none, none)
        end = message("up", once * load.end_bytes, by_lane) if np.any(load.end_bytes) else (none, none)
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
            **({} if above is None else above.parameters()),
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
        if load.edges is not None:
            phases |= {phase: np.zeros(len(load.steps)) for phase in EDGE_PHASES}
            phases["from cloud"] += (self.from_cloud + self.from_cloud_link) * load.turns
            phases["to cloud"] += (self.to_cloud + self.to_cloud_link) * load.ends
        for leg, seconds in zip(load.legs, self.both, strict=True):
            phases[PHASES[leg.place]] += load.by_lane(seconds)
        for phase, seconds in self.around.items():
            phases[phase] += seconds
        return phases


@dataclass(frozen=True)
class EdgeLinks:
    """Links and computers of edge servers, by what a round asks of them; ``[edge]`` each."""

    load: EdgeLoad
    latency: Floats
    rates: Mapping[str, Floats]  # By place: bits or FLOPs a second

    @classmethod
    def of(cls, load: EdgeLoad, edges: Sequence[EdgeResources]) -> EdgeLinks:
        """Gather them from the edge servers' resources."""
        fields = {"edge": "compute_flop_per_s", "edge-up": "uplink_bits_per_s", "edge-down": "downlink_bits_per_s"}
        rates = {place: np.array([getattr(edge.own, name) for edge in edges]) for place, name in fields.items()}
        return cls(load, np.array([edge.own.latency_s for edge in edges]), rates)

    def leg(self, place: Place, amount: Ints, lane: Ints) -> tuple[Floats, Floats]:
        """Return ``[batch]`` seconds of a leg without and on the link to the cloud."""
        home = self.load.home[lane]
        if place == "edge":
            return amount / self.rates[place][home], np.zeros(len(amount))
        return self.latency[home], 8.0 * (amount + HEADER_BYTES) / self.rates[place][home]

    def parameters(self) -> dict[str, Floats]:
        """Return what parameters take between cloud and edge servers, by the fields of :class:`Durations`."""
        load, home, none = self.load, self.load.home, np.zeros(len(self.load.home))
        begin, end = (
            8.0 * (payload + HEADER_BYTES) / self.rates[place] if payload else np.zeros(len(self.latency))
            for payload, place in ((load.begin_bytes, "edge-down"), (load.end_bytes, "edge-up"))
        )
        begin_wait, end_wait = self.latency * bool(load.begin_bytes), self.latency * bool(load.end_bytes)
        if not load.together:
            return {
                "from_cloud": begin_wait[home],
                "from_cloud_link": begin[home],
                "to_cloud": end_wait[home],
                "to_cloud_link": end[home],
                "edge_begin": np.zeros(len(begin)),
                "edge_end": np.zeros(len(end)),
            }
        edge_begin = (begin_wait + begin * load.begins) * (load.begins > 0)
        averaging = load.common_flops / self.rates["edge"]
        return {
            "from_cloud": edge_begin[home],
            "from_cloud_link": none,
            "to_cloud": none,
            "to_cloud_link": none,
            "edge_begin": edge_begin,
            "edge_end": averaging + (end_wait + end * load.ends) * (load.ends > 0),
        }


def _all_over(place: Place, line: Floats, link: Floats) -> float:
    """Return when lanes that begin together have all sent a message, over their lines and one shared link."""
    if place == "down":
        return float((np.cumsum(link) + line).max(initial=0.0))
    over = 0.0
    for lane in np.argsort(line, kind="stable"):
        over = max(over, float(line[lane])) + float(link[lane])
    return over
