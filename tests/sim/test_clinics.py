from dataclasses import asdict

import pytest

from sim.clinics import PROFILES, ClinicResources, assign_resources
from sim.problems import ScenarioError
from sim.scenario import ClinicGroup

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
        assert all(value > 0 for key, value in asdict(profile).items() if key != "name")


def group(**keys):
    return ClinicGroup.model_validate(keys)


def test_sites_get_their_group_in_the_order_of_the_federation():
    groups = (group(profile="rural-dsl", sites=["va", "hungarian"]), group(profile="hospital"))
    resources = assign_resources(groups, SITES)
    assert [resource.name for resource in resources] == list(SITES)
    assert [resource.downlink_bits_per_s for resource in resources] == [1e9, 10e6, 1e9, 10e6]


def test_what_is_given_overrides_the_profile_and_the_rest_stays():
    [resource] = assign_resources([group(profile="rural-dsl", uplink="2 Mbit/s", latency="1 s")], ["a"])
    profile = PROFILES["rural-dsl"]
    assert resource == ClinicResources("a", 2e6, profile.downlink_bits_per_s, 1.0, profile.compute_flop_per_s)


def test_four_rates_need_no_profile():
    rates = {"uplink": "1 Mbit/s", "downlink": "2 Mbit/s", "latency": "3 ms", "compute": "4 GFLOP/s"}
    [resource] = assign_resources([group(**rates)], ["a"])
    assert resource == ClinicResources("a", 1e6, 2e6, 0.003, 4e9)


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (
            [group(profile="hospital", sites=["clevland"]), group(profile="hospital")],
            ['scenario: clinics.0.sites: unknown site "clevland"; did you mean "cleveland"?'],
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
            ['scenario: clinics: no group covers site "va"; name it in a group, or add a group without sites'],
        ),
        (
            [group(profile="hospital", sites=["paris", "cleveland", "hungarian"])],
            [
                'scenario: clinics.0.sites: unknown site "paris"; '
                'choose "cleveland", "hungarian", "switzerland" or "va"',
                'scenario: clinics: no group covers site "switzerland"; '
                "name it in a group, or add a group without sites",
                'scenario: clinics: no group covers site "va"; name it in a group, or add a group without sites',
            ],
        ),
    ],
)
def test_each_fault_is_one_line(groups, expected):
    with pytest.raises(ScenarioError) as caught:
        assign_resources(groups, SITES)
    assert list(caught.value.problems) == expected
