"""Noise for a target: the same from a cold and from a warm cache, never too little, and on a grid of its own."""

import json
import sqlite3
import subprocess
import sys

import pytest
from dp_accounting.pld import privacy_loss_distribution as library
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.privacy.accounting import dp_sgd_event, epsilon
from sim.privacy.calibration import calibrate, six_digits
from sim.privacy.remembered import remembered
from sim.privacy.sampled_gaussian import delta_of_steps

DELTA = 1e-5
CASES = [(3.0, DELTA, 16 / size, 8 * -(-size // 16)) for size in (41, 977, 230, 1500)]
few = settings(max_examples=15, deadline=None, derandomize=True)


@pytest.fixture
def file(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "suture" / "accountant.sqlite"


def in_a_process(cases) -> list[float]:
    code = (
        "import json, sys; from sim.privacy.calibration import calibrate\n"
        "print(json.dumps([calibrate(*case) for case in json.loads(sys.argv[1])]))"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(cases)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@given(size=st.integers(20, 3000), batch=st.integers(4, 64), rounds=st.integers(1, 40), target=st.floats(0.2, 10))
@few
def test_no_size_exceeds_its_target(size, batch, rounds, target):
    rate, steps = min(batch / size, 1.0), rounds * -(-size // batch)
    noise = calibrate(target, DELTA, rate, steps)
    assert 0.997 * target < epsilon(dp_sgd_event(rate, noise, steps), DELTA) <= target


def test_the_order_of_sizes_and_a_warm_cache_change_no_noise(file):
    cold = in_a_process(CASES)
    assert in_a_process(CASES) == cold
    file.unlink()
    assert in_a_process(CASES[::-1]) == cold[::-1]
    assert [calibrate.__wrapped__.__wrapped__(*case) for case in CASES] == cold


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + bytes(5000)])
def test_a_corrupt_cache_is_ignored_and_replaced(file, content):
    file.parent.mkdir()
    file.write_bytes(content)
    calls = []
    asked = remembered(lambda x: calls.append(x) or 2.0 * x)
    assert [asked(1.5), asked(1.5), asked(1.5)] == [3.0] * 3
    assert 1 <= len(calls) <= 2
    assert file.read_bytes().startswith(b"SQLite format 3\0")


def test_an_answer_whose_proof_fails_is_counted_again(file):
    asked = remembered(lambda x: (2.0 * x, x))
    assert asked(1.0) == (2.0, 1.0)
    with sqlite3.connect(file) as store:
        store.execute("UPDATE answers SET answer = '[9.0, 9.0]'")
    store.close()
    assert asked(1.0) == (2.0, 1.0)


@pytest.mark.parametrize("place", ["file", "absent"])
def test_a_cache_that_cannot_be_written_is_done_without(monkeypatch, tmp_path, place):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file") if place == "file" else "/proc/1/none")
    assert remembered(lambda x: x)(1.0) == 1.0


@given(
    rate=st.floats(1e-3, 0.99), sigma=st.floats(0.4, 20), steps=st.integers(1, 2000), level=st.sampled_from([3, 4, 5])
)
@few
def test_a_grid_of_ours_is_a_grid_of_the_library(rate, sigma, steps, level):
    interval = 4.0**-level
    one = library.from_gaussian_mechanism(sigma, value_discretization_interval=interval, sampling_prob=rate)
    theirs = one.self_compose(steps)
    ours = delta_of_steps(rate, sigma, steps, interval)
    for eps in (0.0, 0.3, 1.0, 4.0):
        expected = float(theirs.get_delta_for_epsilon(eps))
        assert expected * (1 - 1e-5) - 1e-12 < ours(eps) < expected * (1 + 1e-5) + 1e-12


@given(st.floats(1e-2, 1e6))
def test_six_digits_round_up_and_stay(sigma):
    rounded = six_digits(sigma)
    assert sigma <= rounded < sigma * (1 + 1.01e-5)
    assert six_digits(rounded) == rounded == float(f"{rounded:.6g}")
