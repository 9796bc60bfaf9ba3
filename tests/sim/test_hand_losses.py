"""Plans of one round that is cut, worked out by hand: who is lost, after how many batches, when, and what has crossed.

Clinic a has two batches of two records, clinic b three; links, computers and model are those of planned. Seconds of
each piece, with payloads in bytes and 512 of headers a message:

===================  =========================  =======================
vanilla              a                          b
===================  =========================  =======================
head down, 32        1 + 544/2000 = 1.272       .5 + 544/20000 = .5272
head forward, 24     24/100 = .24               24/50 = .48
smashed, 2 x 9       1 + 530/1000 = 1.53        .5 + 530/10000 = .553
body, 72             72/1000 = .072             .072
cut gradient, 2 x 8  1 + 528/2000 = 1.264       .5 + 528/20000 = .5264
head backward, 24    .24                        .48
a batch              3.346                      2.1114
head up, 32          1 + 544/1000 = 1.544       .5 + 544/10000 = .5544
===================  =========================  =======================

U-shaped, parts of 44 bytes take 1.278 down and 1.556 up for a, .5278 and .5556 for b; 16 bytes 1.528 up and 1.264 down
for a, .5528 and .5264 for b. The tail takes .24 and .48, the body .016 forward and .032 backward. So a batch is

- before the body a .24 + 1.528 = 1.768, b .48 + .5528 = 1.0328;
- from the body's first to its last second a .016 + 1.264 + .24 + 1.528 + .032 = 3.08, b 1.6072;
- after it a 1.264 + .24 = 1.504, b .5264 + .48 = 1.0064; in all a 6.352, b 3.6464.

A whole model of 68 bytes takes 1.29 down and 1.58 up for a, .529 and .558 for b; a batch 120/100 and 120/50.
"""

import pytest
from planned import FIRST, SECOND, spec_of
from support import plan_of, write_csv

from sim.methods.attendance import Attendance

ENOUGH = {"participation": 0.5, "over-select": 2}
"""Both are asked, and the first that comes back is enough."""


def parts(strategy, cut=None, order=None, alternate=None):
    return strategy, cut, {"order": order, "alternate": alternate}


RELAY = parts("split", "vanilla", "fixed", "clinic")
RELAY_BY_BATCH = parts("split", "u-shaped", "fixed", "mini-batch")
V2 = parts("splitfed-v2", "vanilla", "fixed", "clinic")
V2_BY_BATCH = parts("splitfed-v2", "u-shaped", "fixed", "mini-batch")
V1, V3, FEDAVG = parts("splitfed-v1", "vanilla"), parts("splitfed-v3", "vanilla"), parts("fedavg")

