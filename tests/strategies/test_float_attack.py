"""Which numbers can be reached tells nothing: the attack of Mironov (2012) on rows and sums as they leave.

The attacker knows both candidates and how noise is drawn, added and rounded, and asks of every number that is released
whether any draw leads to it from a candidate. Where that does not decide, it takes the likelier one. Numbers of 32 bits
that were noised as they are betray the candidate; what leaves here does not.
"""

import math

import numpy as np
import pytest
import torch
from scipy.stats import beta

from sim.privacy.calibration import calibrate
from sim.privacy.mechanisms.clinic_level import AdaptiveClip, adapted_clip, noised_mean
from sim.privacy.mechanisms.dp_sgd import DpSgd
from sim.privacy.mechanisms.noises import RowNoise
from sim.privacy.mechanisms.released import on_grid, row_step, sum_step
from sim.privacy.mechanisms.smashed_noise import SmashedNoise

TRIALS, CLAIM, DELTA = 400, 1.0, 1e-5
WIDTHS = pytest.mark.parametrize("width", [64, 256])


def unreachable(released, candidate, scale, dtype, noised):
    """Count the numbers to which no draw near the one that is needed leads, ``[trial]``."""
    needed = ((released.astype(np.longdouble) - candidate) / scale).astype(dtype)
    found = np.zeros(released.shape, dtype=bool)
    for direction in (-np.inf, np.inf):
        draw = needed.copy()
        for _ in range(4):
            found |= noised(draw, candidate) == released
            draw = np.nextafter(draw, dtype(direction))
    return (~found).sum(-1)


def lower_bound(released, candidates, truth, scale, dtype, noised):
    """Return the epsilon that the guesses prove with 95 % confidence, and how many the numbers' reach decided."""
    missed = [unreachable(released, candidate, scale, dtype, noised) for candidate in candidates]
    distance = [((released.astype(float) - candidate) ** 2).sum(-1) for candidate in candidates]
    guess = np.where(missed[0] == missed[1], distance[1] < distance[0], missed[1] < missed[0])
    right = int((guess == truth).sum())
    at_least = float(beta.ppf(0.05, right, TRIALS - right + 1)) if right else 0.0
    bound = math.log((at_least - DELTA) / (1 - at_least)) if at_least > 0.5 else 0.0
    return bound, int((missed[0] != missed[1]).sum())


def two_rows(width, norm):
    random = np.random.default_rng(width)
    rows = random.normal(size=(2, width))
    return (norm * rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def truth():
    return np.random.default_rng(0).integers(2, size=TRIALS)


def as_plain_floats(scale):
    """Return how 32-bit noise is added to 32-bit numbers."""
    return lambda draw, candidate: draw * np.float32(scale) + candidate


@WIDTHS
def test_plain_floats_are_beaten(truth, width):
    candidates, scale = two_rows(width, 1.0), 2 * calibrate(CLAIM, DELTA, 1.0, 1)
    draws = np.random.default_rng(1).standard_normal((TRIALS, width), dtype=np.float32)
    released = as_plain_floats(scale)(draws, candidates[truth])
    bound, decided = lower_bound(released, candidates, truth, scale, np.float32, as_plain_floats(scale))
    assert bound > 4
    assert decided > 0.9 * TRIALS


@WIDTHS
@pytest.mark.parametrize("attacker", ["of 64 bits and the grid", "of plain floats"])
def test_rows_that_leave_are_not(truth, width, attacker):
    candidates, multiplier = two_rows(width, 1.0), 2 * calibrate(CLAIM, DELTA, 1.0, 1)
    step = row_step(multiplier, 1.0)
    noise = RowNoise(mechanism=SmashedNoise(), clip={"smashed": 1.0}, reach={"smashed": 2.0}, multipliers=(multiplier,))
    codes = noise.codes(candidates[truth][None], "smashed", "attacked", [TRIALS], [0], (1, 0))[0]
    assert codes.std() * step == pytest.approx(multiplier, rel=0.05)  # it is the noise that is claimed
    if attacker == "of plain floats":
        released, dtype, noised = (codes * step).astype(np.float32), np.float32, as_plain_floats(multiplier)
    else:
        released, dtype = codes * step, np.float64

        def noised(draw, candidate):
            return np.rint((draw * multiplier + candidate) / step) * step

    bound, decided = lower_bound(released, candidates, truth, multiplier, dtype, noised)
    assert bound < CLAIM
    assert decided == 0 or attacker == "of plain floats"


@WIDTHS
@pytest.mark.parametrize("attacker", ["of 64 bits and the grid", "of plain floats"])
def test_a_steps_noised_sum_is_not(truth, width, attacker):
    """DP-SGD, one step on a batch of four: with a record's clipped gradient, or without."""
    sigma, batch = calibrate(CLAIM, DELTA, 1.0, 1), 4
    rest, own = two_rows(width, 1.5), two_rows(width + 1, 1.0)[0, :width]
    candidates = np.stack([rest[0], rest[0] + own]) / batch
    scale = sigma / batch
    sums = torch.from_numpy(candidates[truth]).clone()
    for trial in range(TRIALS):
        DpSgd().add_noise([sums[trial : trial + 1]], [sigma], [batch], "attacked", "noise.model", [0], trial, 0)
    released = sums.numpy()
    assert (released - candidates[truth]).std() == pytest.approx(scale, rel=0.05)

    def on_the_grid(draw, candidate):
        return on_grid(draw * scale + candidate, scale).astype(np.float32)

    plain = attacker == "of plain floats"
    dtype, noised = (np.float32, as_plain_floats(scale)) if plain else (np.float64, on_the_grid)
    bound, decided = lower_bound(released, candidates, truth, scale, dtype, noised)
    assert bound < CLAIM
    assert decided == 0 or plain


@WIDTHS
def test_a_plain_sum_is(truth, width):
    sigma, batch = calibrate(CLAIM, DELTA, 1.0, 1), 4
    rest, own = two_rows(width, 1.5), two_rows(width + 1, 1.0)[0, :width]
    candidates = (np.stack([rest[0], rest[0] + own]) / batch).astype(np.float32)
    draws = np.random.default_rng(2).standard_normal((TRIALS, width), dtype=np.float32)
    noised = as_plain_floats(sigma / batch)
    bound, _ = lower_bound(noised(draws, candidates[truth]), candidates, truth, sigma / batch, np.float32, noised)
    assert bound > 4


def test_what_the_server_noises_lies_on_a_public_grid_too():
    """Updates' sums and the count within the clip, whatever they are; the mean is over a number that is fixed."""
    random = torch.Generator().manual_seed(0)
    updates, norms = {"a": torch.randn(3, 500, generator=random)}, torch.full((3,), 30.0)
    sums = noised_mean(updates, norms, 4, 0.7, 1.5, "attacked", 1)["a"].double() * 4
    quotient = sums / sum_step(1.5 * 0.7)
    assert torch.equal(quotient, quotient.round())
    quiet = noised_mean(updates, norms, 4, 0.7, 0.0, "attacked", 1)["a"] * 4
    assert float((sums - quiet).std()) == pytest.approx(1.5 * 0.7, rel=0.1)
    assert float(quiet.norm()) == pytest.approx(float(updates["a"].sum(0).norm()) * 0.7 / 30, rel=1e-4)
    for r in range(20):
        clip = adapted_clip(1.0, norms, 4, AdaptiveClip(quantile=0.5, rate=1.0, count_noise=2.0), True, "attacked", r)
        count = (0.5 - math.log(clip) - 0.5) * 4 / sum_step(2.0)
        assert count == pytest.approx(round(count), abs=1e-6)
