"""Rows at the cut in 16 bits: half the bytes, rounded where they leave and nowhere else."""

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


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("strategy", ["split", "splitfed-v1", "splitfed-v2", "splitfed-v3"])
def test_planned_rows_take_half_the_bytes_and_training_counts_the_same(tmp_path, strategy, cut):
    """Training ends with an error where a counted byte differs from the plan."""
    csv = write_csv(tmp_path / "data.csv", (9, 14))
    [full, half] = [plan_of(run_spec(csv, strategy, cut, rounds=1, smashed_dtype=t))[0] for t in ("float32", "float16")]
    assert full.traffic.keys() == half.traffic.keys()
    for (direction, kind), sizes in full.traffic.items():
        shrunk = sizes // 2 if kind in CUT_KINDS else sizes
        assert half.traffic[direction, kind].tolist() == shrunk.tolist(), kind
    assert half.round_seconds[0] < full.round_seconds[0]
    train_spec(run_spec(csv, strategy, cut, rounds=1, smashed_dtype="float16"))


class Rounded(torch.autograd.Function):
    """Round on the way forward, and the gradient on the way back."""

    @staticmethod
    def forward(ctx, rows, dtype):
        ctx.dtype = dtype
        return rows.to(dtype).float()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.to(ctx.dtype).float(), None


@pytest.mark.parametrize("name", ["float32", *TYPES])
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