# Method; what cuts the round; batches; whose parts are back; seconds; up and down by clinic: payload, and messages.
CASES = [
    # a: served at 1.272 + .24 + 1.53 = 3.042, over at 4.618; served 6.388-6.46, over at 7.964, its head back at 9.508.
    # b, there at 1.5602, waits until 6.46: over at 6.46 + .072 + .5264 + .48 = 7.5384, and by 2.1114 each 9.6498 and
    # 11.7612, its head back at 12.3156.
    # The average of one head of 8 parameters takes 16/1000.
    (V2, {"deadline": "10 s"}, (2, 2), (True, False), 10.016, ((68, 3), (36, 2)), ((64, 3), (64, 3))),
    (V2, {"deadline": "9.6 s"}, (2, 1), (True, False), 9.616, ((68, 3), (18, 1)), ((64, 3), (48, 2))),
    (V2, ENOUGH, (2, 1), (True, False), 9.508 + 0.016, ((68, 3), (18, 1)), ((64, 3), (48, 2))),
    (V2, {"deadline": "9.5 s"}, (2, 1), (False, False), 9.5, ((36, 2), (18, 1)), ((64, 3), (48, 2))),
    (V2, {"deadline": "13 s"}, (2, 3), (True, True), 12.3156 + 0.032, ((68, 3), (86, 4)), ((64, 3), (80, 4))),
    # a has the body 3.046-6.126 and is through at 7.63; b 6.126-7.7332 and at 8.7396; a, there at 9.398, until 12.478,
    # through at 13.982, its parts back at 15.538; b, there at 9.7724, 12.478-14.0852 and through at 15.0916, again
    # 16.1244-17.7316 and at 18.738, its parts back at 19.2936. An average of one head and tail takes 22/1000.
    (V2_BY_BATCH, {"deadline": "18 s"}, (2, 2), (True, False), 18.022, ((108, 5), (64, 4)), ((108, 5), (108, 5))),
    (V2_BY_BATCH, ENOUGH, (2, 2), (True, False), 15.538 + 0.022, ((108, 5), (64, 4)), ((108, 5), (108, 5))),
    (V2_BY_BATCH, {"deadline": "15 s"}, (2, 1), (False, False), 15, ((64, 4), (32, 2)), ((108, 5), (76, 3))),
    # a: 1.272, batches over at 4.618 and 7.964, handed over at 9.508; b: 10.0352, 12.1466, 14.258, 16.3694, 16.9238.
    (RELAY, {"deadline": "15 s"}, (2, 2), (True, False), 15, ((68, 3), (36, 2)), ((64, 3), (64, 3))),
    (RELAY, {"deadline": "12 s"}, (2, 0), (True, False), 12, ((68, 3), (0, 0)), ((64, 3), (0, 0))),
    (RELAY, {"deadline": "9 s"}, (2, 0), (False, False), 9, ((36, 2), (0, 0)), ((64, 3), (0, 0))),
    (RELAY, ENOUGH, (2, 0), (True, False), 9.508, ((68, 3), (0, 0)), ((64, 3), (0, 0))),
    (RELAY, {"deadline": "17 s"}, (2, 3), (True, True), 16.9238, ((68, 3), (86, 4)), ((64, 3), (80, 4))),
    # A turn for every batch. a: 1.278, 7.63, 9.186; b: 9.7138, 13.3602, 13.9158; a: 15.1938, 21.5458, 23.1018; b:
    # 23.6296, 27.276, 27.8316, and 28.3594, 32.0058, 32.5614. At 25 s b has given back what it had; at 28, its second.
    (RELAY_BY_BATCH, {"deadline": "25 s"}, (2, 1), (True, True), 25, ((152, 6), (76, 3)), ((152, 6), (76, 3))),
    (RELAY_BY_BATCH, {"deadline": "27.5 s"}, (2, 2), (True, False), 27.5, ((152, 6), (108, 5)), ((152, 6), (152, 6))),
    (RELAY_BY_BATCH, {"deadline": "28 s"}, (2, 2), (True, True), 28, ((152, 6), (152, 6)), ((152, 6), (152, 6))),
    # a as in the relay; b: .5272, 2.6386, 4.75, 6.8614, 7.4158. An average of one head and body of 17 takes 34/1000.
    (V1, {"deadline": "9 s"}, (2, 3), (False, True), 9.034, ((36, 2), (86, 4)), ((64, 3), (80, 4))),
    (V1, ENOUGH, (1, 3), (False, True), 7.4158 + 0.034, ((18, 1), (86, 4)), ((48, 2), (80, 4))),
    # No heads on the way. a: 3.346, 6.692; b: 2.1114, 4.2228, 6.3342. A body of 9 takes 18/1000.
    (V3, {"deadline": "6.5 s"}, (1, 3), (False, True), 6.518, ((18, 1), (54, 3)), ((16, 1), (48, 3))),
    # a: 1.29, 2.49, 3.69, 5.27; b: .529, 2.929, 5.329, 7.729, 8.287. An average of one model takes 34/1000.
    (FEDAVG, {"deadline": "6 s"}, (2, 2), (True, False), 6.034, ((68, 1), (0, 0)), ((68, 1), (68, 1))),
    (FEDAVG, ENOUGH, (2, 1), (True, False), 5.27 + 0.034, ((68, 1), (0, 0)), ((68, 1), (68, 1))),
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Clinics of 8 and 12 records, half of them for training."""
    return write_csv(tmp_path_factory.mktemp("pair") / "pair.csv", sizes=(8, 12), features=3)


@pytest.mark.parametrize(
    ("method", "limit", "batches", "back", "seconds", "up", "down"),
    CASES,
    ids=[f"{method[0]}-{method[1]}-{limit.get('deadline', 'over-selection')}" for method, limit, *_ in CASES],
)
def test_a_cut_round_to_the_microsecond_and_the_byte(pair, method, limit, batches, back, seconds, up, down):
    strategy, cut, turns = method
    spec = spec_of(pair, strategy, cut, (FIRST, SECOND), rounds=1, **{"batch-size": 2}, **limit)
    spec = spec.model_copy(update={"strategy": spec.strategy.model_copy(update=turns)})
    plan, _ = plan_of(spec)
    whole = [done == count and came for done, count, came in zip(batches, (2, 3), back, strict=True)]
    expected = {} if all(whole) else {1: Attendance.of((0, 1), batches, back)}
    assert plan.attended == expected
    assert plan.round_seconds == pytest.approx([seconds], abs=1e-6)
    assert plan.participants == (2,)
    assert plan.returned == (sum(whole),)
    assert tuple(clinic.steps for clinic in plan.clinics) == batches
    assert [clinic.lost_rounds for clinic in plan.clinics] == [not each for each in whole]
    assert [c.bytes_up for c in plan.clinics] == [payload + 512 * messages for payload, messages in up]
    assert [c.bytes_down for c in plan.clinics] == [payload + 512 * messages for payload, messages in down]
