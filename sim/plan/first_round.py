"""The first round of each method of a study, timed again on other uplinks: what the pictures of the clock show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy
from numpy.typing import NDArray

from sim.methods.labels import label_of
from sim.methods.parties import groups_at
from sim.plan.clock import RoundTime
from sim.plan.counts import Counts
from sim.plan.edge_counts import edges_at
from sim.plan.load import RoundLoad
from sim.plan.plan import Plan
from sim.plan.queues import PlanClock
from sim.scenario.clinics import Behaviour, ClinicResources, EdgeResources, ServerResources, assign_resources

UPLINKS = np.logspace(5, 9, 33)
"""From 0.1 to 1,000 Mbit/s, in bit/s."""


@dataclass(frozen=True, kw_only=True)
class FirstRound:
    """One method's first round."""

    method: str  # As people read it
    family: str
    names: tuple[str, ...]  # Of all clinics
    load: RoundLoad
    resources: tuple[ClinicResources, ...]  # Of all clinics
    server: ServerResources
    edges: tuple[EdgeResources, ...] = ()
    deadline: float | None = None  # The scenario's, in seconds; the load is that of a round without it
    over_select: float = 1.0  # The scenario's; the load has as many clinics as a round waits for

    @cached_property
    def time(self) -> RoundTime:
        """The round as it is played, with who did what when."""
        return PlanClock(self.resources, self.server, self.edges).play(self.load)

    def seconds(self, uplink: float) -> float:
        """Return how long the round takes if every clinic's uplink has this rate in bit/s."""
        resources = [replace(clinic, uplink_bits_per_s=uplink) for clinic in self.resources]
        return PlanClock(resources, self.server, self.edges).time_round(self.load).seconds


@dataclass(frozen=True)
class Crossing:
    """Where two methods take the same time a round."""

    # uplink, seconds: in bit/s; of a round of either
    uplink: float
    seconds: float
    # below, above: the faster method on slower and on faster uplinks
    below: str
    above: str


def first_rounds(plans: Sequence[Plan]) -> list[FirstRound]:
    """Count the first round of each method, with the first seed and the first swept values, as if nobody could be lost.

    Baselines, which send nothing in a round, are left out.
    """
    found: dict[str, FirstRound] = {}
    for plan in plans:
        spec, job, method = plan.spec, plan.job, label_of(plan.spec)
        if method in found or job.method.family == "baseline":
            continue
        unhurried = spec.train.model_copy(update={"rounds": 1, "deadline": None, "over_select": 1.0})
        names, everyone = job.facts.names, job.facts.everyone
        resources = tuple(
            replace(clinic, behaviour=Behaviour())
            for clinic in assign_resources(groups_at(spec, job.facts), everyone, spec.seed, set(names))
        )
        server = spec.server.resources()
        once = replace(job, spec=spec.model_copy(update={"train": unhurried}), attended={})
        edges = edges_at(job)
        [load] = Counts(once, PlanClock(resources, server, edges)).count(1).loads
        load = replace(load, before_s=0.0)  # once, and not a round's
        found[method] = FirstRound(
            method=method,
            family=job.method.family,
            names=names,
            load=load,
            resources=resources,
            server=server,
            edges=edges,
            deadline=spec.train.deadline,
            over_select=spec.train.over_select,
        )
    return list(found.values())


def uplink_seconds(rounds: Sequence[FirstRound]) -> NDArray[np.float64]:
    """Return ``[method, uplink]`` seconds a round on each of `UPLINKS`."""
    return np.array([[one.seconds(uplink) for uplink in UPLINKS] for one in rounds])


def crossings(rounds: Sequence[FirstRound], seconds: NDArray[np.float64]) -> list[Crossing]:
    """Find where methods of different families (FL, SL, SplitFed) change places, by uplink.

    ``seconds`` are those of :func:`uplink_seconds`; exact, by bisection with the clock between the points of the grid.
    """
    found = []
    for i, first in enumerate(rounds):
        for j, second in enumerate(rounds[:i]):
            if first.family == second.family:
                continue
            ahead = np.sign(seconds[i] - seconds[j])
            for k in np.flatnonzero(ahead[:-1] * ahead[1:] < 0):
                uplink = 10 ** scipy.optimize.brentq(
                    lambda exponent, a=first, b=second: a.seconds(10**exponent) - b.seconds(10**exponent),
                    *np.log10(UPLINKS[k : k + 2]),
                    xtol=1e-6,
                )
                below, above = (first, second) if ahead[k] < 0 else (second, first)
                found.append(Crossing(uplink, first.seconds(uplink), below.method, above.method))
    return sorted(found, key=lambda crossing: crossing.uplink)
