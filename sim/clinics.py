"""What each clinic's link and computer can do: named profiles, and the clinics that have them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from sim.attendance import Behaviour
from sim.problems import ScenarioError, suggest

if TYPE_CHECKING:
    from sim.scenario import ClinicGroup

__all__ = ["PROFILES", "ClinicResources", "ServerResources", "assign_resources"]


@dataclass(frozen=True, slots=True)
class ClinicResources:
    """A clinic's link and computer, and how reliable they are.

    Attributes
    ----------
    name : str
        The clinic, or the profile where no clinic has it yet.
    uplink_bits_per_s, downlink_bits_per_s : float
        Rates from and to the clinic.
    latency_s : float
        One way, half of the round trip.
    compute_flop_per_s : float
        Sustained rate in training.
    behaviour : Behaviour
    """

    name: str
    uplink_bits_per_s: float
    downlink_bits_per_s: float
    latency_s: float
    compute_flop_per_s: float
    behaviour: Behaviour = field(default_factory=Behaviour)


@dataclass(frozen=True, slots=True)
class ServerResources:
    """The server's computer and, if it is a bottleneck, its link.

    Attributes
    ----------
    compute_flop_per_s : float
        Sustained rate of one worker.
    workers : int
        How many batches it trains on at once.
    uplink_bits_per_s, downlink_bits_per_s : float or None
        Rates from and to the server, shared by all clinics; None where the server's link is never the bottleneck.
    """

    compute_flop_per_s: float
    workers: int = 1
    uplink_bits_per_s: float | None = None
    downlink_bits_per_s: float | None = None

    @property
    def shares_its_link(self) -> bool:
        """Whether messages of different clinics may wait for each other at the server's link."""
        return self.uplink_bits_per_s is not None or self.downlink_bits_per_s is not None


def _profile(name: str, down_mbit: float, up_mbit: float, round_trip_ms: float, gflop: float) -> ClinicResources:
    return ClinicResources(name, up_mbit * 1e6, down_mbit * 1e6, round_trip_ms / 2e3, gflop * 1e9)


# Links: solo-practice, rural-dsl (10/1 is the ONC minimum for a rural health clinic), legacy-broadband (FCC benchmark
# of 2015-2024), leo-satellite, fcc-benchmark (FCC 2024), large-practice and hospital are typical measured values;
# geo-satellite has a measured round trip of 600 ms, and 25/3 Mbit/s is our assumption.
# Compute is an assumption, sustained in training on small networks: an office PC 50 GFLOP/s, a practice's newer PC
# 100, its own server 300, a hospital's server 1 TFLOP/s (20 times the office PC; 48 has been measured between devices).
PROFILES: Final = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            _profile("solo-practice", 4, 1, 60, 50),
            _profile("rural-dsl", 10, 1, 50, 50),
            _profile("legacy-broadband", 25, 3, 40, 50),
            _profile("leo-satellite", 100, 15, 45, 50),
            _profile("geo-satellite", 25, 3, 600, 50),
            _profile("fcc-benchmark", 100, 20, 20, 100),
            _profile("large-practice", 250, 50, 15, 300),
            _profile("hospital", 1000, 1000, 5, 1000),
        )
    }
)


def assign_resources(groups: "Sequence[ClinicGroup]", site_names: Sequence[str]) -> tuple[ClinicResources, ...]:
    """Give every site the link and computer of its group.

    Parameters
    ----------
    groups : sequence of ClinicGroup
        The scenario's ``[[clinics]]``; at most one without sites, which takes all sites not named elsewhere.
    site_names : sequence of str
        The federation's clinics.

    Returns
    -------
    tuple of ClinicResources
        In the order of `site_names`.

    Raises
    ------
    ScenarioError
        With one line for each unknown site, site named twice, and site that no group covers.
    """
    problems: list[str] = []
    group_of: dict[str, ClinicGroup] = {}
    for position, group in enumerate(groups):
        for site in group.sites or ():
            if site not in site_names:
                problems.append(
                    f'scenario: clinics.{position}.sites: unknown site "{site}"; {suggest(site, site_names)}'
                )
            elif site in group_of:
                problems.append(f'scenario: clinics.{position}.sites: site "{site}" is named twice; name it once')
            else:
                group_of[site] = group
    rest = next((group for group in groups if group.sites is None), None)
    for site in site_names:
        if rest is not None:
            group_of.setdefault(site, rest)
        elif site not in group_of:
            problems.append(
                f'scenario: clinics: no group covers site "{site}"; name it in a group, or add a group without sites'
            )
    if problems:
        raise ScenarioError(problems)
    return tuple(_resources(group_of[site], site) for site in site_names)


def _resources(group: "ClinicGroup", site: str) -> ClinicResources:
    given = {
        "uplink_bits_per_s": group.uplink,
        "downlink_bits_per_s": group.downlink,
        "latency_s": group.latency,
        "compute_flop_per_s": group.compute,
    }
    known = {field: value for field, value in given.items() if value is not None}
    behaviour = group.behaviour()
    if group.profile is None:
        return ClinicResources(site, **known, behaviour=behaviour)
    return replace(PROFILES[group.profile], name=site, **known, behaviour=behaviour)
