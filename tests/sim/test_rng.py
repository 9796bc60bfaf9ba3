from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.foundation.rng import Streams, stream

SMALL = st.integers(0, 3)
LARGE = st.sampled_from([2**31, 2**32, 2**32 + 1, 2**63 - 1])
NUMBER = SMALL | LARGE
PURPOSE = st.sampled_from(["batches", "noise", "noise.head", "noise.body", "participants", ""])
NAME = st.tuples(NUMBER, PURPOSE, NUMBER, NUMBER, NUMBER)


@given(st.lists(NAME, min_size=2, max_size=2, unique=True))
@settings(deadline=None)
def test_different_names_give_different_draws(names):
    first, second = (stream(*name).bit_generator.random_raw(8) for name in names)
    assert not np.intersect1d(first, second).size


@given(NAME)
@settings(deadline=None)
def test_same_name_gives_the_same_bits(name):
    seed, purpose, *place = name
    again = Streams(seed, purpose).at(*place)
    np.testing.assert_array_equal(stream(*name).standard_normal(9), again.standard_normal(9))


@given(NAME)
@settings(deadline=None)
def test_a_stream_is_philox_with_the_name_as_key_and_counter(name):
    seed, purpose, clinic, server_round, step = name
    hashed = int.from_bytes(blake2b(purpose.encode(), digest_size=8).digest(), "little")
    counter = np.array([0, step, server_round, clinic], dtype=np.uint64)
    bits = np.random.Philox(key=np.array([seed, hashed], dtype=np.uint64), counter=counter)
    np.testing.assert_array_equal(stream(*name).bit_generator.random_raw(6), bits.random_raw(6))


def test_streams_never_run_into_their_neighbours():
    """A counter that held the step in its lowest word would give shifted copies of one sequence."""
    raw = [
        stream(seed, purpose, clinic, server_round, step).bit_generator.random_raw(1000)
        for seed in (0, 1)
        for purpose in ("noise.head", "noise.body")
        for clinic in (0, 1, 2)
        for server_round in (1, 2)
        for step in (0, 1, 2)
    ]
    drawn = np.concatenate(raw)
    assert len(np.unique(drawn)) == len(drawn)


@given(st.lists(st.tuples(SMALL, SMALL, SMALL), min_size=1, max_size=6), st.integers(0, 5))
@settings(deadline=None)
def test_order_of_calls_and_what_was_drawn_before_do_not_matter(places, odd):
    streams = Streams(3, "batches")
    for place in places:
        generator = streams.at(*place)
        drawn = generator.random(4)
        generator.integers(10, size=odd, dtype=np.uint32)  # leaves half a 64-bit word behind if odd
        np.testing.assert_array_equal(drawn, stream(3, "batches", *place).random(4))


def test_half_a_word_left_behind_does_not_reach_the_next_stream():
    streams = Streams(0, "order")
    streams.at(1).integers(2**32, size=3, dtype=np.uint32)
    left_over = streams.at(2).integers(2**32, size=3, dtype=np.uint32)
    np.testing.assert_array_equal(left_over, stream(0, "order", 2).integers(2**32, size=3, dtype=np.uint32))


def test_a_stream_of_its_own_is_not_moved_by_others():
    mine, other = stream(0, "noise", 1), stream(0, "noise", 2)
    expected = stream(0, "noise", 1).random(6)
    first = mine.random(3)
    other.random(5)
    np.testing.assert_array_equal(np.concatenate([first, mine.random(3)]), expected)


def test_no_global_generator_is_touched():
    before = np.random.get_state()  # noqa: NPY002 - the global state is what must stay
    stream(0, "noise").random(3)
    after = np.random.get_state()  # noqa: NPY002
    np.testing.assert_array_equal(before[1], after[1])
    assert before[2] == after[2]


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_that_does_not_fit_is_refused(seed):
    with pytest.raises(OverflowError):
        stream(seed, "noise")
