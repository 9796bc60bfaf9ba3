"""Times worked out by hand: a relay adds its clinics up, V1 waits for the slowest, V2 queues at one serial body."""

import numpy as np
import pytest
from support import NO_PRIVACY, plan_of, run_spec, write_csv
from two_clinics import HEAD, U_SHAPED, VANILLA, A, B, by_lane

from sim.plan.clock import ClosedFormClock
from sim.plan.load import RoundLoad
from sim.scenario.clinics import ServerResources
from sim.scenario.study import ClinicGroup, Server

TWO_BATCHES = [[2, 2], [2, 1]]  # by step: rows of A and of B
BY_CLINIC = {"AB": ((0, 0), (0, 1), (1, 0), (1, 1)), "BA": ((1, 0), (1, 1), (0, 0), (0, 1))}
BY_BATCH = {"AB": ((0, 0), (1, 0), (0, 1), (1, 1)), "BA": ((1, 0), (0, 0), (1, 1), (0, 1))}


def timed(rows, legs=VANILLA, turns=(1, 1), schedule=None, handed_on=False, common=0.0, head=HEAD):
    rows, steps = by_lane(rows)
    load = RoundLoad(
        clinics=np.arange(2),
        rows=rows,
        steps=steps,
        legs=legs,
        begin_bytes=head,
        end_bytes=head,
        turns=np.array(turns),
        schedule=schedule,
        handed_on=handed_on,
        common_server_flops=common,
    )
    return ClosedFormClock((A, B), ServerResources(1.0)).time_round(load)


def test_what_each_clinic_spends_on_what():
    """A: two batches of 2 rows, 2 + 4 + 6 + 4 + 4 s each. B: 4 + 6 + 6 + 6 + 8 s; one row, 2 + 4 + 3 + 4 + 4 s."""
    phases = {phase: seconds.tolist() for phase, seconds in timed(TWO_BATCHES).phases.items()}
    assert phases == {
        "download": [6 + 4 + 4, 10 + 6 + 4],
        "clinic": [2 * (2 + 4), 4 + 8 + 2 + 4],
        "upload": [4 + 4 + 6, 6 + 4 + 10],
        "server": [6 + 6, 6 + 3],
    }


A_ALONE, B_ALONE = 6 + 20 + 20 + 6, 10 + 30 + 17 + 10


def test_v1_waits_for_the_slowest_and_then_averages():
    assert timed(TWO_BATCHES).seconds == max(A_ALONE, B_ALONE) == 67
    assert timed(TWO_BATCHES, common=5.0).seconds == 67 + 5


def test_v3_is_v1_without_heads_on_the_way():
    assert timed(TWO_BATCHES, head=0, common=5.0).seconds == max(20 + 20, 30 + 17) + 5


@pytest.mark.parametrize("order", ["AB", "BA"])
def test_a_relay_adds_the_clinics_up(order):
    assert timed(TWO_BATCHES, schedule=BY_CLINIC[order], handed_on=True).seconds == A_ALONE + B_ALONE == 119


@pytest.mark.parametrize("order", ["AB", "BA"])
def test_a_relay_by_mini_batch_hands_over_at_every_batch(order):
    """A: 6 + 20 + 6, twice. B: 10 + 30 + 10 and 10 + 17 + 10."""
    time = timed(TWO_BATCHES, turns=(2, 2), schedule=BY_BATCH[order], handed_on=True)
    assert time.seconds == 2 * 32 + 50 + 37
    assert time.phases["download"].tolist() == [2 * 6 + 4 + 4, 2 * 10 + 6 + 4]


@pytest.mark.parametrize(
    ("schedule", "seconds"),
    [
        # A's first batch is there at 6 + 2 + 4 = 12, B's at 10 + 4 + 6 = 20.
        # The body serves A 12-18; A has the gradient at 22, is ready at 26, sends by 32; the body serves A 32-38 and
        # then B, which has waited, 38-44; B has the gradient at 50, is ready at 58, sends one row by 64; 64-67; 71; 75.
        # A is through at 38 + 4 + 4 + 6 = 52, B at 75 + 10.
        (BY_CLINIC["AB"], 85),
        # B 20-26, sends again by 26 + 6 + 8 + 2 + 4 = 46; B 46-49 (through at 49 + 4 + 4 + 10 = 67); A, there since 12,
        # 49-55; sends by 55 + 4 + 4 + 2 + 4 = 69; A 69-75; through at 75 + 4 + 4 + 6.
        (BY_CLINIC["BA"], 89),
        # A 12-18; B 20-26; A, sent by 32, 32-38 (through at 52); B, sent by 46, 46-49, through at 67. Nobody waited.
        (BY_BATCH["AB"], 67),
        # B 20-26; A, there since 12, 26-32, sends by 32 + 4 + 4 + 2 + 4 = 46; so does B, whose turn it is: B 46-49
        # (through at 67), A 49-55: through at 55 + 4 + 4 + 6.
        (BY_BATCH["BA"], 69),
    ],
    ids=["by clinic AB", "by clinic BA", "by mini-batch AB", "by mini-batch BA"],
)
def test_v2_queues_at_the_one_body(schedule, seconds):
    assert timed(TWO_BATCHES, schedule=schedule).seconds == seconds
    assert timed(TWO_BATCHES, schedule=schedule, common=2.0).seconds == seconds + 2


