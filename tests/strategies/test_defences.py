"""Defences without an epsilon: they do and cost what they say, and the statement says that they promise nothing."""

import numpy as np
import pytest
import torch
from split_twins import CUT, gap
from split_twins import distance_correlation as by_pairs
from support import DP_SGD, bitwise, plan_of, run_spec, train_spec, with_rows_seen_by, write_csv

from sim.attacks.attack import attack_of
from sim.attacks.observation import Observation
from sim.attacks.reconstruction import probe_r2, reconstruction, rows_at_the_cut
from sim.foundation.problems import ScenarioError
from sim.methods.messages import Begin, Kind
from sim.plan.statement import privacy_statement
from sim.study.lockstep import Shared
from sim.study.train import train_run
from sim.tensor.lanes import forward
from sim.tensor.nopeek import distance_correlation

SOME = [("split", "vanilla"), ("splitfed-v1", "u-shaped"), ("splitfed-v2", "vanilla"), ("splitfed-v3", "u-shaped")]


@pytest.fixture(scope="module")
def ragged(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("defences") / "ragged.csv")


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("defences") / "wide.csv", sizes=(120, 160, 100), features=8)


# NoPeek


def test_the_distance_correlation_by_hand():
    """Three records at 0, 1 and 3, sent as 0, 2 and 2: distances 1, 3, 2 and 2, 2, 0."""
    a = np.array([[0, 1, 3], [1, 0, 2], [3, 2, 0]]) - np.array([4, 3, 5]) / 3
    a = a - np.array([[4], [3], [5]]) / 3 + 12 / 9
    b = np.array([[0, 2, 2], [2, 0, 0], [2, 0, 0]]) - np.array([4, 2, 2]) / 3
    b = b - np.array([[4], [2], [2]]) / 3 + 8 / 9
    expected = np.sqrt((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
    x, z = torch.tensor([[[0.0], [1.0], [3.0]]]), torch.tensor([[[0.0], [2.0], [2.0]]])
    assert distance_correlation(x, z, [3])[0].item() == pytest.approx(expected)
    assert distance_correlation(x, 5 - 2 * x, [3])[0].item() == pytest.approx(1.0)


@pytest.mark.parametrize("shape", [(6,), (2, 3, 3)])
def test_value_and_gradient_are_those_of_all_pairs_and_padding_counts_for_nothing(shape):
    generator = torch.Generator().manual_seed(0)
    x, z = (torch.randn(3, 9, *shape, generator=generator, dtype=torch.float64) for _ in range(2))
    z = (z + x).relu().requires_grad_()
    rows = [9, 5, 1]
    value, gradient = distance_correlation(x, z.detach(), rows)
    for lane, n in enumerate(rows[:2]):
        expected = by_pairs(x[lane, :n], z[lane, :n])
        assert value[lane].item() == pytest.approx(expected.item(), abs=1e-12)
        [in_z] = torch.autograd.grad(expected, z)
        assert torch.allclose(gradient[lane], in_z[lane], atol=1e-12)
    assert value[2] == 0
    assert not gradient[2].any()


def test_what_does_not_differ_has_no_correlation():
    x, constant = torch.randn(1, 6, 3), torch.ones(1, 6, 2)
    for one, other in ((x, constant), (constant, x)):
        value, gradient = distance_correlation(one, other, [6])
        assert value.item() == 0
        assert not gradient.any()


@pytest.mark.parametrize("method", CUT, ids=str)
def test_a_clinic_trains_with_the_distance_correlation_in_its_loss(ragged, method):
    spec = method.spec(ragged, nopeek=0.7)
    assert gap(spec) < 2e-6
    assert not bitwise(train_spec(spec).parameters, train_spec(method.spec(ragged)).parameters)


@pytest.mark.parametrize(("strategy", "cut"), SOME)
def test_messages_nodes_and_runs_beside_it_change_nothing(ragged, strategy, cut):
    plans = [plan_of(run_spec(ragged, strategy, cut, nopeek=weight)) for weight in (0.0, 0.3, 2.0)]
    plan, federation = plans[1]
    alone = train_run(plan, federation).parameters
    assert bitwise(alone, train_run(plan, federation, shortcut=False).parameters)
    shared, ended = Shared(), {}

    def kept(number):
        ended[number] = train_run(*plans[number], program=shared).parameters

    for _ in shared.run([lambda number=number: kept(number) for number in range(3)]):
        pass
    assert bitwise(ended[1], alone)
    assert bitwise(ended[0], train_run(*plans[0]).parameters)


def test_without_them_a_run_is_the_one_that_it_was(ragged):
    ways = ({}, {"nopeek": 0}, {"model": {"cut-dropout": 0}}, {"nopeek": 0.5}, {"model": {"cut-dropout": 0.5}})
    plain, *zeros, some, others = (run_spec(ragged, "split", "vanilla", **own).run_id for own in ways)
    assert zeros == [plain, plain]
    assert len({plain, some, others}) == 3


@pytest.mark.parametrize(
    ("strategy", "cut", "how", "said"),
    [
        ("fedavg", None, {}, "train.nopeek: fedavg cuts nothing"),
        ("split", "vanilla", {"model": {"freeze": ["head"]}}, "train.nopeek: the head of split is frozen"),
        ("splitfed-v1", "u-shaped", {"privacy": DP_SGD}, "train.nopeek: the distance correlation of a batch is no sum"),
    ],
)
def test_it_is_refused_where_it_can_do_nothing_or_breaks_a_guarantee(ragged, strategy, cut, how, said):
    with pytest.raises(ScenarioError, match=said):
        plan_of(run_spec(ragged, strategy, cut, nopeek=0.5, **how))


def test_the_clock_counts_what_it_computes(ragged):
    plain, hidden = (plan_of(run_spec(ragged, "split", "vanilla", nopeek=w))[0].columns() for w in (0.0, 0.5))
    records = 3 * sum(plan_of(run_spec(ragged, "split", "vanilla"))[0].job.sizes)
    assert hidden["clinic_flops"] - plain["clinic_flops"] == records * 8 * (3 * 4 + 5 * 6)
    assert hidden["sim_seconds"] > plain["sim_seconds"]
    assert hidden["bytes_up"] == plain["bytes_up"]


@pytest.mark.parametrize(
    ("what", "how"),
    [
        ("nopeek", {"nopeek": 0.5}),
        ("rows of 8 bits", {"smashed_dtype": "int8"}),
        ("sparse rows", {"smashed_top_k": 0.4}),
        ("dropout at the cut", {"model": {"cut-dropout": 0.5}}),
    ],
)
def test_the_statement_says_that_it_promises_nothing(ragged, what, how):
    def outside(**settings):
        plan = plan_of(run_spec(ragged, "split", "vanilla", **settings))[0]
        return {row["what"]: row["note"] for row in privacy_statement(plan, {}, finished=False)["outside"]}

    assert "promises nothing" in outside(**how)[what]
    assert what not in outside()


# Dropout at the cut

DROPS = """
from torch import nn


def build(shape, outputs):
    return [
        ("first", nn.Sequential(nn.Linear(shape[0], 6), nn.ReLU())),
        ("cut-dropout", nn.Dropout(0.4)),
        ("second", nn.Sequential(nn.Linear(6, 5), nn.ReLU())),
        ("output", nn.Linear(5, outputs)),
    ]
"""


@pytest.mark.parametrize(("strategy", "cut"), SOME)
def test_dropout_at_the_cut_is_that_of_a_network_that_has_it_there(ragged, tmp_path, monkeypatch, strategy, cut):
    (tmp_path / "dropping_for_tests.py").write_text(DROPS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    own = {"name": "factory", "factory": "dropping_for_tests:build", "cut": [2, -1] if cut == "u-shaped" else 2}
    settled = run_spec(ragged, strategy, cut, model={"cut-dropout": 0.4})
    [trained, reference, plain] = [
        list(train_spec(spec).parameters.values())
        for spec in (settled, run_spec(ragged, strategy, cut, model=own), run_spec(ragged, strategy, cut))
    ]
    assert all(torch.equal(a, b) for a, b in zip(trained, reference, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(trained, plain, strict=True))


def test_a_share_of_what_crosses_is_0_and_of_what_is_judged_nothing(ragged):
    zeros, rows = 0, 0
    plan, federation = plan_of(run_spec(ragged, "splitfed-v1", "vanilla", model={"cut-dropout": 0.5, "hidden": [64]}))

    def count(instruction, reply):
        nonlocal zeros, rows
        if Kind.SMASHED in reply.payload:
            sent = torch.cat([own[:n] for own, n in zip(reply.payload[Kind.SMASHED], reply.rows, strict=True)])
            zeros, rows = zeros + int((sent == 0).sum()), rows + sent.numel()

    trained = train_run(plan, federation, overheard=count)
    head = plan.job.part("head")
    kept = forward(head, head.select(trained.parameters), torch.tensor(federation.train.x)[None])
    at_rest = float((kept == 0).float().mean())
    assert zeros / rows == pytest.approx(at_rest + (1 - at_rest) / 2, abs=0.05)


@pytest.mark.parametrize(
    ("strategy", "cut", "said"),
    [("fedavg", None, "fedavg cuts nothing"), ("release-once", "vanilla", "sends each row once")],
)
def test_dropout_at_the_cut_is_refused_where_nothing_is_dropped(ragged, strategy, cut, said):
    with pytest.raises(ScenarioError, match=f"model.cut-dropout: .*{said}"):
        plan_of(run_spec(ragged, strategy, cut, model={"cut-dropout": 0.5}))


def test_clipped_rows_keep_their_bound_behind_dropout(ragged):
    noise = {"mechanism": "smashed-noise", "noise-multiplier": 1.0, "clip": 0.5, "delta": 1e-3, "labels": "public"}
    model = {"cut-dropout": 0.5, "freeze": ["head"]}
    plan, federation = plan_of(run_spec(ragged, "split", "vanilla", noise, model=model, rounds=1))
    norms, without = [], plan_of(run_spec(ragged, "split", "vanilla", noise, model={"freeze": ["head"]}, rounds=1))[0]
    watched = with_rows_seen_by(plan, lambda kind, clinic, moment, before, after: norms.append(before.norm(dim=1)))
    train_run(watched, federation)
    assert 0.4 < float(torch.cat(norms).max()) <= 0.5 + 1e-6
    assert plan.columns()["epsilon_server"] == without.columns()["epsilon_server"]


def reconstructed(spec):
    """Return what ridge regression recovers from the rows at the cut, by measure, and the score."""
    plan, federation = plan_of(spec)
    observation = Observation([attack_of("reconstruction")], plan, federation)
    trained = train_run(plan, federation)
    [entry] = observation.found(trained.parameters).stated()
    return entry, trained.evaluations[-1].pooled["within_clinic_auc"]


def test_behind_dropout_the_attack_sees_what_a_server_does_that_averages_ten_rounds(wide):
    """Which batches a record was in follows from the public seed; its rows of the last ten rounds are recorded."""
    model = {"hidden": [16, 5], "cut": 1, "cut-dropout": 0.5}
    plan, federation = plan_of(run_spec(wide, "splitfed-v1", "vanilla", model=model, rounds=20))
    job, outside, train = plan.job, federation.untrained, federation.train
    seen, now = np.zeros((2, len(train.y), 16)), [0, 0]

    def hear(instruction, reply):
        if isinstance(instruction, Begin):
            now[:] = instruction.server_round, -1
        if Kind.SMASHED in reply.payload:
            now[1] += 1
            for lane, k in enumerate(reply.clinics):
                places = job.batches(now[0], [k]).index[now[1], 0]
                own = train.offsets[k] + places[places >= 0]
                if now[0] > 10:
                    seen[0, own] += reply.payload[Kind.SMASHED][lane, : len(own)].numpy() / 10
                if now[0] == 20:
                    seen[1, own] = reply.payload[Kind.SMASHED][lane, : len(own)].numpy()

    trained = train_run(plan, federation, overheard=hear)
    known = rows_at_the_cut(job, trained.parameters, outside, np.arange(len(outside.y)), plan.sampled.exposures)
    really, once = (probe_r2(known, outside.x.astype(float), rows, train.x.astype(float)) for rows in seen)
    assert reconstruction(job, trained.parameters, federation, plan.sampled.exposures) == pytest.approx(
        really, abs=0.06
    )
    assert really > once + 0.1


def test_less_is_reconstructed_in_the_end_at_little_cost_and_all_of_it_from_the_first_batches(wide):
    model = {"hidden": [8, 5], "cut": 1}
    (plain, auc), (hidden, hidden_auc), (start, _) = (
        reconstructed(run_spec(wide, "splitfed-v1", "vanilla", model=model, rounds=rounds, nopeek=weight))
        for rounds, weight in ((20, 0.0), (20, 1.0), (0, 0.0))
    )
    assert plain["r2"] > 0.5
    assert hidden["last_round_r2"] < plain["r2"] - 0.2
    assert hidden_auc > auc - 0.05
    assert hidden["r2"] == start["r2"] > 0.5
    assert "last_round_r2" not in plain
