from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from sim.foundation.problems import ScenarioError
from sim.foundation.units import parse_compute
from sim.scenario.clinics import COMPUTERS, PROFILES, ClinicResources, assign_resources
from sim.scenario.study import ClinicGroup

SITES = ("cleveland", "hungarian", "switzerland", "va")


@pytest.mark.parametrize(
    ("name", "down", "up", "one_way"),
    [
        ("solo-practice", 4e6, 1e6, 0.030),
        ("rural-dsl", 10e6, 1e6, 0.025),
        ("legacy-broadband", 25e6, 3e6, 0.020),
        ("leo-satellite", 100e6, 15e6, 0.0225),
        ("geo-satellite", 25e6, 3e6, 0.300),
        ("fcc-benchmark", 100e6, 20e6, 0.010),
        ("large-practice", 250e6, 50e6, 0.0075),
        ("hospital", 1e9, 1e9, 0.0025),
    ],
)
def test_profiles_are_the_published_links(name, down, up, one_way):
    profile = PROFILES[name]
    assert (profile.name, profile.downlink_bits_per_s, profile.uplink_bits_per_s) == (name, down, up)
    assert profile.latency_s == pytest.approx(one_way)


def test_no_cost_is_silently_zero():
    assert len(PROFILES) == 8
    for profile in PROFILES.values():
        assert all(value > 0 for key, value in asdict(profile).items() if key not in ("name", "behaviour"))


def group(**keys):
    return ClinicGroup.model_validate(keys)


def test_sites_get_their_group_in_the_order_of_the_federation():
    groups = (group(profile="rural-dsl", sites=["va", "hungarian"]), group(profile="hospital"))
    resources = assign_resources(groups, SITES, 0)
    assert [resource.name for resource in resources] == list(SITES)
    assert [resource.downlink_bits_per_s for resource in resources] == [1e9, 10e6, 1e9, 10e6]


def test_what_is_given_overrides_the_profile_and_the_rest_stays():
    [resource] = assign_resources([group(profile="rural-dsl", uplink="2 Mbit/s", latency="1 s")], ["a"], 0)
    profile = PROFILES["rural-dsl"]
    assert resource == replace(profile, name="a", uplink_bits_per_s=2e6, latency_s=1.0)


def test_the_guide_gives_these_numbers():
    text = (Path(__file__).parents[2] / "docs" / "clock.md").read_text(encoding="utf-8")
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    rows = {name: cells for name, *cells in table}
    for name, profile in PROFILES.items():
        rates, round_trip, computer, _ = rows[name]
        assert rates == f"{profile.downlink_bits_per_s / 1e6:g} / {profile.uplink_bits_per_s / 1e6:g}"
        assert round_trip == f"{2e3 * profile.latency_s:g} ms"
        assert profile.compute_flop_per_s == COMPUTERS[computer].compute_flop_per_s
    for name, own in COMPUTERS.items():
        rate, memory, power, _ = rows[name]
        assert parse_compute(rate) == own.compute_flop_per_s
        assert memory == f"{own.memory_bytes / 1e9:g} GB"
        assert power == f"{own.idle_watts:g} / {own.busy_watts:g} W"


def test_four_rates_need_no_profile():
    rates = {"uplink": "1 Mbit/s", "downlink": "2 Mbit/s", "latency": "3 ms", "compute": "4 GFLOP/s"}
    [resource] = assign_resources([group(**rates)], ["a"], 0)
    assert resource == ClinicResources(
        name="a", uplink_bits_per_s=1e6, downlink_bits_per_s=2e6, latency_s=0.003, compute_flop_per_s=4e9
    )


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (
            [group(profile="hospital", sites=["clevland"]), group(profile="hospital")],
            ['scenario: clinics.0.sites: unknown site "clevland"; write it as in the data'],
        ),
        (
            [
                group(profile="hospital", sites=["va"]),
                group(profile="rural-dsl", sites=["va"]),
                group(profile="hospital"),
            ],
            ['scenario: clinics.1.sites: site "va" is named twice; name it once'],
        ),
        (
            [group(profile="hospital", sites=["cleveland", "hungarian", "switzerland"])],
            ["scenario: clinics: no group covers 1 of the 4 sites; name each in a group, or add a group without sites"],
        ),
        (
            [group(profile="hospital", sites=["paris", "cleveland", "hungarian"])],
            [
                'scenario: clinics.0.sites: unknown site "paris"; write it as in the data',
                "scenario: clinics: no group covers 2 of the 4 sites; "
                "name each in a group, or add a group without sites",
            ],
        ),
    ],
)
def test_each_fault_is_one_line(groups, expected):
    with pytest.raises(ScenarioError) as caught:
        assign_resources(groups, SITES, 0)
    assert list(caught.value.problems) == expected


MANY = [f"k{k}" for k in range(1000)]
MIXED = {"rural-dsl": 0.4, "hospital": 0.1, "leo-satellite": 0.5}
KIND_OF = {profile.uplink_bits_per_s: name for name, profile in PROFILES.items()}


def kinds(resources):
    return [KIND_OF[resource.uplink_bits_per_s] for resource in resources]


