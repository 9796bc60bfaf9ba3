"""Sparse rows at the cut: the largest values with their places, and the gradient in these alone, by hand."""

import math

import numpy as np
import pytest
import torch
from support import bitwise, distance, plan_of, run_spec, train_spec, write_csv

from sim.attacks.reconstruction import rows_at_the_cut
from sim.foundation.problems import ScenarioError
from sim.methods.messages import CUT_KINDS, Kind
from sim.methods.row_noise import arrived_rows
from sim.study.train import train_run
from sim.tensor.cut_rows import CutRows

SHARE = 0.34
WIDTHS = {"smashed": 6, "cut-gradient": 6, "body-output": 5, "tail-gradient": 5}
KEPT = {kind: math.ceil(SHARE * width) for kind, width in WIDTHS.items()}  # 3 of 6, and 2 of 5
METHODS = [
    (strategy, cut)
    for strategy in ("split", "splitfed-v1", "splitfed-v2", "splitfed-v3")
    for cut in ("vanilla", "u-shaped")
]
VALUE_BYTES = {"float32": lambda kept: 4 * kept, "float16": lambda kept: 2 * kept, "int8": lambda kept: kept + 1}


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("sparse") / "data.csv", (9, 14))


@pytest.mark.parametrize("dtype", VALUE_BYTES)
def test_the_largest_values_and_their_places_cross_and_nothing_else(dtype):
    rows = torch.randn(2, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    rows[0, 0] = torch.tensor([[0.0, -3.0, 1.0, 1.0], [2.0, 0.0, 0.0, -1.0]])
    cut = CutRows(dtype, 0.5)
    sent = cut.packed(rows)
    assert sent[0, 0].numel() * sent.element_size() == VALUE_BYTES[dtype](4) + 2 * 4
    assert (tuple(sent.shape[2:]), str(sent.dtype).removeprefix("torch.")) == cut.form((2, 4), back=False)
    assert cut.places_sent(sent, (2, 4))[0, 0].tolist() == [1, 2, 3, 4]  # of the three ones the first two
    arrived = cut.unpacked(sent, (2, 4))
    assert arrived[0, 0].tolist() == [[0, -3, 1, 1], [2, 0, 0, 0]]
    flat, back = rows.flatten(2).numpy(), arrived.flatten(2).numpy()
    for row, other in zip(flat.reshape(-1, 8), back.reshape(-1, 8), strict=True):
        chosen = np.argsort(-np.abs(row), kind="stable")[:4]
        assert set(np.flatnonzero(other)) <= set(chosen)
        np.testing.assert_allclose(
            other[chosen], row[chosen], atol=0 if dtype == "float32" else 0.02 * np.abs(row).max()
        )
    at = cut.places_sent(sent, (2, 4))
    gradient = torch.ones(2, 3, 2, 4)
    returned = cut.packed(gradient, at)
    assert returned[0, 0].numel() * returned.element_size() == VALUE_BYTES[dtype](4)
    assert cut.unpacked(returned, (2, 4), at)[0, 0].tolist() == [[0, 1, 1, 1], [1, 0, 0, 0]]


@pytest.mark.parametrize("dtype", VALUE_BYTES)
@pytest.mark.parametrize(("strategy", "cut"), METHODS)
def test_planned_and_counted_bytes_are_those_by_hand(csv, strategy, cut, dtype):
    """Training ends with an error where a counted byte differs from the plan."""
    settings = {"rounds": 1, "smashed_dtype": dtype}
    [full, sparse] = [plan_of(run_spec(csv, strategy, cut, smashed_top_k=k, **settings))[0] for k in (1.0, SHARE)]
    exact, _ = plan_of(run_spec(csv, strategy, cut, rounds=1))
    for (direction, kind), sizes in exact.traffic.items():
        if kind not in CUT_KINDS:
            assert sparse.traffic[direction, kind].tolist() == full.traffic[direction, kind].tolist()
            continue
        places = 2 * KEPT[kind] if kind in ("smashed", "body-output") else 0
        by_hand = sizes // (4 * WIDTHS[kind]) * (VALUE_BYTES[dtype](KEPT[kind]) + places)
        assert sparse.traffic[direction, kind].tolist() == by_hand.tolist(), kind
    if dtype == "float32":  # of so short rows places outweigh 8 bits a value
        assert sparse.round_seconds[0] < full.round_seconds[0]
    train_spec(run_spec(csv, strategy, cut, smashed_top_k=SHARE, **settings))


class Sparse(torch.autograd.Function):
    """Keep the largest values of each row, and of the gradient those at the same places; both rounded."""

    @staticmethod
    def forward(ctx, rows, count, dtype):
        kept = np.zeros(rows.shape, dtype=bool)
        for row, own in zip(rows.detach().numpy(), kept, strict=True):
            own[np.argsort(-np.abs(row), kind="stable")[:count]] = True
        ctx.kept, ctx.dtype = torch.from_numpy(kept), dtype
        return (rows * ctx.kept).to(dtype).float()

    @staticmethod
    def backward(ctx, gradient):
        return (gradient * ctx.kept).to(ctx.dtype).float(), None, None


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
@pytest.mark.parametrize("cut", ["vanilla", "u-shaped"])
def test_one_clinic_trains_as_a_loop_by_hand_and_is_scored_with_sparse_rows(tmp_path, cut, name):
    csv = write_csv(tmp_path / "one.csv", (24,))
    settings = {"batch_size": 64, "learning_rate": 0.5, "smashed_top_k": SHARE, "smashed_dtype": name}
    spec = run_spec(csv, "split", cut, rounds=3, **settings)
    _, federation = plan_of(spec)
    counts = (3,) if cut == "vanilla" else (3, 2)  # behind the first layer, and the second
    start = train_spec(run_spec(csv, "split", cut, rounds=0, **settings)).parameters
    own = {key: value.clone().requires_grad_() for key, value in start.items()}
    y = torch.tensor(federation.train.y).float()

    def outputs(x, dtype):
        rows = torch.tensor(x)
        for layer, (weight, bias) in enumerate(zip(*[iter(own.values())] * 2, strict=True)):
            rows = torch.nn.functional.linear(rows, weight[0], bias[0])
            rows = rows if layer == 2 else rows.relu()
            rows = Sparse.apply(rows, counts[layer], dtype) if layer < len(counts) else rows
        return rows.flatten()

    for _ in range(3):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            outputs(federation.train.x, getattr(torch, name)), y
        )
        gradients = torch.autograd.grad(loss, list(own.values()))
        with torch.no_grad():
            for value, gradient in zip(own.values(), gradients, strict=True):
                value -= 0.5 * gradient
    trained = train_spec(spec)
    assert distance({key: value.detach() for key, value in own.items()}, trained.parameters) < 1e-5
    whole = train_spec(run_spec(csv, "split", cut, rounds=3, **{**settings, "smashed_top_k": 1.0})).parameters
    assert distance(whole, trained.parameters) > 1e-3
    probability = torch.sigmoid(outputs(federation.test.x, torch.float32)).detach().numpy()
    np.testing.assert_allclose(trained.evaluations[-1].predicted[:, 1], probability, atol=1e-4)