@pytest.mark.parametrize(
    ("schedule", "seconds"),
    [
        # One row each. A is there at 6 + 1 + 3 = 10; the body is taken for 1 + 3 + 2 + 3 + 2 s, the tail's work in
        # between, until 21; A is through at 21 + 3 + 2 + 6 = 32. B, there at 10 + 2 + 4 = 16, is served
        # 21 + (1 + 4 + 4 + 4 + 2) = 36 and through at 36 + 4 + 4 + 10.
        (((0, 0), (1, 0)), 54),
        # B 16-31, through at 49; A 31-42, through at 42 + 3 + 2 + 6.
        (((1, 0), (0, 0)), 53),
    ],
    ids=["AB", "BA"],
)
def test_u_shaped_v2_keeps_the_body_while_the_tail_is_at_work(schedule, seconds):
    assert timed([[1, 1]], U_SHAPED, schedule=schedule).seconds == seconds


def test_u_shaped_v1_and_relay():
    alone = 6 + (1 + 3 + 1 + 3 + 2 + 3 + 2 + 3 + 2) + 6, 10 + (2 + 4 + 1 + 4 + 4 + 4 + 2 + 4 + 4) + 10
    assert timed([[1, 1]], U_SHAPED).seconds == max(alone) == 49
    assert timed([[1, 1]], U_SHAPED, schedule=((0, 0), (1, 0)), handed_on=True).seconds == sum(alone) == 81


def test_a_clinic_that_has_finished_spends_nothing_more():
    one, two = timed([[2, 2], [2, 0]]), timed([[2, 2]])
    assert [one.phases[phase][1] for phase in one.phases] == [two.phases[phase][1] for phase in two.phases]


# From the scenario to the clock: lines of a byte a second, and a FLOP a second everywhere


SLOW = ClinicGroup(uplink="8 bit/s", downlink="8 bit/s", latency="1 s", compute="1 FLOP/s")
RECORDS = (4, 3)  # training records; with batches of two, both clinics have two
LAYERS = [(4, 6), (6, 5), (5, 1)]
PARAMETERS = [a * b + b for a, b in LAYERS]
FLOPS = [
    (2 * a * b, 2 * a * b * (1 if first else 2)) for first, (a, b) in zip((True, False, False), LAYERS, strict=True)
]


def message(size):
    return 1 + 512 + size


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("pair") / "two.csv", [6, 5])


def slow_plan(csv, strategy, cut=None, keys=None, **train):
    spec = run_spec(csv, strategy, cut, NO_PRIVACY, **{"rounds": 1, "batch_size": 2, **train})
    strategy = spec.strategy.model_copy(update=keys or {})
    spec = spec.model_copy(update={"clinics": (SLOW,), "server": Server(compute="1 FLOP/s"), "strategy": strategy})
    plan, federation = plan_of(spec)
    assert tuple(np.diff(federation.train.offsets)) == RECORDS
    return plan


def way(cut, rows):
    """Return the seconds of a batch before the body, at the body (U-shaped with the tail's part) and after it."""
    (head, head_back), (middle, middle_back), (last, last_back) = FLOPS
    smashed, output = 6 * 4 * rows, 5 * 4 * rows
    if cut == "vanilla":
        before = head * rows + message(smashed + rows)
        return before, (middle + last + middle_back + last_back) * rows, message(smashed) + head_back * rows
    tail = message(output) + (last + last_back) * rows + message(output)
    before = head * rows + message(smashed)
    return before, (middle + middle_back) * rows + tail, message(smashed) + head_back * rows


def clinic_part_parameters(cut):
    return PARAMETERS[0] + (PARAMETERS[2] if cut == "u-shaped" else 0)


BATCHES = ((2, 2), (2, 1))  # by clinic


def alone(cut, begin):
    return [begin + sum(sum(way(cut, rows)) for rows in own) + begin for own in BATCHES]


CUT = pytest.mark.parametrize("cut", ["vanilla", "u-shaped"])


@CUT
def test_a_planned_v1_round(pair, cut):
    begin = message(4 * clinic_part_parameters(cut))
    expected = max(alone(cut, begin)) + 2 * 2 * sum(PARAMETERS)
    assert slow_plan(pair, "splitfed-v1", cut).round_seconds == (pytest.approx(expected, rel=1e-12),)


@CUT
def test_a_planned_v3_round_averages_bodies_only(pair, cut):
    expected = max(alone(cut, 0)) + 2 * 2 * (sum(PARAMETERS) - clinic_part_parameters(cut))
    assert slow_plan(pair, "splitfed-v3", cut).round_seconds == (pytest.approx(expected, rel=1e-12),)


