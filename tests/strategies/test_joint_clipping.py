"""DP-SGD that clips head, body and tail by their joint norm: what crosses, and who sees the norms.

That it equals clipping record by record over the whole network stands in the battery, for every strategy and cut.
"""

import math

import numpy as np
import pytest
import torch
from support import BUILT_IN, DP_SGD, JOINT, bitwise, distance, plan_of, run_spec, train_spec, write_csv

from sim.foundation.problems import ScenarioError
from sim.plan.releases import un_noised
from sim.study.train import train_run

CUT = pytest.mark.parametrize(
    ("strategy", "cut"),
    [(name, cut) for name in ("splitfed-v1", "splitfed-v2", "splitfed-v3", "split") for cut in ("vanilla", "u-shaped")],
)
WHOLE = pytest.mark.parametrize(("strategy", "cut"), BUILT_IN[:3])


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("joint") / "clinics.csv")


@CUT
def test_the_guarantee_is_that_of_per_part_clipping_but_the_server_sees_norms(csv, strategy, cut):
    plans = [plan_of(run_spec(csv, strategy, cut, privacy))[0] for privacy in (JOINT, DP_SGD)]
    joint, apart = plans
    for adversary in ("model-user", "peer-clinic"):
        for ours, theirs in zip(joint.clinics, apart.clinics, strict=True):
            assert ours.epsilon[adversary] == pytest.approx(theirs.epsilon[adversary], rel=1e-9)
    assert joint.columns()["epsilon_server"] == math.inf
    assert any("norms of records' gradients" in reason for reason in un_noised(joint.ledger, "server"))
    assert not any("norms" in reason for reason in un_noised(apart.ledger, "server"))


@pytest.mark.usefixtures("one_key")
@CUT
def test_four_bytes_a_record_and_direction_and_one_more_exchange_a_batch(csv, strategy, cut):
    joint, federation = plan_of(run_spec(csv, strategy, cut, JOINT))
    apart, _ = plan_of(run_spec(csv, strategy, cut, DP_SGD))
    train_run(joint, federation)  # holds counted bytes, noised steps and releases against the plan
    rows = apart.traffic["up", "smashed"] // (4 * 6)
    for way, kind in (("up", "norms"), ("down", "clip-factors")):
        np.testing.assert_array_equal(joint.traffic[way, kind], 4 * rows)
        more = joint.traffic[way, "headers"] - apart.traffic[way, "headers"]
        np.testing.assert_array_equal(more, 512 * np.array(joint.sampled.steps))
    assert sum(joint.round_seconds) > sum(apart.round_seconds)


@CUT
def test_node_groups_agree(csv, strategy, cut):
    plan, federation = plan_of(run_spec(csv, strategy, cut, JOINT))
    one, three = train_run(plan, federation), train_run(plan, federation, node_groups=3)
    assert distance(one.parameters, three.parameters) < 1e-4


@pytest.mark.usefixtures("one_key")
@WHOLE
def test_a_network_in_one_piece_is_clipped_jointly_as_it_is(csv, strategy, cut):
    assert bitwise(*(train_spec(run_spec(csv, strategy, cut, p)).parameters for p in (JOINT, DP_SGD)))


@pytest.mark.usefixtures("one_key")
@pytest.mark.parametrize("cut", ["vanilla", "u-shaped"])
def test_each_record_is_clipped_as_in_a_network_in_one_piece(csv, cut):
    """Without noise, SplitFed V1 with joint clipping is federated averaging with the same clip."""
    quiet = {"mechanism": "dp-sgd", "noise-multiplier": 0, "clip": 0.05, "delta": 1e-3}
    joint = train_spec(run_spec(csv, "splitfed-v1", cut, {**quiet, "clipping": "joint"})).parameters
    assert distance(joint, train_spec(run_spec(csv, "fedavg", None, quiet)).parameters) < 1e-5


@pytest.mark.parametrize(("cut", "freeze"), [("u-shaped", ["head"]), ("u-shaped", ["tail"]), ("vanilla", ["head"])])
def test_frozen_parts_have_no_gradient_to_clip(csv, cut, freeze):
    frozen = run_spec(csv, "splitfed-v1", cut, JOINT, {"freeze": freeze}, rounds=2)
    plan, federation = plan_of(frozen)
    trained = train_run(plan, federation).parameters
    assert ("up", "norms") not in plan.traffic or cut == "u-shaped"
    start = train_spec(run_spec(csv, "splitfed-v1", cut, JOINT, {"freeze": freeze}, rounds=0)).parameters
    still = [name for name in trained if torch.equal(trained[name], start[name])]
    assert len(still) == 2 * len(freeze)


def test_noise_on_rows_does_not_hide_the_norms(csv):
    both = {**JOINT, "mechanism": ["dp-sgd", "smashed-noise"], "labels": "public"}
    plan, _ = plan_of(run_spec(csv, "split", "u-shaped", {**both, "smashed-noise-multiplier": 9.0}))
    assert plan.columns()["epsilon_server"] == math.inf
    with pytest.raises(ScenarioError, match=r"epsilon-server: no noise on rows reaches 8 .*norms of records"):
        plan_of(run_spec(csv, "split", "u-shaped", {**both, "epsilon-server": 8.0}))


def test_joint_clipping_is_for_gradients(csv):
    with pytest.raises(ScenarioError, match=r"privacy\.clipping: has no effect with"):
        run_spec(csv, "split", "vanilla", {"mechanism": "none", "clipping": "joint"})
