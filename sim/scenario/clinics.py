"""What each clinic's link and computer can do: named profiles, and the clinics that have them.

``docs/clock.md`` gives the source of each number.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pydantic import ValidationError

from sim.foundation.plugins import loaded
from sim.foundation.problems import ScenarioError, problem_lines, show, suggest
from sim.foundation.rng import stream
from sim.scenario.lookup import PROFILES as OWN_PROFILES

if TYPE_CHECKING:
    from sim.scenario.study import ClinicGroup

ROW_NOISE, LABEL_FLIP = "row-noise", "label-flip"
"""What a hostile clinic may do besides sending another update: to its rows at a cut, and to its labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How reliable a clinic is."""

    availability: float = 1.0  # Share of the rounds in which it is there, in (0, 1]
    # Mean number of rounds for which it stays away; None where each round is drawn independently
    mean_outage: float | None = None
    # Chance that a clinic which began a round is lost in it: after one of its batches, each equally likely
    drop_out: float = 0.0
    straggler_chance: float = 0.0  # Chance that its computer and its line are slower in a round
    slowdown: float = 1.0  # How many times slower they then are

    @property
    def may_be_lost(self) -> bool:
        """Whether it may miss a round, or the end of one."""
        return self.availability < 1 or self.drop_out > 0


class Computer(NamedTuple):
    """A class of computers."""

    compute_flop_per_s: float  # Sustained rate in training
    memory_bytes: float
    # idle_watts, busy_watts: of the whole computer, while it waits for a message and while it computes
    idle_watts: float
    busy_watts: float


COMPUTERS: Final = MappingProxyType(
    {
        "small-board": Computer(10e9, 4e9, 3, 6.4),
        "laptop": Computer(50e9, 8e9, 10, 40),
        "office-pc": Computer(100e9, 16e9, 50, 100),
        "workstation": Computer(300e9, 32e9, 80, 250),
        "gpu-server": Computer(1e12, 64e9, 120, 300),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClinicResources:
    """A clinic's link and computer, and how reliable they are."""

    name: str  # The clinic, or the profile where no clinic has it yet
    # uplink_bits_per_s, downlink_bits_per_s: rates from and to the clinic
    uplink_bits_per_s: float
    downlink_bits_per_s: float
    latency_s: float  # One way, half of the round trip
    compute_flop_per_s: float  # Sustained rate in training
    # memory_bytes, idle_watts, busy_watts: as for Computer; None where the scenario does not say, never zero
    memory_bytes: float | None = None
    idle_watts: float | None = None
    busy_watts: float | None = None
    behaviour: Behaviour = field(default_factory=Behaviour)

    def joules(self, computing_s: float, on_the_line_s: float) -> float | None:
        """Return the energy: busy power while it computes, idle power while it sends or receives."""
        if self.idle_watts is None or self.busy_watts is None:
            return None
        return self.busy_watts * computing_s + self.idle_watts * on_the_line_s


@dataclass(frozen=True, slots=True)
class EdgeResources:
    """An edge server's link to the cloud and its computer."""

    own: ClinicResources
    workers: int  # How many batches it trains on at once, each at the full rate


@dataclass(frozen=True, slots=True)
class ServerResources:
    """The server's computer and, if it is a bottleneck, its link."""

    compute_flop_per_s: float  # Sustained rate of one worker
    workers: int = 1  # How many batches it trains on at once
    # uplink_bits_per_s, downlink_bits_per_s: rates from and to the server, shared by all clinics; None where the
    # server's link is never the bottleneck
    uplink_bits_per_s: float | None = None
    downlink_bits_per_s: float | None = None


def _profile(name: str, down_mbit: float, up_mbit: float, round_trip_ms: float, computer: str) -> ClinicResources:
    return ClinicResources(
        name=name,
        uplink_bits_per_s=up_mbit * 1e6,
        downlink_bits_per_s=down_mbit * 1e6,
        latency_s=round_trip_ms / 2e3,
        **COMPUTERS[computer]._asdict(),
    )


PROFILES: Final = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            _profile("solo-practice", 4, 1, 60, "laptop"),
            _profile("rural-dsl", 10, 1, 50, "laptop"),
            _profile("legacy-broadband", 25, 3, 40, "laptop"),
            _profile("leo-satellite", 100, 15, 45, "laptop"),
            _profile("geo-satellite", 25, 3, 600, "laptop"),
            _profile("fcc-benchmark", 100, 20, 20, "office-pc"),
            _profile("large-practice", 250, 50, 15, "workstation"),
            _profile("hospital", 1000, 1000, 5, "gpu-server"),
        )
    }
)


_OF_A_PROFILE: Final = ("uplink", "downlink", "latency", "compute", "memory", "idle-power", "busy-power")
"""The keys that a profile of the user's own may have, the first four of which it must."""


def assign_resources(
    groups: "Sequence[ClinicGroup]", site_names: Sequence[str], seed: int, taking_part: Collection[str] | None = None
) -> tuple[ClinicResources, ...]:
    """Give every site the link and computer of its group, in the order of the sites.

    Where not all take part, only theirs are returned: a clinic has the same ones whoever else takes part. Groups with
    ``sites`` take these, those with ``count`` the next so many that no group names, and at most one without either
    takes the rest. The seed decides which clinic of a group has which of its profiles, and how far its rates lie
    from them.

    Raises
    ------
    ScenarioError
        With one line for each unknown site, site named twice, group that finds fewer clinics than it counts, and site
        that no group covers.
    """
    group_of = groups_of(groups, site_names)
    members: dict[int, list[str]] = {position: [] for position in range(len(groups))}
    for site in site_names:
        members[group_of[site]].append(site)
    found = {
        resources.name: resources
        for position, group in enumerate(groups)
        for resources in _members(group, members[position], position, seed)
    }
    return tuple(found[site] for site in site_names if taking_part is None or site in taking_part)


