"""Rows at the cut in 16 or 8 bits: half the bytes or a quarter, rounded where they leave and nowhere else."""

import numpy as np
import pytest
import torch
from support import bitwise, distance, plan_of, run_spec, train_spec, write_csv

from sim.methods.messages import CUT_KINDS
from sim.tensor.rows import narrowed, widened

CUTS = ["vanilla", "u-shaped"]
TYPES = ["float16", "bfloat16"]


@pytest.mark.parametrize("name", TYPES)
def test_what_crosses_is_the_nearest_16_bit_number(name):
    dtype = getattr(torch, name)
    rows = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1)) * 10.0 ** torch.arange(-3, 1)
    sent = narrowed(rows, dtype)
    assert sent.element_size() == 2
    arrived = widened(sent, dtype)
    assert arrived.dtype == torch.float32
    assert torch.equal(arrived, rows.to(dtype).float())
    assert torch.equal(narrowed(arrived, dtype), sent)
    assert not torch.equal(arrived, rows)
    assert widened(narrowed(torch.tensor([1e39, -1e39]), dtype), dtype).isfinite().all()
    assert narrowed(rows, torch.float32) is rows


def eight_bits(rows):
    """Round to the least power of two of which 127 reach the largest value of the last axis."""
    rows = np.asarray(rows, dtype=np.float64)
    largest = np.abs(rows).max(-1, keepdims=True)
    step = np.where(largest > 0, 2.0 ** np.ceil(np.log2(np.where(largest > 0, largest, 1) / 127)), 1.0)
    return torch.from_numpy(np.rint(rows / step) * step).float()


def test_what_crosses_in_8_bits_is_the_nearest_multiple_of_a_power_of_two_that_a_row_shares():
    rows = torch.randn(3, 5, 2, 6, generator=torch.Generator().manual_seed(1)) * 10.0 ** torch.arange(-3, 3)
    rows[0, 0] = 0
    rows[1, 1, 0] = torch.tensor([127.0, -127.0, 0.4, 63.5, 1.5, 2.5])
    sent = narrowed(rows, torch.int8)
    assert (sent.dtype, sent.shape) == (torch.int8, (3, 5, 2, 7))
    arrived = widened(sent, torch.int8)
    assert torch.equal(arrived, eight_bits(rows))
    assert arrived[1, 1, 0].tolist() == [127, -127, 0, 64, 2, 2]
    assert torch.equal(widened(narrowed(arrived, torch.int8), torch.int8), arrived)
    assert (arrived - rows).abs().amax(-1).le(rows.abs().amax(-1) / 127 + 1e-12).all()


def test_the_largest_and_the_least_numbers_cross_in_8_bits_and_what_is_none_stays_none():
    limits = torch.finfo(torch.float32)
    rows = torch.tensor([[[limits.max, 1.0]], [[limits.tiny / 4, 0.0]], [[torch.nan, 1.0]], [[torch.inf, 1.0]]])
    arrived = widened(narrowed(rows, torch.int8), torch.int8)
    assert arrived[0, 0, 0] == pytest.approx(limits.max, rel=1 / 127)
    assert arrived[1].abs().max() <= limits.tiny
    assert arrived[2:].isnan().all()


BYTES = {"float16": lambda values: 2 * values, "int8": lambda values: values + 1}


@pytest.mark.parametrize("dtype", BYTES)
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("strategy", ["split", "splitfed-v1", "splitfed-v2", "splitfed-v3"])
def test_planned_rows_take_fewer_bytes_and_training_counts_the_same(tmp_path, strategy, cut, dtype):
    """Training ends with an error where a counted byte differs from the plan."""
    csv = write_csv(tmp_path / "data.csv", (9, 14))
    [full, small] = [plan_of(run_spec(csv, strategy, cut, rounds=1, smashed_dtype=t))[0] for t in ("float32", dtype)]
    assert full.traffic.keys() == small.traffic.keys()
    widths = dict(zip(("smashed", "cut-gradient", "body-output", "tail-gradient"), (6, 6, 5, 5), strict=True))
    for (direction, kind), sizes in full.traffic.items():
        records = sizes // (4 * widths[kind]) if kind in CUT_KINDS else sizes
        shrunk = records * BYTES[dtype](widths[kind]) if kind in CUT_KINDS else sizes
        assert small.traffic[direction, kind].tolist() == shrunk.tolist(), kind
    assert small.round_seconds[0] < full.round_seconds[0]
    train_spec(run_spec(csv, strategy, cut, rounds=1, smashed_dtype=dtype))


class Rounded(torch.autograd.Function):
    """Round on the way forward, and the gradient on the way back."""

    @staticmethod
    def forward(ctx, rows, dtype):
        ctx.dtype = dtype
        return rounded(rows, dtype)

    @staticmethod
    def backward(ctx, gradient):
        return rounded(gradient, ctx.dtype), None


def rounded(rows, dtype):
    return eight_bits(rows.detach().numpy()) if dtype == torch.int8 else rows.to(dtype).float()


@pytest.mark.parametrize("name", ["float32", *TYPES, "int8"])
@pytest.mark.parametrize("cut", CUTS)
def test_one_clinic_trains_as_a_network_that_rounds_at_its_cuts(tmp_path, cut, name):
    csv = write_csv(tmp_path / "one.csv", (24,))
    settings = {"batch_size": 64, "learning_rate": 0.5, "smashed_dtype": name}
    spec = run_spec(csv, "split", cut, rounds=3, **settings)
    _, federation = plan_of(spec)
    cuts = (0,) if cut == "vanilla" else (0, 1)  # after which of the three layers
    start = train_spec(run_spec(csv, "split", cut, rounds=0, **settings)).parameters
    own = {key: value.clone().requires_grad_() for key, value in start.items()}
    dtype = getattr(torch, name)
    y = torch.tensor(federation.train.y).float()
    for _ in range(3):
        rows = torch.tensor(federation.train.x)
        for layer, (weight, bias) in enumerate(zip(*[iter(own.values())] * 2, strict=True)):
            rows = torch.nn.functional.linear(rows, weight[0], bias[0])
            rows = rows if layer == 2 else rows.relu()
            rows = Rounded.apply(rows, dtype) if layer in cuts else rows
        loss = torch.nn.functional.binary_cross_entropy_with_logits(rows.flatten(), y)
        gradients = torch.autograd.grad(loss, list(own.values()))
        with torch.no_grad():
            for value, gradient in zip(own.values(), gradients, strict=True):
                value -= 0.5 * gradient
    trained = train_spec(spec).parameters
    assert distance({key: value.detach() for key, value in own.items()}, trained) < 1e-5
    if name != "float32":
        exact = train_spec(run_spec(csv, "split", cut, rounds=3, **{**settings, "smashed_dtype": "float32"})).parameters
        assert distance(exact, trained) > 1e-5
        assert bitwise(train_spec(spec).parameters, trained)