@pytest.mark.parametrize("cut", ["vanilla", "u-shaped"])
def test_attacks_and_the_report_see_the_rows_that_crossed(csv, cut):
    """The server's rows have no more numbers than crossed; places that were not sent hold nothing."""
    plan, federation = plan_of(run_spec(csv, "splitfed-v1", cut, rounds=1, smashed_top_k=SHARE))
    seen = []

    def overheard(asked, reply):
        for kind, sent in reply.payload.items():
            if kind == Kind.SMASHED:
                seen.append(arrived_rows(plan.job, kind, sent, reply.clinics))

    trained = train_run(plan, federation, shortcut=False, overheard=overheard)
    assert all(((rows != 0).sum(-1) <= KEPT["smashed"]).all() for rows in seen)
    index = np.arange(len(federation.train.y))
    at_the_cut = rows_at_the_cut(plan.job, trained.parameters, federation.train, index, None)
    assert ((at_the_cut != 0).sum(-1) <= KEPT["smashed"]).all()


def test_noised_rows_cross_whole_and_it_is_said(csv):
    noise = {"mechanism": "smashed-noise", "noise-multiplier": 1.0, "smashed-clip": 1.0, "delta": 1e-3}
    with pytest.raises(ScenarioError, match=r"train.smashed-top-k: under smashed-noise every value of a row leaves"):
        plan_of(run_spec(csv, "splitfed-v1", "vanilla", noise, smashed_top_k=SHARE))


def test_where_nothing_is_cut_and_where_all_is_kept_nothing_changes(csv):
    assert run_spec(csv, "split", "vanilla", smashed_top_k=1.0).run_id == run_spec(csv, "split", "vanilla").run_id
    whole, sparse = (train_spec(run_spec(csv, smashed_top_k=k)).parameters for k in (1.0, SHARE))
    assert bitwise(whole, sparse)