def groups_of(groups: "Sequence[ClinicGroup]", site_names: Sequence[str]) -> dict[str, int]:
    """Return the place of the group that each site belongs to; raises as :func:`assign_resources`."""
    problems: list[str] = []
    group_of: dict[str, int] = {}
    for position, group in enumerate(groups):
        for site in group.sites or ():
            if site not in site_names:
                problems.append(f'scenario: clinics.{position}.sites: unknown site "{site}"; write it as in the data')
            elif site in group_of:
                problems.append(f'scenario: clinics.{position}.sites: site "{site}" is named twice; name it once')
            else:
                group_of[site] = position
    left = [site for site in site_names if site not in group_of]
    for position, group in sorted(enumerate(groups), key=lambda item: item[1].count is None):
        if group.sites is None:
            taken, left = (left, []) if group.count is None else (left[: group.count], left[group.count :])
            if group.count is not None and len(taken) < group.count:
                problems.append(
                    f"scenario: clinics.{position}.count: {group.count} clinics, but the data has only {len(taken)} "
                    "that no other group takes; give a smaller count"
                )
            group_of |= dict.fromkeys(taken, position)
    if left:
        problems.append(
            f"scenario: clinics: no group covers {len(left)} of the {len(site_names)} sites; "
            "name each in a group, or add a group without sites"
        )
    if problems:
        raise ScenarioError(problems)
    return group_of


def _members(group: "ClinicGroup", sites: Sequence[str], position: int, seed: int) -> list[ClinicResources]:
    draws = stream(seed, "population", clinic=position)
    profiles: list[str | None] = [None] * len(sites)
    if isinstance(group.profile, str):
        profiles = [group.profile] * len(sites)
    elif group.profile is not None:
        quotas = _quotas(group.profile, len(sites))
        dealt = [name for name, quota in quotas.items() for _ in range(quota)]
        profiles = [dealt[k] for k in draws.permutation(len(sites))]
    named = {profile: _resources(group, profile) for profile in dict.fromkeys(profiles)}
    found = [replace(named[profile], name=site) for site, profile in zip(sites, profiles, strict=True)]
    if not group.spread:
        return found
    factors = draws.lognormal(0.0, group.spread, (len(sites), 2)).tolist()
    return [
        replace(
            own,
            uplink_bits_per_s=own.uplink_bits_per_s * line,
            downlink_bits_per_s=own.downlink_bits_per_s * line,
            compute_flop_per_s=own.compute_flop_per_s * computer,
        )
        for own, (line, computer) in zip(found, factors, strict=True)
    ]


def _quotas(shares: Mapping[str, float], clinics: int) -> dict[str, int]:
    """Turn shares into whole numbers of clinics: rounded down, and what is left to the largest remainders."""
    quotas = {name: math.floor(share * clinics) for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: quotas[name] - shares[name] * clinics)
    for name in by_remainder[: clinics - sum(quotas.values())]:
        quotas[name] += 1
    return quotas


def _resources(group: "ClinicGroup", profile: str | None) -> ClinicResources:
    of_class = isinstance(group.compute, str)
    given = {
        "uplink_bits_per_s": group.uplink,
        "downlink_bits_per_s": group.downlink,
        "latency_s": group.latency,
        "compute_flop_per_s": None if of_class else group.compute,
        "memory_bytes": group.memory,
        "idle_watts": group.idle_power,
        "busy_watts": group.busy_power,
    }
    known: dict[str, Any] = COMPUTERS[str(group.compute)]._asdict() if of_class else {}
    known |= {key: value for key, value in given.items() if value is not None}
    if profile is None:
        return ClinicResources(name="", **known, behaviour=group.behaviour())
    given_profile = PROFILES.get(profile) or _own_profile(type(group), profile)
    return replace(given_profile, **known, behaviour=group.behaviour())


def _own_profile(tables: "type[ClinicGroup]", profile: str) -> ClinicResources:
    """Return the resources that a profile of the user's own stands for: a mapping of keys of ``[[clinics]]``.

    Raises
    ------
    ScenarioError
        If it cannot be imported, or holds anything but a link and a computer.
    """
    place = f'scenario: clinics: profile "{profile}"'
    try:
        found = loaded(OWN_PROFILES, profile)
    except ValueError as error:
        raise ScenarioError(f"{place}: {error}") from None
    if not isinstance(found, Mapping):
        raise ScenarioError(f"{place} is no mapping of {', '.join(_OF_A_PROFILE)}; give one")
    if unknown := [key for key in found if key not in _OF_A_PROFILE]:
        raise ScenarioError(f"{place}: unknown key {show(unknown[0])}; {suggest(unknown[0], _OF_A_PROFILE)}")
    if absent := [key for key in _OF_A_PROFILE[:4] if key not in found]:
        raise ScenarioError(f"{place}: {', '.join(absent)} not given; give all four rates")
    try:
        return _resources(tables.model_validate(dict(found), by_alias=True, by_name=False), None)
    except ValidationError as error:
        raise ScenarioError(problem_lines(error, place, {(): tables})) from None
