"""Deadlines and over-selection: rounds cut by hand, and what a plan makes of them."""

from dataclasses import replace

import numpy as np
import pytest
from support import plan_of, run_spec, write_csv
from test_events import A, B, close, load_of

from sim.methods.attendance import Attendance
from sim.plan.clock import attendance_until, time_limit, time_until
from sim.plan.queues import PlanClock
from sim.scenario.clinics import ServerResources
from sim.scenario.study import ClinicGroup


def cut(load, deadline=None, enough=None, workers=2):
    """Return when the server stops waiting, who is back by then, and the rest of the load with its time."""
    clock = PlanClock((A, B), ServerResources(1.0, workers))
    time, spent = clock.time_round(load), clock.durations(load)
    limit = time_limit(load, time, deadline, enough)
    attendance = attendance_until(load, time, spent, limit, enough)
    steps = np.array([attendance.batches_of(k) for k in load.clinics])
    rows = load.rows[load.lane_and_step[1] < np.repeat(steps, load.steps)]
    lost = frozenset(lane for lane, k in enumerate(load.clinics) if not attendance.returns(k))
    turns = load.turns if not load.handed_on else np.minimum(steps, load.turns)
    rest = replace(load, rows=rows, steps=steps, lost=lost, turns=turns)
    return limit, attendance, time_until(time, limit, rest, clock.durations(rest))


# With a worker each: A's batches take 1 + 3 + 30 + 3 + 2 and are over at 45 and 84, its head is back at 90; B's take
# 2 + 4 + 30 + 4 + 4, from 10 on: 54, 98, 108.
ROWS = [[1, 1], [1, 1]]


@pytest.mark.parametrize(
    ("deadline", "batches", "returned"),
    [
        (120, (2, 2), (True, True)),
        (105, (2, 2), (True, False)),  # B has done all, but its head is not back
        (95, (2, 1), (True, False)),
        (87, (2, 1), (False, False)),
        (50, (1, 0), (False, False)),
        (5, (0, 0), (False, False)),  # not even the heads have arrived
    ],
)
def test_a_deadline_cuts_parallel_clinics_between_two_batches(deadline, batches, returned):
    limit, attendance, time = cut(load_of(ROWS), deadline)
    assert limit == deadline
    assert attendance == Attendance.of((0, 1), batches, returned)
    assert time.seconds == close(min(deadline, 108))
    assert np.all(sum(time.phases.values()) <= time.finish * (1 + 1e-12))


@pytest.mark.parametrize(
    ("deadline", "batches", "returned"),
    [
        # A's turn is over at 90; B's batches at 100 + 44 and 188, and it has handed over at 198.
        (200, (2, 2), (True, True)),
        (195, (2, 2), (True, False)),
        (150, (2, 1), (True, False)),
        (143, (2, 0), (True, False)),  # B's turn would begin, but no batch of it would be over
        (89, (2, 0), (False, False)),
        (40, (0, 0), (False, False)),
    ],
)
def test_a_deadline_ends_a_relay_in_the_middle_of_a_turn(deadline, batches, returned):
    load = load_of(ROWS, turns=(1, 1), schedule=((0, 0), (0, 1), (1, 0), (1, 1)), handed_on=True)
    _, attendance, time = cut(load, deadline)
    assert attendance == Attendance.of((0, 1), batches, returned)
    assert time.seconds == close(min(deadline, 198))


@pytest.mark.parametrize(
    ("deadline", "batches", "returned"),
    [
        # A 45, handed over at 51; B 105, 115; A 160, 166; B 220, 230.
        (230, (2, 2), (True, True)),
        (225, (2, 2), (True, False)),
        (166, (2, 1), (True, True)),  # B's second turn never comes; its first was handed over
        (165, (2, 1), (False, True)),
        (110, (1, 1), (True, False)),
        (60, (1, 0), (True, False)),
    ],
)
def test_a_deadline_ends_a_relay_by_mini_batch_at_a_hand_over(deadline, batches, returned):
    load = load_of(ROWS, turns=(2, 2), schedule=((0, 0), (1, 0), (0, 1), (1, 1)), handed_on=True)
    assert cut(load, deadline)[1] == Attendance.of((0, 1), batches, returned)


