"""Defences without an epsilon: they do and cost what they say, and the statement says that they promise nothing."""

import numpy as np
import pytest
import torch
from split_twins import CUT, gap
from split_twins import distance_correlation as by_pairs
from support import DP_SGD, bitwise, plan_of, run_spec, train_spec, write_csv

from sim.attacks.attack import attack_of
from sim.attacks.observation import Observation
from sim.foundation.problems import ScenarioError
from sim.plan.statement import privacy_statement
from sim.study.lockstep import Shared
from sim.study.train import train_run
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


def test_without_it_a_run_is_the_one_that_it_was(ragged):
    plain, zero, some = (run_spec(ragged, "split", "vanilla", **own) for own in ({}, {"nopeek": 0}, {"nopeek": 0.5}))
    assert plain.run_id == zero.run_id != some.run_id


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


@pytest.mark.parametrize(("what", "how"), [("nopeek", {"nopeek": 0.5}), ("rows of 8 bits", {"smashed_dtype": "int8"})])
def test_the_statement_says_that_it_promises_nothing(ragged, what, how):
    def outside(**settings):
        plan = plan_of(run_spec(ragged, "split", "vanilla", **settings))[0]
        return {row["what"]: row["note"] for row in privacy_statement(plan, {}, finished=False)["outside"]}

    assert "promises nothing" in outside(**how)[what]
    assert what not in outside()


def reconstructed(spec):
    """Return what ridge regression recovers from the rows at the cut, and the score."""
    plan, federation = plan_of(spec)
    observation = Observation([attack_of("reconstruction")], plan, federation)
    trained = train_run(plan, federation)
    r2 = observation.found(trained.parameters).row()["smashed_reconstruction_r2"]
    return r2, trained.evaluations[-1].pooled["within_clinic_auc"]


def test_less_is_reconstructed_and_the_score_hardly_suffers(wide):
    model = {"hidden": [8, 5], "cut": 1}
    (r2, auc), (hidden_r2, hidden_auc) = (
        reconstructed(run_spec(wide, "splitfed-v1", "vanilla", model=model, rounds=20, nopeek=w)) for w in (0.0, 1.0)
    )
    assert r2 > 0.5
    assert hidden_r2 < r2 - 0.2
    assert hidden_auc > auc - 0.05
