import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.foundation.rng import stream
from sim.methods.sampling import Batches, Sampling, draw_batches, draw_rows, loss_weights, participants

SIZES = [41, 23, 16, 8, 7, 1]
SAMPLING = st.builds(Sampling, st.booleans(), st.integers(1, 12), st.integers(1, 3))
DESCENDING = st.lists(st.integers(1, 40), min_size=1, max_size=5).map(lambda sizes: sorted(sizes, reverse=True))


def rows_of(batches: Batches, lane: int) -> list[list[int]]:
    """Return each step's records of one lane, without padding."""
    return [batches.index[s, lane, : batches.rows[s, lane]].tolist() for s in range(len(batches.rows))]


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 8, 16, 100])
def test_shuffled_batches_hold_every_record_once_an_epoch(batch_size, epochs):
    batches = draw_batches(Sampling(False, batch_size, epochs), 0, 1, range(len(SIZES)), SIZES)
    for lane, n in enumerate(SIZES):
        steps = [step for step in rows_of(batches, lane) if step]
        per_epoch = -(-n // batch_size)
        assert len(steps) == epochs * per_epoch
        last = n - batch_size * (per_epoch - 1)
        assert [len(step) for step in steps] == ([batch_size] * (per_epoch - 1) + [last]) * epochs
        orders = np.concatenate(steps).reshape(epochs, n).tolist()
        assert all(sorted(order) == list(range(n)) for order in orders)
        if n > 7:
            assert len({tuple(order) for order in orders}) == epochs, "every epoch has an order of its own"
            assert orders[0] != list(range(n)), "records are shuffled"


def test_rounds_seeds_and_clinics_shuffle_differently():
    sampling = Sampling(False, 5, 1)
    drawn = {
        (seed, server_round, clinic): tuple(draw_batches(sampling, seed, server_round, [clinic], [20]).index.flatten())
        for seed in (0, 1)
        for server_round in (1, 2)
        for clinic in (0, 1)
    }
    assert len(set(drawn.values())) == 8


def test_every_order_of_three_records_is_equally_likely():
    sampling = Sampling(False, 3, 1)
    orders, counts = np.unique(
        [draw_batches(sampling, 0, r, [0], [3]).index.flatten() for r in range(1800)], axis=0, return_counts=True
    )
    assert len(orders) == 6
    assert np.abs(counts - 300).max() < 5 * (1800 * 1 / 6 * 5 / 6) ** 0.5


@given(SAMPLING, DESCENDING, st.integers(0, 2**31), st.integers(1, 50))
@settings(deadline=None, max_examples=60)
def test_index_rows_active_and_normaliser_agree(sampling, sizes, seed, server_round):
    clinics = list(range(10, 10 + len(sizes)))
    batches = draw_batches(sampling, seed, server_round, clinics, sizes)
    steps = [sampling.local_epochs * -(-n // sampling.batch_size) for n in sizes]
    assert batches.index.shape[:2] == batches.rows.shape == batches.normaliser.shape == (max(steps), len(sizes))
    np.testing.assert_array_equal(batches.active, [sum(s < own for own in steps) for s in range(max(steps))])
    for lane, n in enumerate(sizes):
        for s, records in enumerate(rows_of(batches, lane)):
            assert len(set(records)) == len(records), "no record stands twice in a batch"
            assert all(0 <= r < n for r in records)
            assert (batches.index[s, lane, len(records) :] == -1).all(), "padding is no record"
            assert not records or s < steps[lane], "a lane that has finished draws nothing"
            expected = min(sampling.batch_size, n) if sampling.poisson else max(len(records), 1)
            assert batches.normaliser[s, lane] == expected


@given(SAMPLING, DESCENDING, st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_rows_alone_are_the_rows_of_the_batches(sampling, sizes, seed):
    clinics = range(len(sizes))
    drawn = draw_batches(sampling, seed, 2, clinics, sizes).rows
    for steps in (sampling.steps(np.array(sizes)), sampling.steps(np.array(sizes)) // 2):
        rows = draw_rows(sampling, seed, 2, clinics, np.array(sizes), steps)
        assert rows.tolist() == [n for lane, count in enumerate(steps) for n in drawn[:count, lane].tolist()]


@given(SAMPLING, st.sets(st.sampled_from(range(6)), min_size=1), st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_a_clinics_draws_do_not_depend_on_the_others_in_the_call(sampling, some, seed):
    together = draw_batches(sampling, seed, 1, range(6), SIZES)
    chosen = sorted(some)
    apart = draw_batches(sampling, seed, 1, chosen, [SIZES[k] for k in chosen])
    for lane, clinic in enumerate(chosen):
        own = rows_of(apart, lane)
        assert own == rows_of(together, clinic)[: len(own)]


def test_poisson_rows_are_the_uniform_draws_below_the_rate():
    sampling = Sampling(True, 6, 2)
    batches = draw_batches(sampling, 9, 4, [3, 1], [20, 5])
    for lane, (clinic, n, steps) in enumerate([(3, 20, 8), (1, 5, 2)]):
        joins = stream(9, "batches", clinic, 4).random((steps, n)) < min(1, 6 / n)
        assert rows_of(batches, lane)[:steps] == [np.flatnonzero(step).tolist() for step in joins]


def test_poisson_rate_and_independence():
    """Every record joins with probability q, independently: the rows then vary as n q (1 - q), not less."""
    n, size, rounds = 30, 6, 400
    sampling = Sampling(True, size, 1)
    joined, rows = np.zeros(n), []
    for server_round in range(rounds):
        batches = draw_batches(sampling, 0, server_round, [0], [n])
        for records in rows_of(batches, 0):
            joined[records] += 1
            rows.append(len(records))
    trials, q = len(rows), size / n
    assert trials == rounds * 5
    assert sampling.rates(np.array(n)) == q
    assert np.abs(joined - trials * q).max() < 5 * (trials * q * (1 - q)) ** 0.5
    assert abs(np.mean(rows) - n * q) < 5 * (n * q * (1 - q) / trials) ** 0.5
    assert np.var(rows) == pytest.approx(n * q * (1 - q), rel=0.15)


def test_poisson_with_a_batch_as_large_as_the_clinic_takes_everyone():
    sampling = Sampling(True, 8, 3)
    batches = draw_batches(sampling, 0, 1, [0, 1], [8, 3])
    assert rows_of(batches, 0) == [list(range(8))] * 3
    assert rows_of(batches, 1) == [[0, 1, 2]] * 3
    np.testing.assert_array_equal(batches.normaliser, [[8, 3]] * 3)
    assert sampling.rates(np.array([3, 8, 16])).tolist() == [1.0, 1.0, 0.5]


def test_poisson_steps_without_a_record_still_happen():
    batches = draw_batches(Sampling(True, 1, 1), 0, 1, [0], [12])
    assert len(batches.rows) == 12
    assert 0 in batches.rows


def test_loss_weights_by_hand():
    weights = loss_weights(np.array([2, 0, 3]), np.array([4, 4, 3]), 3)
    third = np.float32(1 / 3)
    np.testing.assert_array_equal(weights, np.array([[0.25, 0.25, 0], [0, 0, 0], [third] * 3], dtype=np.float32))


def test_widths_are_the_usual_one_but_for_rare_batches():
    """Of 100,000 Poisson batches of 16 expected records fewer than one in ten thousand is wider than 32."""
    sampling = Sampling(True, 16, 1)
    np.testing.assert_array_equal(sampling.width(np.array([0, 1, 32, 33, 64, 65]), 1000), [32, 32, 32, 64, 64, 96])
    drawn = np.random.default_rng(0).binomial(4000, 16 / 4000, 100_000)
    assert np.mean(sampling.width(drawn, 4000) > 32) < 1e-3
    np.testing.assert_array_equal(Sampling(False, 16, 1).width(np.array([0, 3, 16]), 1000), [16, 16, 16])
    np.testing.assert_array_equal(Sampling(False, 500, 1).width(np.array([3, 37]), 37), [40, 40])


def test_lanes_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match="descending"):
        draw_batches(Sampling(False, 4, 1), 0, 1, [0, 1], [3, 5])


@given(st.integers(0, 2**31), st.integers(1, 20), st.integers(1, 30), st.floats(0.01, 1))
@settings(deadline=None)
def test_participants_are_distinct_sorted_and_as_many_as_asked(seed, server_round, clinics, share):
    chosen = participants(seed, server_round, clinics, share)
    assert len(chosen) == max(1, int(share * clinics + 0.5))
    assert sorted(set(chosen.tolist())) == chosen.tolist()
    assert chosen[0] >= 0
    assert chosen[-1] < clinics
    np.testing.assert_array_equal(chosen, participants(seed, server_round, clinics, share))


def test_everyone_takes_part_at_share_one():
    np.testing.assert_array_equal(participants(0, 1, 5, 1.0), [0, 1, 2, 3, 4])


def test_every_clinic_is_equally_likely_to_take_part():
    counts = np.bincount(np.concatenate([participants(0, r, 5, 0.4) for r in range(1000)]), minlength=5)
    assert counts.sum() == 2000
    assert np.abs(counts - 400).max() < 5 * (1000 * 0.4 * 0.6) ** 0.5
