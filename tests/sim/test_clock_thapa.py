"""Thapa et al. 2022, table 1, as a special case of all three clocks, and one clinic's rounds worked out by hand.

Their setting: K clinics with the same number of records, one symmetric rate R for everybody, no latency, no header,
no label, no queue. In their notation p records in all, q bytes of one record's smashed data, W bytes of the model, bW
those of its client part, T the time of one forward and backward pass over all p records, wherever it is computed.
"""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simpy_clock import EventClock

from sim.methods.protocol import HEADER_BYTES
from sim.plan.clock import ClosedFormClock
from sim.plan.load import Leg, RoundLoad
from sim.plan.queues import PlanClock
from sim.scenario.clinics import ClinicResources, ServerResources

CLOCKS = (PlanClock, ClosedFormClock, EventClock)
rates = st.integers(1, 10**6)


def whole(flops):
    return (Leg("clinic", flops),)


def split(head, body, q):
    return (
        *(Leg("clinic", head), Leg("up", q), Leg("server", body)),
        *(Leg("down", q), Leg("clinic", head)),
    )


def one_batch(clinics, rows, legs, moved, schedule=None, handed_on=False, common=0.0):
    ones = np.ones(clinics, dtype=np.int64)
    return RoundLoad(
        clinics=np.arange(clinics),
        rows=rows * ones,
        steps=ones,
        legs=legs,
        begin_bytes=moved,
        end_bytes=moved,
        turns=ones,
        schedule=schedule,
        handed_on=handed_on,
        common_server_flops=common,
    )


def seconds(clock, load, rate, speed, headers):
    """Time a round without the headers of its messages, which Thapa et al. do not count."""
    one = ClinicResources(
        name="k", uplink_bits_per_s=8.0 * rate, downlink_bits_per_s=8.0 * rate, latency_s=0.0, compute_flop_per_s=speed
    )
    server = ServerResources(speed, len(load.clinics))
    time = clock([one] * len(load.clinics), server).time_round(load)
    return time.seconds - headers * HEADER_BYTES / rate


@pytest.mark.parametrize("clock", CLOCKS)
@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 20), rates, rates, st.integers(1, 10**5), st.integers(0, 10**6))
def test_federated_learning(clock, clinics, rows, rate, flops, model, average):
    """T + 2W/R + T_avg, where the p/K records of a clinic are computed while the others compute theirs."""
    load = one_batch(clinics, rows, whole(flops), model, common=float(average))
    expected = rows * flops / 1e3 + 2 * model / rate + average / 1e3
    assert seconds(clock, load, rate, 1e3, 2) == pytest.approx(expected, rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("clock", CLOCKS)
@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 20), rates, st.integers(1, 10**4), st.integers(1, 10**4), rates, rates)
def test_split_learning(clock, clinics, rows, rate, head, body, q, moved):
    """T + 2pq/R + 2bWK/R: a relay computes and sends for one clinic after another."""
    schedule = tuple((k, 0) for k in range(clinics))
    load = one_batch(clinics, rows, split(head, body, q), moved, schedule, handed_on=True)
    p = clinics * rows
    expected = p * (2 * head + body) / 1e3 + 2 * p * q / rate + 2 * moved * clinics / rate
    assert seconds(clock, load, rate, 1e3, 4 * clinics) == pytest.approx(expected, rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("clock", CLOCKS)
@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 20), rates, st.integers(1, 10**4), st.integers(1, 10**4), rates, rates, rates)
def test_splitfed_v1(clock, clinics, rows, rate, head, body, q, moved, average):
    """T + 2pq/(RK) + 2bW/R + T_avg."""
    load = one_batch(clinics, rows, split(head, body, q), moved, common=float(average))
    p = clinics * rows
    expected = rows * (2 * head + body) / 1e3 + 2 * p * q / (rate * clinics) + 2 * moved / rate + average / 1e3
    assert seconds(clock, load, rate, 1e3, 4) == pytest.approx(expected, rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("clock", CLOCKS)
@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 20), rates, st.integers(1, 10**4), st.integers(1, 10**4), rates, rates, rates)
def test_splitfed_v2_is_theirs_but_for_the_line_at_the_body(clock, clinics, rows, rate, head, body, q, moved, average):
    """T + 2pq/(RK) + 2bW/R + T_avg/2, where half of the model is averaged, and the body's work of all clinics in a row.

    All arrive at once, so that the last waits for K - 1 others: the queue that their table leaves out.
    """
    schedule = tuple((k, 0) for k in range(clinics))
    load = one_batch(clinics, rows, split(head, body, q), moved, schedule, common=average / 2)
    p = clinics * rows
    theirs = rows * (2 * head + body) / 1e3 + 2 * p * q / (rate * clinics) + 2 * moved / rate + average / 2 / 1e3
    waits = (clinics - 1) * rows * body / 1e3
    assert seconds(clock, load, rate, 1e3, 4) == pytest.approx(theirs + waits, rel=1e-9, abs=1e-6)


# One clinic, one and two batches, by hand: 4,096 bit/s, a second a message, a FLOP a second; a server of 1 FLOP/s


CLINIC = ClinicResources(name="A", uplink_bits_per_s=4096, downlink_bits_per_s=4096, latency_s=1, compute_flop_per_s=1)
VANILLA = (Leg("clinic", 1), Leg("up", 512), Leg("server", 3), Leg("down", 512), Leg("clinic", 2))
U_SHAPED = (
    *(Leg("clinic", 1), Leg("up", 512), Leg("server", 1), Leg("down", 512), Leg("clinic", 2)),
    *(Leg("up", 512), Leg("server", 2), Leg("down", 512), Leg("clinic", 2)),
)
# A message of 512 bytes with 512 of headers takes 1 + 2 s, the parts (2,048 bytes) 1 + 5 s.
WHOLE = whole(4)
BATCH = {VANILLA: 1 + 3 + 3 + 3 + 2, U_SHAPED: 1 + 3 + 1 + 3 + 2 + 3 + 2 + 3 + 2, WHOLE: 4}


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("batches", [1, 2])
@pytest.mark.parametrize(
    ("movement", "legs"),
    [("FedAvg", WHOLE), *product(["V1", "V2", "V3", "relay", "relay by mini-batch"], [VANILLA, U_SHAPED])],
)
def test_one_clinic(clock, batches, legs, movement):
    rows = np.ones(batches, dtype=np.int64)
    steps = np.array([batches])
    moved = 0 if movement == "V3" else 2048
    turns = steps if "mini-batch" in movement else np.ones(1, dtype=np.int64)
    schedule = None if movement in ("FedAvg", "V1", "V3") else tuple((0, step) for step in range(batches))
    load = RoundLoad(
        clinics=np.zeros(1, dtype=np.int64),
        rows=rows,
        steps=steps,
        legs=legs,
        begin_bytes=moved,
        end_bytes=moved,
        turns=turns,
        schedule=schedule,
        handed_on="relay" in movement,
        common_server_flops=0.0,
    )
    parts = 12 * int(turns[0]) if moved else 0
    time = clock([CLINIC], ServerResources(1.0)).time_round(load)
    assert time.seconds == pytest.approx(batches * BATCH[legs] + parts, abs=1e-6)
    assert float(time.waiting.sum()) == pytest.approx(0.0, abs=1e-6)
