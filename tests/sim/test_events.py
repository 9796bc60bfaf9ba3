"""The event clock: rounds worked out by hand to the microsecond, and equal to the closed forms where nobody queues."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simpy_clock import EventClock
from two_clinics import HEAD, ROW, A, B, by_lane

from sim.plan.clock import ClosedFormClock
from sim.plan.load import Leg, RoundLoad
from sim.plan.queues import PlanClock, QueueClock
from sim.scenario.clinics import ClinicResources, ServerResources

# Bodies ten times as slow as in two_clinics, so that clinics queue; with names for the spans.
WHOLE = (Leg("clinic", 3),)
VANILLA = (
    *(Leg("clinic", 1), Leg("up", ROW), Leg("server", 30)),
    *(Leg("down", ROW), Leg("clinic", 2)),
)
U_SHAPED = (
    *(Leg("clinic", 1), Leg("up", ROW), Leg("server", 10)),
    *(Leg("down", ROW), Leg("clinic", 2), Leg("up", ROW)),
    *(Leg("server", 20), Leg("down", ROW), Leg("clinic", 2)),
)
MICROSECOND = 1e-6


def load_of(rows, legs=VANILLA, turns=None, schedule=None, handed_on=False, common=0.0, head=HEAD, clinics=None):
    rows, steps = by_lane(rows)
    lanes = np.arange(len(steps)) if clinics is None else np.array(clinics)
    turns = np.ones_like(steps) if turns is None else np.array(turns)
    return RoundLoad(
        clinics=lanes,
        rows=rows,
        steps=steps,
        legs=legs,
        begin_bytes=head,
        end_bytes=head,
        turns=turns,
        schedule=schedule,
        handed_on=handed_on,
        common_server_flops=common,
    )


def play(load, workers=1, resources=(A, B), **server):
    return EventClock(resources, ServerResources(1.0, workers, **server)).time_round(load, trace=True)


def close(seconds):
    return pytest.approx(seconds, abs=MICROSECOND)


def test_v1_one_batch_each_waits_for_the_only_worker():
    """A, one row: there at 6 + 1 + 3 = 10, served until 40. B: there at 10 + 2 + 4 = 16, waits, is served 40-70."""
    time = play(load_of([[1, 1]], common=5.0))
    assert time.finish.tolist() == close([40 + 3 + 2 + 6, 70 + 4 + 4 + 10])
    assert time.completed.tolist() == close([45, 78])
    assert time.seconds == close(88 + 5)
    assert time.waiting.tolist() == close([0, 24])
    served = [(s.actor, s.lane, s.start, s.end) for s in time.spans if s.phase == "server" and s.lane >= 0]
    assert served == [(-1, 0, close(10), close(40)), (-1, 1, close(40), close(70))]


def test_v1_with_a_worker_each_nobody_waits():
    time = play(load_of([[1, 1]]), workers=2)
    assert time.finish.tolist() == close([51, 16 + 30 + 4 + 4 + 10])
    assert [s.actor for s in time.spans if s.phase == "server"] == [-1, -2]


def test_v1_two_batches_first_come_first_served():
    """A's second batch, sent at 45 + 1 + 3 = 49, comes behind B's first, which is served 40-70: A 70-100, B 100-130."""
    time = play(load_of([[1, 1], [1, 1]]))
    # B has the gradient at 74, is ready at 78, and its second batch is there at 78 + 2 + 4 = 84.
    assert time.completed.tolist() == close([45, 105, 78, 138])
    assert time.finish.tolist() == close([111, 148])


def test_u_shaped_v1_frees_the_worker_while_the_tail_is_at_work():
    """A: body forward 10-20, tail's gradient back at 20 + 3 + 2 + 3 = 28. B, there at 16, forward 20-30, back at 42.

    A backward waits until 30: 30-50, and has finished at 50 + 3 + 2 + 6. B 50-70, and 70 + 4 + 4 + 10.
    """
    time = play(load_of([[1, 1]], U_SHAPED))
    assert time.finish.tolist() == close([61, 88])
    served = [(s.lane, s.start, s.end) for s in time.spans if s.phase == "server"]
    assert served == [(0, 10, 20), (1, 20, 30), (0, 30, 50), (1, 50, 70)]  # forward twice, then backward twice


def test_the_servers_link_carries_one_message_at_a_time():
    """FedAvg, a model of 2,048 bytes with headers of 512: 5 s on the server's link of 4,096 bit/s, out and in.

    A: 0-5 on the link, 6 s more on its line, one row 3 s: sends from 14, is on the link 20-25. B: waits until 5, has
    the model at 10 + 10, trains 6 s, sends 10 s until 36, is on the link 36-41.
    """
    time = play(load_of([[1, 1]], WHOLE), uplink_bits_per_s=4096, downlink_bits_per_s=4096)
    assert time.finish.tolist() == close([25, 41])
    assert time.waiting.tolist() == close([0, 5])


def test_what_comes_in_waits_at_the_servers_link_too():
    """Two clinics like A: models one after another at 5 + 6 and 10 + 6, trained at 14 and 19, at the link 20 and 25.

    Incoming bytes take twice as long: the first is on the link 20-30, the second waits 5 s and is on it 30-40.
    """
    time = play(load_of([[1, 1]], WHOLE), resources=(A, A), uplink_bits_per_s=4096, downlink_bits_per_s=2048)
    assert time.finish.tolist() == close([30, 40])
    assert time.waiting.tolist() == close([0, 10])


# Equal to the closed forms where no queue can form


@st.composite
def rounds(draw, most):
    lanes = draw(st.integers(1, 4))
    steps = draw(st.lists(st.integers(0, 3), min_size=lanes, max_size=lanes))
    steps[0] = max(steps[0], 1)
    rows = np.zeros((max(steps), lanes), dtype=np.int64)
    for lane, count in enumerate(steps):
        # At least a row, so that load_of counts the batch.
        rows[:count, lane] = draw(st.lists(st.integers(1, most), min_size=count, max_size=count))
    return rows


rates = st.floats(1e3, 1e9)
clinics = st.builds(
    ClinicResources,
    name=st.just("k"),
    uplink_bits_per_s=rates,
    downlink_bits_per_s=rates,
    latency_s=st.floats(1e-3, 1.0),
    compute_flop_per_s=rates,
)
servers = st.builds(ServerResources, rates, st.integers(1, 3), st.none() | rates, st.none() | rates)


@st.composite
def loads(draw, movement=("parallel", "serial", "relay"), most=9):
    rows = draw(rounds(most))
    lanes, steps = rows.shape[1], (rows > 0).sum(0)
    kind = draw(st.sampled_from(movement))
    legs = draw(st.sampled_from((VANILLA, U_SHAPED) if kind != "parallel" else (WHOLE, VANILLA, U_SHAPED)))
    head, common = draw(st.sampled_from((0, HEAD))), draw(st.sampled_from((0.0, 7e3)))
    lost = frozenset(draw(st.sets(st.integers(0, lanes - 1))))
    slowed = tuple((lane, draw(st.floats(1, 50))) for lane in sorted(draw(st.sets(st.integers(0, lanes - 1)))))
    if kind == "parallel":
        return replace(load_of(rows, legs, head=head, common=common), lost=lost, slowed=slowed)
    order = draw(st.permutations(range(lanes)))
    by_batch = draw(st.booleans())
    if by_batch:
        schedule = tuple((k, s) for s in range(len(rows)) for k in order if s < steps[k])
    else:
        schedule = tuple((k, s) for k in order for s in range(steps[k]))
    turns = np.ones_like(steps) if kind == "serial" else steps if by_batch else np.minimum(steps, 1)
    load = load_of(rows, legs, turns, schedule, kind == "relay", common, head)
    return replace(load, lost=lost, slowed=slowed)


@settings(max_examples=150, deadline=None)
@given(loads(), st.lists(clinics, min_size=4, max_size=4), servers)
def test_events_equal_the_closed_form_where_nobody_can_queue(load, resources, server):
    if load.may_queue(server):
        # Enough workers, and no shared link.
        server = ServerResources(server.compute_flop_per_s, 4)
    events = EventClock(resources, server).time_round(load)
    closed = ClosedFormClock(resources, server).time_round(load)
    assert events.seconds == pytest.approx(closed.seconds, rel=1e-12)
    np.testing.assert_allclose(events.finish, closed.finish, rtol=1e-12)
    np.testing.assert_allclose(events.completed, closed.completed, rtol=1e-12)
    for phase, seconds in events.phases.items():
        np.testing.assert_allclose(seconds, closed.phases[phase], rtol=1e-12)


@settings(max_examples=100, deadline=None)
@given(loads(), st.lists(clinics, min_size=4, max_size=4), servers)
def test_busy_and_idle_make_up_the_round_and_nobody_does_two_things_at_once(load, resources, server):
    time = EventClock(resources, server).time_round(load, trace=True)
    closed = ClosedFormClock(resources, server).time_round(load)
    assert time.seconds >= closed.seconds * (1 - 1e-12)  # waiting only adds
    by_actor = {}
    for span in time.spans:
        by_actor.setdefault(span.actor, []).append((span.start, span.end))
    assert all(-1 - server.workers <= actor < len(load.clinics) for actor in by_actor)
    for spans in by_actor.values():
        spans.sort()
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
        assert spans[-1][1] <= time.seconds * (1 + 1e-12)
    for lane in range(len(load.clinics)):
        for phase, seconds in time.phases.items():
            own = sum(s.end - s.start for s in time.spans if s.lane == lane and s.phase == phase)
            assert own == pytest.approx(seconds[lane], rel=1e-9, abs=1e-9 * time.seconds)
        busy = sum(seconds[lane] for seconds in time.phases.values())
        assert busy + time.waiting[lane] == pytest.approx(time.finish[lane], rel=1e-9)


# The queues that the plan computes, against the events

# Like A, but the one's computer and the other's line take longer: by the same, so that they often arrive together.
SLOW = replace(A, compute_flop_per_s=0.2)
FAR = replace(A, uplink_bits_per_s=2048, latency_s=2)
alike = st.lists(st.sampled_from((A, SLOW, FAR)), min_size=4, max_size=4)
same_server = st.builds(ServerResources, st.just(1.0), st.integers(1, 2), *[st.none() | st.just(4096.0)] * 2)


def equal_times(load, resources, server):
    events, queues = (clock(resources, server).time_round(load) for clock in (EventClock, QueueClock))
    assert queues.seconds == events.seconds
    np.testing.assert_array_equal(queues.finish, events.finish)
    np.testing.assert_array_equal(queues.completed, events.completed)
    np.testing.assert_array_equal(queues.waiting, events.waiting)


@settings(max_examples=200, deadline=None)
@given(loads(movement=("parallel", "serial")), st.lists(clinics, min_size=4, max_size=4), servers)
def test_the_queues_equal_the_events_to_the_last_bit(load, resources, server):
    equal_times(load, resources, server)


@settings(max_examples=200, deadline=None)
@given(loads(movement=("parallel", "serial"), most=1), alike, same_server)
def test_the_queues_equal_the_events_also_where_clinics_come_at_the_same_instant(load, resources, server):
    equal_times(load, resources, server)


def test_a_round_in_which_nothing_crosses_ends_at_once():
    load = load_of(np.zeros((0, 2)), VANILLA, turns=(0, 0), head=0)
    equal_times(load, (A, B), ServerResources(1.0, 1, uplink_bits_per_s=4096))
    assert QueueClock((A, B), ServerResources(1.0, 1)).time_round(load).seconds == 0


@pytest.mark.parametrize("clock", [EventClock, QueueClock])
def test_at_the_same_instant_the_first_lane_is_served_first(clock):
    """Both arrive at 14: lane 0 computes from 6 to 11 and sends until 14, lane 1 computes from 7 to 8 and sends.

    Lane 0 is served 14-44, lane 1, which began to send earlier, 44-74.
    """
    time = clock((SLOW, FAR), ServerResources(1.0, 1)).time_round(load_of([[1, 1]]))
    assert time.completed.tolist() == close([44 + 3 + 10, 74 + 4 + 2])


def test_the_plans_clock_takes_queues_only_where_somebody_can_queue():
    load, alone = load_of([[1, 1]]), load_of([[1]], clinics=(1,))
    clock = PlanClock((A, B), ServerResources(1.0, 1))
    assert clock.time_round(load).seconds == close(88)
    assert clock.time_round(alone).seconds == close(16 + 30 + 4 + 4 + 10)
    assert clock.time_round(load) is clock.time_round(load_of([[1, 1]]))
    assert PlanClock((A, B), ServerResources(1.0, 2)).time_round(load).seconds == close(64)


@settings(max_examples=100, deadline=None)
@given(loads(), st.lists(clinics, min_size=4, max_size=4), servers)
def test_what_is_drawn_is_what_the_events_did_and_no_worker_does_two_things_at_once(load, resources, server):
    played, events = PlanClock(resources, server).play(load), EventClock(resources, server)
    expected = events.time_round(load, trace=True)
    assert played.seconds == pytest.approx(expected.seconds, rel=1e-12)
    drawn, done = (sorted((s.lane, s.start, s.end, s.phase) for s in time.spans) for time in (played, expected))
    assert [(lane, phase) for lane, _, _, phase in drawn] == [(lane, phase) for lane, _, _, phase in done]
    for place in (1, 2):
        np.testing.assert_allclose([bar[place] for bar in drawn], [bar[place] for bar in done], rtol=1e-9)
    by_worker = {}
    for span in played.spans:
        assert (span.worker > 0) == (span.phase == "server")
        by_worker.setdefault(span.worker, []).append((span.start, span.end))
    assert max(by_worker) <= server.workers
    for worker in by_worker.keys() - {0}:
        assert all(end <= start for (_, end), (start, _) in pairwise(sorted(by_worker[worker])))