def test_a_population_has_the_shares_to_the_clinic_and_the_seed_decides_who_is_what():
    groups = [group(profile=MIXED)]
    first = kinds(assign_resources(groups, MANY, 0))
    assert Counter(first) == {"rural-dsl": 400, "hospital": 100, "leo-satellite": 500}
    assert first != sorted(first)
    assert kinds(assign_resources(groups, MANY, 0)) == first
    assert kinds(assign_resources(groups, MANY, 1)) != first


def test_shares_of_few_clinics_are_rounded_to_the_largest_remainders():
    """2.8, 0.7 and 3.5 of seven clinics: 2, 0 and 3 at least; the two left go to .8 and .7."""
    counted = Counter(kinds(assign_resources([group(profile=MIXED)], MANY[:7], 3)))
    assert counted == {"rural-dsl": 3, "hospital": 1, "leo-satellite": 3}


def test_rates_spread_log_normally_around_the_profile():
    resources = assign_resources([group(profile="rural-dsl", spread=0.3)], MANY, 0)
    profile = PROFILES["rural-dsl"]
    up, down, compute = (
        np.log([getattr(resource, field) / getattr(profile, field) for resource in resources])
        for field in ("uplink_bits_per_s", "downlink_bits_per_s", "compute_flop_per_s")
    )
    np.testing.assert_allclose(up, down, atol=1e-12)  # one line
    for factors in (up, compute):  # within four standard errors
        assert abs(factors.mean()) < 4 * 0.3 / 1000**0.5
        assert abs(factors.std() - 0.3) < 4 * 0.3 / 2000**0.5
    assert abs(np.corrcoef(up, compute)[0, 1]) < 4 / 1000**0.5
    assert {resource.latency_s for resource in resources} == {profile.latency_s}


def test_groups_that_count_take_the_next_clinics_and_the_last_one_the_rest():
    groups = [
        group(profile="hospital"),
        group(profile="rural-dsl", count=2),
        group(profile="leo-satellite", sites=["k0"]),
        group(profile="geo-satellite", count=1),
    ]
    found = [resource.latency_s for resource in assign_resources(groups, MANY[:6], 0)]
    order = ("leo-satellite", "rural-dsl", "rural-dsl", "geo-satellite", "hospital", "hospital")
    assert found == [PROFILES[name].latency_s for name in order]


def test_more_clinics_than_the_data_has_is_one_line():
    with pytest.raises(ScenarioError) as caught:
        assign_resources([group(profile="hospital", count=500)], MANY[:20], 0)
    assert list(caught.value.problems) == [
        "scenario: clinics.0.count: 500 clinics, but the data has only 20 that no other group takes; "
        "give a smaller count"
    ]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"profile": {"rural-dsl": 0.4, "hospital": 0.5}}, "the shares add up to 0.9; give shares that add up to 1"),
        ({"profile": {"rural-dsl": -0.5, "hospital": 1.5}}, 'the share of "rural-dsl" is -0.5; give a number greater'),
        ({"profile": {"rural-dsl": float("nan")}}, 'the share of "rural-dsl" is nan; give a number greater than 0'),
        ({"profile": {"rural-dsl": "most"}}, 'the share of "rural-dsl" is "most"; give a number greater than 0'),
        ({"profile": 3}, "3 is neither a profile nor a table of shares; write a name in quotes"),
        ({"profile": {"rural-dls": 1.0}}, 'unknown profile "rural-dls"; did you mean "rural-dsl"?'),
        ({"profile": "hospital", "compute": "abacus"}, "or a class of computers: small-board, laptop"),
        ({"profile": "hospital", "memory": "8"}, 'give an amount of memory such as "8 GB"'),
        ({"profile": "hospital", "busy-power": "8 GB"}, 'is of the wrong kind; give a power such as "45 W"'),
        ({"profile": "hospital", "count": 2, "sites": ["a"]}, "has no effect beside sites"),
        ({"profile": "hospital", "idle-power": "9 W", "busy-power": "3 W"}, "idle-power is more than busy-power"),
        ({"profile": "hospital", "spread": 400.0}, "less than or equal to 5"),
    ],
)
def test_faults_of_a_population(keys, expected):
    with pytest.raises(ValidationError) as caught:
        ClinicGroup.model_validate(keys)
    assert expected in str(caught.value)


def test_a_class_of_computers_brings_memory_and_power_which_can_be_overridden():
    [resource] = assign_resources([group(profile="rural-dsl", compute="small-board", memory="2 GB")], ["a"], 0)
    board = COMPUTERS["small-board"]
    assert resource.compute_flop_per_s == board.compute_flop_per_s
    assert resource.memory_bytes == 2e9
    assert (resource.idle_watts, resource.busy_watts) == (board.idle_watts, board.busy_watts)
    assert resource.joules(10, 100) == pytest.approx(10 * 6.4 + 100 * 3)


def test_energy_that_nobody_gave_is_unknown_and_not_zero():
    assert (
        ClinicResources(
            name="a", uplink_bits_per_s=1e6, downlink_bits_per_s=1e6, latency_s=0.1, compute_flop_per_s=1e9
        ).joules(1, 1)
        is None
    )


def test_a_group_survives_being_written_and_read():
    written = group(profile=MIXED, spread=0.2, compute="laptop", memory="2 GB", **{"idle-power": "3 W"})
    assert ClinicGroup.model_validate(written.model_dump(mode="json")) == written