def test_a_planned_fedavg_round(pair):
    work = [4 * sum(a + b for a, b in FLOPS), 3 * sum(a + b for a, b in FLOPS)]
    expected = 2 * message(4 * sum(PARAMETERS)) + max(work) + 2 * 2 * sum(PARAMETERS)
    assert slow_plan(pair, "fedavg").round_seconds == (pytest.approx(expected, rel=1e-12),)


def test_alone_the_slowest_clinic_decides(pair):
    assert slow_plan(pair, "local").round_seconds == (pytest.approx(4 * sum(a + b for a, b in FLOPS), rel=1e-12),)


STATE = {"sgd": 0, "momentum": 1, "adam": 2}


def state_bytes(cut, optimizer):
    """Return the bytes of the state that is handed on; Adam counts its steps in 8 bytes a part."""
    counters = {"vanilla": 1, "u-shaped": 2}[cut] if optimizer == "adam" else 0
    return 4 * STATE[optimizer] * clinic_part_parameters(cut) + 8 * counters


@pytest.mark.parametrize("optimizer", STATE)
@pytest.mark.parametrize("alternate", ["clinic", "mini-batch"])
@CUT
def test_a_planned_relay_round_and_the_bytes_of_the_state_that_is_handed_on(pair, cut, alternate, optimizer):
    plan = slow_plan(pair, "split", cut, {"alternate": alternate}, optimizer=optimizer)
    turns = {"clinic": 1, "mini-batch": 2}[alternate]
    model, state = 4 * clinic_part_parameters(cut), state_bytes(cut, optimizer)
    batches = sum(sum(way(cut, rows)) for own in BATCHES for rows in own)
    expected = batches + 2 * turns * 2 * message(model + state)
    assert plan.round_seconds == (pytest.approx(expected, rel=1e-12),)
    for direction in ("up", "down"):
        assert plan.traffic[direction, "model"].tolist() == [turns * model] * 2
        handed_on = plan.traffic.get((direction, "optimizer"), np.zeros(2))
        assert handed_on.tolist() == [turns * state] * 2
        messages = {"vanilla": 2, "u-shaped": 4}[cut] + turns
        assert plan.traffic[direction, "headers"].tolist() == [512 * messages] * 2


def test_the_state_of_adam_in_numbers(pair):
    """A head of 30 parameters and a tail of 6: two moments of 4 bytes each, and 8 bytes a part."""
    found = [
        slow_plan(pair, "split", cut, optimizer="adam").traffic["up", "optimizer"][0] for cut in ("vanilla", "u-shaped")
    ]
    assert found == [2 * 30 * 4 + 8, 2 * 36 * 4 + 16] == [248, 304]


@pytest.mark.parametrize("strategy", ["splitfed-v1", "splitfed-v2", "splitfed-v3", "fedavg"])
def test_nothing_else_hands_a_state_on(pair, strategy):
    plan = slow_plan(pair, strategy, None if strategy == "fedavg" else "u-shaped", optimizer="adam")
    assert all(kind != "optimizer" for _, kind in plan.traffic)


def queue(cut, begin, alternate):
    """Follow the body second by second of the fixed order: clinic 0 before clinic 1."""
    schedule = {
        "clinic": [(0, 0), (0, 1), (1, 0), (1, 1)],
        "mini-batch": [(0, 0), (1, 0), (0, 1), (1, 1)],
    }[alternate]
    ready = [begin, begin]
    body = 0
    for clinic, step in schedule:
        before, at_body, after = way(cut, BATCHES[clinic][step])
        arrived = ready[clinic] + before
        body = (arrived if arrived > body else body) + at_body
        ready[clinic] = body + after
    return max(ready) + begin


@pytest.mark.parametrize("alternate", ["clinic", "mini-batch"])
@CUT
def test_a_planned_v2_round(pair, cut, alternate):
    begin = message(4 * clinic_part_parameters(cut))
    expected = queue(cut, begin, alternate) + 2 * 2 * clinic_part_parameters(cut)
    plan = slow_plan(pair, "splitfed-v2", cut, {"alternate": alternate, "order": "fixed"})
    assert plan.round_seconds == (pytest.approx(expected, rel=1e-12),)
    relay = sum(alone(cut, begin)) + 2 * 2 * clinic_part_parameters(cut)
    assert max(alone(cut, begin)) < plan.round_seconds[0] < relay


@CUT
def test_only_the_rounds_clinics_count(pair, cut):
    """With one of two clinics a round, a relay takes as long as that clinic alone."""
    plan = slow_plan(pair, "split", cut, participation=0.5, rounds=8)
    one_of = alone(cut, message(4 * clinic_part_parameters(cut)))
    seconds = {round(s, 6) for s in plan.round_seconds}
    assert seconds == set(map(float, one_of))
