"""Time a finished run on other links and servers, without training."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from sim.data.at_clinics import load_records
from sim.foundation.problems import ScenarioError, suggest
from sim.methods.job import Job
from sim.methods.parties import groups_at
from sim.plan.afterwards import afterwards, with_afterwards
from sim.plan.counts import Counts
from sim.plan.edge_counts import edges_at
from sim.plan.queues import PlanClock
from sim.scenario.base import Section
from sim.scenario.clinics import assign_resources
from sim.scenario.edges import Edge
from sim.scenario.file import overridden, validated
from sim.scenario.spec import RunSpec
from sim.scenario.study import ClinicGroup, Server
from sim.study.rerun import read_run

__all__ = ["Retiming"]

_RETIMED = {
    "server": ("compute", "workers", "uplink", "downlink"),
    "clinics": ("profile", "spread", "uplink", "downlink", "latency", "compute"),
    "edges": ("profile", "uplink", "downlink", "latency", "compute", "workers"),
}
_TIMELESS = ("memory", "idle-power", "busy-power")
_EVERY = re.compile(r"\s*clinics\.([a-z][\w-]*\s*=.*)", re.DOTALL)
_KEY = re.compile(r"(server|clinics|edges)(?:\.\d+)?\.([\w-]+)")


class Retiming:
    """A finished run, counted once and timed as often as is wanted.

    Parameters
    ----------
    folder : Path
        The run's.
    trust : bool
        Whether code that the folder names may be imported and run: the model is built to count what crosses.

    Attributes
    ----------
    recorded_seconds : float
        Simulated time of the run as it was planned and learned.

    Raises
    ------
    ScenarioError
        If the folder is no run's, names code without `trust`, or the data is no more what it was.
    """

    def __init__(self, folder: Path, *, trust: bool = False) -> None:
        record, spec = read_run(folder, trust=trust)
        self.recorded_seconds = float(record["row"]["sim_seconds"])
        self._folder = folder
        self._written = record["spec"]
        facts = load_records(spec.data, spec.clinics, spec.seed, spec.parties).facts
        self._job = Job.build(spec, facts)
        self._rounds = int(record["row"]["rounds"])
        self._counts = Counts(self._job, self._clock(spec)).count(self._rounds)
        self._ends_early = spec.train.deadline is not None or spec.train.over_select > 1

    def seconds(self, overrides: Sequence[str]) -> float:
        """Return the simulated time of the whole run with other rates.

        Parameters
        ----------
        overrides : sequence of str
            ``"key=value"``; keys of ``[server]``, and the profile and rates of ``[[clinics]]``, without a number of
            every group.

        Raises
        ------
        ScenarioError
            With one line for each key that does not exist, takes no time or may change what is learned, and each value
            that is none.
        """
        mapping = self._written
        problems = []
        for override in self._of_each_group(overrides):
            key = override.partition("=")[0].strip()
            if key and "=" in override and (fault := _fault(key)):
                problems.append(f"{key}: {fault}")
                continue
            try:
                mapping = overridden(mapping, override)
            except ValueError as error:
                problems.append(f"{key}: {error}")
        if problems:
            raise ScenarioError(problems)
        spec = validated(RunSpec, mapping, str(self._folder))
        clock = self._clock(spec)
        if not self._ends_early:
            times = [clock.time_round(load).seconds for load in self._counts.loads]
            return math.fsum(with_afterwards(times, afterwards(self._job, clock.resources)))
        counts = Counts(self._job, clock).count(self._rounds)
        if changed := [r for r in range(1, self._rounds + 1) if self._counts.attended.get(r) != counts.attended.get(r)]:
            raise ScenarioError(
                [
                    f"{', '.join(overrides)}: other clinics would come back in {len(changed)} of {self._rounds} "
                    f"rounds (first in round {changed[0]}), since train.deadline or train.over-select goes by the "
                    "times; so the run cannot be re-timed, run the scenario again"
                ]
            )
        after = afterwards(self._job, clock.resources)
        return math.fsum(with_afterwards([time.seconds for time in counts.times], after))

    def _of_each_group(self, overrides: Sequence[str]) -> Iterator[str]:
        """Spread ``clinics.<key>=value`` over all groups of clinics."""
        for override in overrides:
            if match := _EVERY.fullmatch(override):
                yield from (f"clinics.{group}.{match[1]}" for group in range(len(self._written["clinics"])))
            else:
                yield override

    def _clock(self, spec: RunSpec) -> PlanClock:
        facts = self._job.facts
        resources = assign_resources(groups_at(spec, facts), facts.everyone, spec.seed, set(facts.names))
        return PlanClock(resources, spec.server.resources(), edges_at(replace(self._job, spec=spec)))


def _fault(key: str) -> str:
    """Say why a key cannot be re-timed; nothing if it can."""
    match = _KEY.fullmatch(key)
    table, name = match.groups() if match else ("", "")
    if name in _RETIMED.get(table, ()):
        return ""
    if name in _TIMELESS:
        return "takes no time, so there is nothing to re-time; suture plan says what memory and energy are needed"
    tables: dict[str, type[Section]] = {"clinics": ClinicGroup, "edges": Edge}
    fields = tables.get(table, Server).model_fields
    if table and name not in {field.alias for field in fields.values()}:
        return f"unknown key; {suggest(name, _RETIMED[table])}"
    return (
        "may change what is learned, so it cannot be re-timed; set a key of server, or clinics.N.profile, uplink, "
        "downlink, latency or compute, or run the scenario again"
    )
