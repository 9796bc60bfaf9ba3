"""Rounds worked out by hand: one and two clinics, one and two batches of one record, every strategy and cut.

The clinics are those of two_clinics. Parts that begin and end a turn take 6 s to and from A, 10 s to and from B. A
batch takes

- whole model: A 3 s, B 6 s;
- vanilla: A 1 (head) + 3 (up) + 3 (body) + 3 (down) + 2 (head backward) = 12 s, B 2 + 4 + 3 + 4 + 4 = 17 s;
- U-shaped: A 1 + 3 + 1 + 3 + 2 (tail) + 3 + 2 + 3 + 2 = 20 s, B 2 + 4 + 1 + 4 + 4 + 4 + 2 + 4 + 4 = 29 s.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simpy_clock import EventClock
from two_clinics import HEAD, ROW, U_SHAPED, VANILLA, A, B, by_lane

from sim.methods.protocol import HEADER_BYTES
from sim.plan.clock import ClosedFormClock
from sim.plan.load import Leg, RoundLoad
from sim.plan.queues import PlanClock
from sim.scenario.clinics import ClinicResources, ServerResources

LEGS = {None: (Leg("clinic", 3),), "vanilla": VANILLA, "u-shaped": U_SHAPED}
SEQUENTIAL = ("split", "split by mini-batch", "splitfed-v2", "splitfed-v2 by mini-batch")


def round_of(strategy, cut, clinics, batches):
    """Return the round of the first `clinics` of A and B, in this order, each with so many batches."""
    rows, steps = by_lane(np.ones((batches, clinics)))
    head = 0 if strategy == "splitfed-v3" else HEAD
    schedule = None
    if strategy in SEQUENTIAL:
        by_clinic = tuple((k, s) for k in range(clinics) for s in range(batches))
        by_batch = tuple((k, s) for s in range(batches) for k in range(clinics))
        schedule = by_batch if "mini-batch" in strategy else by_clinic
    turns = steps if strategy == "split by mini-batch" else np.ones_like(steps)
    handed_on = strategy.startswith("split") and not strategy.startswith("splitfed")
    return RoundLoad(
        clinics=np.arange(clinics),
        rows=rows,
        steps=steps,
        legs=LEGS[cut],
        begin_bytes=head,
        end_bytes=head,
        turns=turns,
        schedule=schedule,
        handed_on=handed_on,
        common_server_flops=0.0,
    )


# Seconds for: A, one batch; A, two; A and B, one batch each; two each.
CASES = [
    # A: 6 + 3 (+ 3) + 6. B, the slower: 10 + 6 (+ 6) + 10.
    ("fedavg", None, (15, 18, 26, 32)),
    # A: 6 + 12 (+ 12) + 6; and then B: 10 + 17 (+ 17) + 10.
    ("split", "vanilla", (24, 36, 24 + 37, 36 + 54)),
    ("split", "u-shaped", (32, 52, 32 + 49, 52 + 78)),
    # Every batch is a turn: the head comes and goes with each.
    ("split by mini-batch", "vanilla", (24, 48, 24 + 37, 48 + 74)),
    ("split by mini-batch", "u-shaped", (32, 64, 32 + 49, 64 + 98)),
    # The slower of the two, B.
    ("splitfed-v1", "vanilla", (24, 36, 37, 54)),
    ("splitfed-v1", "u-shaped", (32, 52, 49, 78)),
    # The same without heads on the way.
    ("splitfed-v3", "vanilla", (12, 24, 17, 34)),
    ("splitfed-v3", "u-shaped", (20, 40, 29, 58)),
    # One batch: A is served 10-13, B, there at 16, 16-19, through at 19 + 4 + 4 + 10. Two: A again 22-25; B, which has
    # waited since 16, 25-28, is ready at 36 and there at 42: 42-45, through at 45 + 18.
    ("splitfed-v2", "vanilla", (24, 36, 37, 63)),
    # A has the body 10-21, B, there at 16, 21-36, through at 36 + 18. Two: A again 30-41, B 41-56 and 70-85.
    ("splitfed-v2", "u-shaped", (32, 52, 54, 103)),
    # A 10-13, B 16-19, A 22-25; B, ready at 27 and there at 33, 33-36, through at 36 + 18.
    ("splitfed-v2 by mini-batch", "vanilla", (24, 36, 37, 54)),
    # A 10-21, B 21-36; A, there since 30, 36-47; B, ready at 44 and there at 50, 50-65, through at 65 + 18.
    ("splitfed-v2 by mini-batch", "u-shaped", (32, 52, 54, 83)),
]


@pytest.mark.parametrize("clock", [ClosedFormClock, EventClock, PlanClock])
@pytest.mark.parametrize(("strategy", "cut", "seconds"), CASES)
def test_rounds_to_the_microsecond(strategy, cut, seconds, clock):
    server = ServerResources(1.0, workers=2)
    found = [
        clock((A, B), server).time_round(round_of(strategy, cut, clinics, batches)).seconds
        for clinics in (1, 2)
        for batches in (1, 2)
    ]
    assert found == pytest.approx(seconds, abs=1e-6)


rates = st.floats(1e3, 1e6)
resources = st.builds(
    ClinicResources,
    name=st.just("k"),
    uplink_bits_per_s=rates,
    downlink_bits_per_s=rates,
    latency_s=st.floats(1e-3, 1.0),
    compute_flop_per_s=rates,
)


@settings(max_examples=100, deadline=None)
@given(
    case=st.sampled_from([(strategy, cut) for strategy, cut, _ in CASES]),
    size=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    clinics=st.lists(resources, min_size=3, max_size=3),
    server=st.builds(ServerResources, rates, st.integers(1, 2), rates, rates),
)
def test_what_enters_a_line_leaves_it_and_what_the_server_carries_is_what_the_clinics_do(case, size, clinics, server):
    """Bytes are taken from the seconds that each message was seen on the clinic's line and on the server's link."""
    strategy, cut = case
    load = round_of(strategy, cut, *size)
    spans = EventClock(clinics, server).time_round(load, trace=True).spans
    for lane in load.clinics:
        turns, batches = int(load.turns[lane]), int(load.steps[lane])
        for phase, way, line, link in (
            ("upload", "up", clinics[lane].uplink_bits_per_s, server.downlink_bits_per_s),
            ("download", "down", clinics[lane].downlink_bits_per_s, server.uplink_bits_per_s),
        ):
            seen = sorted((s for s in spans if s.lane == lane and s.phase == phase), key=lambda s: s.end)
            first, second = ([s.end - s.start for s in seen[i::2]] for i in (0, 1))
            on_line, on_link = (first, second) if way == "up" else (second, first)
            crossed = [(seconds - clinics[lane].latency_s) * line / 8 for seconds in on_line]
            carried = [seconds * link / 8 for seconds in on_link]
            assert crossed == pytest.approx(carried, rel=1e-6)
            rows = sum(leg.place == way for leg in load.legs) * batches
            heads = turns if load.begin_bytes else 0
            assert len(crossed) == rows + heads
            expected = rows * (ROW + HEADER_BYTES) + heads * (HEAD + HEADER_BYTES)
            assert sum(crossed) == pytest.approx(expected, rel=1e-6)
