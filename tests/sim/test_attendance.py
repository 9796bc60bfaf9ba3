"""Who is there and who is lost: shares, outages and drop-outs against their closed forms, and bad input."""

import numpy as np
import pytest

from sim.foundation.problems import ScenarioError
from sim.methods.attendance import available, drop_outs, slowdowns
from sim.scenario import parse_scenario
from sim.scenario.clinics import Behaviour, assign_resources
from sim.scenario.study import ClinicGroup

ROUNDS = 20_000


def outages(there):
    """Return the lengths of all outages that end."""
    change = np.flatnonzero(np.diff(np.concatenate([[1], there.astype(int), [1]])))
    begin, end = change[::2], change[1::2]
    return (end - begin)[:-1]


@pytest.mark.parametrize(("share", "outage"), [(0.9, 5.0), (0.6, 2.0), (0.5, 1.0), (0.8, 20.0)])
def test_a_markov_clinic_has_its_share_and_its_mean_outage(share, outage):
    """The share's standard error follows from the chain's second eigenvalue, 1 - 1 / L - (1 - a) / (a L)."""
    there = available(3, [Behaviour(availability=share, mean_outage=outage)], ROUNDS)[:, 0]
    eigenvalue = 1 - 1 / outage - (1 - share) / (share * outage)
    error = np.sqrt(share * (1 - share) * (1 + eigenvalue) / (1 - eigenvalue) / ROUNDS)
    assert abs(there.mean() - share) <= 4 * error
    lengths = outages(there)
    assert lengths.mean() == pytest.approx(outage, abs=4 * outage / np.sqrt(len(lengths)) + 1e-9)


def test_an_independent_clinic_has_its_share_and_geometric_outages():
    there = available(3, [Behaviour(availability=0.75)], ROUNDS)[:, 0]
    assert abs(there.mean() - 0.75) < 4 * np.sqrt(0.75 * 0.25 / ROUNDS)
    assert outages(there).mean() == pytest.approx(1 / 0.75, rel=0.03)


def test_the_first_round_is_drawn_from_the_share():
    first = np.array(
        [available(seed, [Behaviour(availability=0.7, mean_outage=10.0)], 1)[0, 0] for seed in range(3000)]
    )
    assert abs(first.mean() - 0.7) < 4 * np.sqrt(0.7 * 0.3 / 3000)


def test_a_clinics_luck_does_not_depend_on_the_others_or_on_later_rounds():
    shaky, calm = (
        Behaviour(availability=0.6, mean_outage=3.0, drop_out=0.5, straggler_chance=0.5, slowdown=4.0),
        Behaviour(),
    )
    one, two = available(1, [calm, shaky], 50), available(1, [shaky, shaky, calm], 30)
    np.testing.assert_array_equal(one[:30, 1], two[:, 1])
    assert one[:, 0].all()
    alone, among = drop_outs(1, 4, [1], [9], [calm, shaky]), drop_outs(1, 4, [0, 1], [9, 9], [shaky, shaky])
    assert (alone.batches_of(1), alone.returns(1)) == (among.batches_of(1), among.returns(1))
    slow = [r for r in range(100) if slowdowns(1, r, [1], [calm, shaky])]
    assert slow == [r for r in range(100) if (1, 4.0) in slowdowns(1, r, [0, 1], [shaky, shaky])]
    assert 30 < len(slow) < 70


def test_drop_outs_come_after_each_batch_equally_often():
    behaviours = [Behaviour(drop_out=0.4)]
    drawn = [drop_outs(0, r, [0], [4], behaviours) for r in range(1, 10_001)]
    assert all(a.returns(0) == (a.batches_of(0) == 4) or a.batches_of(0) == 4 for a in drawn)
    after = np.bincount([a.batches_of(0) for a in drawn if not a.returns(0)], minlength=5)
    assert after[0] == 0
    assert abs(after.sum() / 10_000 - 0.4) < 4 * np.sqrt(0.4 * 0.6 / 10_000)
    assert np.all(np.abs(after[1:] / after.sum() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / after.sum()))


def scenario(train=None, **group):
    return parse_scenario(
        {
            "name": "small",
            "seeds": [0],
            "data": {"source": "synthetic", "clinics": 3, "records": 90, "features": 2},
            "model": {"name": "logistic"},
            "train": {"rounds": 1, "batch-size": 8, "learning-rate": 0.1, **(train or {})},
            "clinics": [{"profile": "rural-dsl", **group}],
            "evaluation": {"reference": False},
            "strategies": [{"name": "fedavg"}],
        },
        None,
    )


def test_a_groups_keys_reach_its_clinics():
    written = {
        "availability": {"share": 0.9, "mean-outage": 5.0},
        "drop-out": 0.05,
        "straggler": {"chance": 0.1, "slowdown": 4.0},
    }
    [clinic] = assign_resources(scenario(**written).clinics, ["a"], 0)
    assert clinic.behaviour == Behaviour(
        availability=0.9, mean_outage=5.0, drop_out=0.05, straggler_chance=0.1, slowdown=4.0
    )
    [clinic] = assign_resources(scenario(availability=0.9).clinics, ["a"], 0)
    assert clinic.behaviour == Behaviour(availability=0.9)
    assert assign_resources([ClinicGroup(profile="hospital")], ["a"], 0)[0].behaviour == Behaviour()


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"availability": 1.2}, "clinics.0.availability.share: 1.2 is out of range; give a number of at most 1"),
        ({"availability": 0}, "clinics.0.availability.share: 0 is out of range; give a number greater than 0"),
        ({"availability": "often"}, 'clinics.0.availability: "often" is not a table; write it as one'),
        (
            {"availability": {"share": 0.9, "mean-outages": 5}},
            'clinics.0.availability.mean-outages: unknown key; did you mean "mean-outage"?',
        ),
        (
            {"availability": {"share": 0.9, "mean-outage": 0.5}},
            "clinics.0.availability.mean-outage: 0.5 is out of range; give a number of at least 1",
        ),
        (
            {"availability": {"share": 0.2, "mean-outage": 2}},
            "clinics.0.availability: outages of 2 rounds on average leave a share of at least 0.333, and 0.2 is less; "
            "give longer outages",
        ),
        ({"drop-out": -0.1}, "clinics.0.drop-out: -0.1 is out of range; give a number of at least 0"),
        (
            {"straggler": {"chance": 0.1, "slowdown": 0.5}},
            "clinics.0.straggler.slowdown: 0.5 is out of range; give a number of at least 1",
        ),
        ({"straggler": {"chance": 0.1}}, "clinics.0.straggler.slowdown: is missing; add this key"),
        (
            {"train": {"deadline": 30}},
            'train.deadline: 30 is not a number with a unit; give a time such as "40 ms"',
        ),
        (
            {"train": {"deadline": "-5 min"}},
            'train.deadline: "-5 min" is not positive and finite; give a time such as "40 ms"',
        ),
        (
            {"train": {"over-select": 0.9, "participation": 0.5}},
            "train.over-select: 0.9 is out of range; give a number of at least 1",
        ),
        (
            {"train": {"over-select": 1.3}},
            "train: over-select chooses more clinics than participation, which is all; lower participation",
        ),
    ],
)
def test_bad_input_is_one_line(wrong, line):
    with pytest.raises(ScenarioError) as caught:
        scenario(**wrong)
    assert caught.value.problems == (f"scenario: {line}",)
