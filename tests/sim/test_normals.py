"""Vectorised normal draws, against a ziggurat that takes one number at a time, and against the normal distribution."""

import math

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats

from sim.foundation import normals
from sim.foundation.normals import fill_normals
from sim.foundation.rng import stream_key

LAYERS = 1024


def rows_of(clinics=(0,), server_round=1, step=0, purpose="noise.head", key="a run", size=50):
    rows = np.empty((len(clinics), size))
    fill_normals(rows, [key] * len(clinics), purpose, list(clinics), server_round, step)
    return rows


def height(x):
    return math.exp(-x * x / 2)


def right_edges():
    """Return the layers' right edges from the highest down, with the edge of the tail as the root it is defined by."""

    def widths(edge):
        area = edge * height(edge) + math.sqrt(math.pi / 2) * special.erfc(edge / math.sqrt(2))
        found = [area / height(edge), edge]
        while len(found) < LAYERS:
            rising = height(found[-1]) + area / found[-1]
            if rising >= 1:
                return found, 1.0
            found.append(math.sqrt(-2 * math.log(rising)))
        return found, height(found[-1]) + area / found[-1] - 1

    edge = optimize.brentq(lambda edge: widths(edge)[1], 3.9, 4.2, xtol=1e-15)
    return [*widths(edge)[0], 0.0]


EDGES = right_edges()


def words_at(key, purpose, clinic, server_round, step, block):
    """Return the two words of a counter in counter mode: its 16 bytes are two little-endian words."""
    counter = (clinic << 32 | server_round).to_bytes(8, "little") + (step << 40 | block).to_bytes(8, "little")
    made = Cipher(algorithms.AES(stream_key(key, purpose)), modes.CTR(counter)).encryptor().update(bytes(16))
    return int.from_bytes(made[:8], "little"), int.from_bytes(made[8:], "little")


def one_normal(name, number):
    """Return a single draw, as Marsaglia and Tsang state it."""

    def point(word):
        signed = word - (1 << 64) if word >> 63 else word
        return word % LAYERS, ((signed >> 11) + 0.5) * 2.0**-52

    layer, along = point(words_at(*name, number // 2)[number % 2])
    for level in range(1, 16):
        x = along * EDGES[layer]
        if abs(x) < EDGES[layer + 1]:
            return x
        decides, again = words_at(*name, number | level << 36)
        share = ((decides >> 11) + 0.5) * 2.0**-53
        if layer == 0:
            return math.copysign(stats.norm.isf(share * stats.norm.sf(EDGES[1])), x)
        if height(EDGES[layer]) + share * (height(EDGES[layer + 1]) - height(EDGES[layer])) < height(x):
            return x
        layer, along = point(again)
    raise AssertionError


@given(
    key=st.sampled_from(["a run", "another", 7]),
    purpose=st.sampled_from(["noise.head", "noise.body"]),
    place=st.tuples(*[st.integers(0, 3) | st.sampled_from([2**31, 2**32 - 1])] * 2, st.integers(0, 2**24 - 1)),
)
@settings(deadline=None, max_examples=10)
def test_every_draw_is_that_of_a_ziggurat_one_number_at_a_time(key, purpose, place):
    rows = np.empty((1, 1501))
    fill_normals(rows, [key], purpose, [place[0]], *place[1:])
    expected = [one_normal((key, purpose, *place), number) for number in range(1501)]
    np.testing.assert_allclose(rows[0], expected, rtol=1e-11, atol=0)


def test_points_of_the_tail_and_above_the_curve_are_as_one_number_at_a_time():
    """Those alone that their first word does not settle: 0.4 % of draws."""
    size = 200_000
    rows, name = rows_of(size=size)[0], ("a run", "noise.head", 0, 1, 0)
    far = np.flatnonzero(np.abs(rows) > EDGES[1])
    assert len(far) > 5
    for number in far.tolist():
        assert rows[number] == pytest.approx(one_normal(name, number), rel=1e-11)


@pytest.mark.parametrize("stored", ["<u8", ">u8"])
def test_draws_are_normal_in_every_part_of_the_curve(monkeypatch, stored):
    """Also where words do not stand in memory as the machine would have them."""
    monkeypatch.setattr(normals, "STORED", stored)
    drawn = rows_of(range(40), size=250_000).ravel()
    bins = np.histogram(special.ndtr(drawn), 4096, (0, 1))[0]
    assert stats.chisquare(bins).pvalue > 1e-4
    for beyond in (2.0, 3.0, 3.5, EDGES[1], 4.2, 4.5):
        expected = 2 * len(drawn) * special.ndtr(-beyond)
        assert abs(np.count_nonzero(np.abs(drawn) > beyond) - expected) < 4.5 * expected**0.5
    tail = np.abs(drawn)[np.abs(drawn) > EDGES[1]]
    assert stats.kstest(special.ndtr(-tail) / special.ndtr(-EDGES[1]), "uniform").pvalue > 1e-4


def test_neighbouring_draws_streams_and_squares_are_not_correlated():
    rows = rows_of(range(20), size=100_000)
    for some in (rows, rows**2 - 1, np.sign(rows)):
        scale = some.std() ** 2 * rows.size**-0.5
        assert abs((some[:, 1:] * some[:, :-1]).mean()) < 5 * scale, "numbers of one block, and of the next"
        assert abs((some[1:] * some[:-1]).mean()) < 5 * scale, "clinics"


def test_a_draw_depends_on_its_place_and_name_alone(monkeypatch):
    whole = rows_of([4, 0, 2, 7], size=9001)
    np.testing.assert_array_equal(rows_of([0], size=9001)[0], whole[1])
    np.testing.assert_array_equal(rows_of([7, 4], size=500), whole[[3, 0], :500])
    keys, mixed = ["a run", "another", "a run", "another"], np.empty((4, 9001))
    fill_normals(mixed, keys, "noise.head", [4, 0, 2, 7], 1, 0)
    np.testing.assert_array_equal(mixed[::2], whole[::2])
    np.testing.assert_array_equal(mixed[1::2], rows_of([0, 7], key="another", size=9001))
    monkeypatch.setattr(normals, "AT_ONCE", 1000)
    np.testing.assert_array_equal(rows_of([4, 0, 2, 7], size=9001), whole)


def test_no_two_names_share_a_draw():
    drawn = [
        rows_of([clinic], server_round, step, purpose, key)[0]
        for key in ("a run", "another", 0, 1)
        for purpose in ("noise.head", "noise.body")
        for clinic in (0, 1, 255, 256)
        for server_round in (1, 2, 256)
        for step in (0, 1, 256)
    ]
    values = np.concatenate(drawn)
    assert len(np.unique(values)) == len(values)


@pytest.mark.parametrize("number", [int, np.int64])
@pytest.mark.parametrize("place", [{"clinics": 2**32}, {"clinics": -1}, {"server_round": 2**32}, {"step": 2**24}])
def test_a_place_that_the_counter_has_no_room_for_is_refused_and_not_another_place(place, number):
    [(name, value)] = place.items()
    with pytest.raises(OverflowError):
        rows_of(**{name: (number(value),) if name == "clinics" else number(value)})


def test_no_rows_and_rows_of_nothing_are_filled_with_nothing():
    assert rows_of(()).shape == (0, 50)
    assert rows_of(size=0).shape == (1, 0)