def test_the_first_that_finish_are_enough():
    limit, attendance, time = cut(load_of(ROWS, common=3.0), enough=1)
    assert limit == close(90)
    assert attendance == Attendance.of((0, 1), (2, 1), (True, False))
    assert time.seconds == close(90 + 3)
    assert cut(load_of(ROWS), 80, enough=1)[0] == 80  # the deadline comes first
    assert cut(load_of(ROWS), enough=2)[0] == close(108)


def test_a_clinic_that_has_dropped_out_is_no_finisher():
    limit, attendance, _ = cut(replace(load_of(ROWS), lost=frozenset({0})), enough=1)
    assert limit == close(108)
    assert attendance == Attendance.of((0, 1), (2, 2), (False, True))


def test_of_clinics_that_finish_together_the_lowest_numbers_are_kept():
    load = load_of(ROWS, clinics=(1, 0))
    resources, server = (A, A), ServerResources(1.0, 2)
    clock = PlanClock(resources, server)
    time, spent = clock.time_round(load), clock.durations(load)
    assert time.finish.tolist() == close([90, 90])
    assert attendance_until(load, time, spent, 90.0, 1) == Attendance.of((0, 1), (2, 2), (True, False))


# In a plan


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("limits") / "ragged.csv")


def with_settings(spec, groups=({"profile": "rural-dsl"},), **train):
    groups = tuple(ClinicGroup(**group) for group in groups)
    return spec.model_copy(update={"train": spec.train.model_copy(update=train), "clinics": groups})


def test_a_deadline_nobody_meets_is_said_and_leaves_the_rounds_empty(csv):
    plan, _ = plan_of(with_settings(run_spec(csv), deadline=1e-3))
    assert plan.returned == (0, 0, 0)
    assert plan.participants == (4, 4, 4)
    assert plan.columns()["lost_clinic_rounds"] == 12
    assert plan.columns()["sim_seconds"] == pytest.approx(3e-3)
    assert plan.note == "train.deadline: no clinic meets it in any of 3 rounds; give a longer one"
    assert plan_of(with_settings(run_spec(csv), deadline=3600.0))[0].note == ""


def test_empty_rounds_are_said(csv):
    groups = ({"profile": "rural-dsl", "availability": {"share": 0.05}},)
    plan, _ = plan_of(with_settings(run_spec(csv, rounds=20), groups))
    empty = sum(not count for count in plan.returned)
    assert 10 < empty < 20
    assert plan.note == f"nobody comes back in {empty} of 20 rounds, which leave the model as it is"


def test_over_selection_keeps_as_many_as_wanted_and_asks_more(csv):
    plan, _ = plan_of(with_settings(run_spec(csv, rounds=6), participation=0.5, over_select=1.5))
    assert plan.participants == (3,) * 6
    assert plan.returned == (2,) * 6
    fastest, _ = plan_of(with_settings(run_spec(csv, rounds=6), participation=0.5))
    assert fastest.participants == (2,) * 6


def test_a_straggler_takes_longer_and_the_others_do_not(csv):
    groups = (
        {"profile": "rural-dsl", "straggler": {"chance": 1.0, "slowdown": 3.0}, "sites": ["k3"]},
        {"profile": "rural-dsl"},
    )
    slow, _ = plan_of(with_settings(run_spec(csv), groups))
    plain, _ = plan_of(with_settings(run_spec(csv)))
    latency = 0.025 * 2 * 3  # two messages a round
    assert slow.clinics[3].seconds - latency == pytest.approx(3 * (plain.clinics[3].seconds - latency))
    assert slow.clinics[2].seconds == plain.clinics[2].seconds
