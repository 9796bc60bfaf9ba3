"""Runs that share a program give, bit for bit, what each of them gives alone."""

import dataclasses
from collections import defaultdict
from functools import partial

import numpy as np
import pytest
import torch
from greenlet import greenlet
from support import DP_SGD, JOINT, NO_PRIVACY, bitwise, plan_of, run_spec, write_csv

from sim.methods.sampling import Sampling
from sim.methods.trainer import expand, lanes_of
from sim.study.lockstep import Shared
from sim.study.runner import execute, execute_together
from sim.study.train import DivergedError, train_run
from sim.tensor.optim import rates_step_as_one
from sim.tensor.trainer import Trainer

torch.set_num_threads(1)
SIZES = (7, 23, 40, 64)
METHODS = [
    ("centralised", None),
    ("local", None),
    ("fedavg", None),
    ("fedprox", None),
    *(
        (name, cut)
        for name in ("split", "splitfed-v1", "splitfed-v2", "splitfed-v3")
        for cut in ("vanilla", "u-shaped")
    ),
]
PRIVACY = {"none": NO_PRIVACY, "dp-sgd": DP_SGD}
SMASHED_NOISE = {
    "mechanism": "smashed-noise",
    "noise-multiplier": 0.7,
    "smashed-clip": 1.0,
    "tail-clip": 0.1,
    "delta": 1e-3,
}
CASES = [
    *((name, cut, privacy, {}) for name, cut in METHODS for privacy in PRIVACY.values()),
    *((name, "u-shaped", JOINT, {}) for name in ("split", "splitfed-v1")),
    ("splitfed-v2", "vanilla", {"mechanism": "label-rr", "label-epsilon": 2.0}, {}),
    ("split", "vanilla", NO_PRIVACY, {"smashed_dtype": "bfloat16"}),
    ("splitfed-v1", "vanilla", NO_PRIVACY, {"smashed_dtype": "int8"}),
    ("splitfed-v1", "vanilla", NO_PRIVACY, {"optimizer": "adam"}),
    ("splitfed-v2", "u-shaped", DP_SGD, {"optimizer": "momentum"}),
    ("fedavg", None, NO_PRIVACY, {"optimizer": "momentum", "participation": 0.5}),
    ("local", None, NO_PRIVACY, {"optimizer": "adam", "weight_decay": 0.1}),
    ("splitfed-v2", "vanilla", DP_SGD, {"weight_decay": 0.1}),
]


class Noted(Shared):
    """Notes which runs ask for what."""

    def __init__(self):
        super().__init__()
        self.asked = defaultdict(set)

    def do(self, work):
        self.asked[work.key].add(greenlet.getcurrent())
        super().do(work)


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("lanes") / "clinics.csv", SIZES)


def planned(csv, name, cut, privacy, train, count=3):
    """Return runs that differ in seed, rate, clip and noise."""
    plans = []
    for number in range(count):
        own = {"noise-multiplier": 0.5 + number, "clip": 0.3 * (number + 1)} if privacy in (DP_SGD, JOINT) else {}
        rates = {"learning_rate": 0.1 / (number + 1)}
        if train.get("optimizer") == "momentum":
            rates["momentum"] = 0.9 - 0.2 * number
        if "weight_decay" in train:
            rates |= {"weight_decay": 0.2 * number, "schedule": ("constant", "cosine", "warm-up")[number]}
        plans.append(plan_of(run_spec(csv, name, cut, privacy | own, seed=5 + number // 2, **{**train, **rates})))
    return plans


def together(planned_runs, shared):
    """Train runs in lockstep; return what came of them, in order."""

    def one(number, plan, federation):
        return number, train_run(plan, federation, program=shared)

    runs = [partial(one, number, *each) for number, each in enumerate(planned_runs)]
    return [trained for _, trained in sorted(shared.run(runs), key=lambda found: found[0])]


@pytest.mark.parametrize(("name", "cut", "privacy", "train"), CASES)
def test_runs_in_lockstep_are_bit_for_bit_what_they_are_alone(csv, name, cut, privacy, train):
    plans, shared = planned(csv, name, cut, privacy, train), Noted()
    for (plan, federation), found in zip(plans, together(plans, shared), strict=True):
        alone = train_run(plan, federation)
        assert bitwise(found.parameters, alone.parameters)
        assert found.evaluations == alone.evaluations
        assert found.trail.entries == alone.trail.entries
    assert {len(runs) for runs in shared.asked.values()} == {len(plans)}


@pytest.mark.parametrize(("name", "cut"), [("fedavg", None), ("split", "u-shaped"), ("splitfed-v1", "vanilla")])
def test_batches_of_many_widths_round_as_they_do_alone(csv, name, cut):
    class Narrow(Sampling):
        def width(self, rows, most):
            return np.maximum(1, -(-rows // 3)) * 3

    plans = []
    for plan, federation in planned(csv, name, cut, DP_SGD, {}):
        job = dataclasses.replace(plan.job, sampling=Narrow(**vars(plan.job.sampling)))
        plans.append((dataclasses.replace(plan, job=job), federation))
    for (plan, federation), found in zip(plans, together(plans, Shared()), strict=True):
        assert bitwise(found.parameters, train_run(plan, federation).parameters)


def test_a_logistic_model_with_one_output_is_the_same_beside_others(csv):
    """A single lane with a single output takes another way through linear algebra, the sigmoid's last values too."""
    plans = [
        plan_of(run_spec(csv, "centralised", model={"name": "logistic"}, learning_rate=0.1 / (1 + number)))
        for number in range(9)
    ]
    for (plan, federation), trained in zip(plans, together(plans, Shared()), strict=True):
        assert bitwise(trained.parameters, train_run(plan, federation).parameters)


@pytest.mark.parametrize(
    ("name", "cut", "privacy", "train"),
    [
        *((name, cut, privacy, {}) for name, cut in METHODS if cut for privacy in (NO_PRIVACY, DP_SGD, JOINT)),
        ("split", "u-shaped", NO_PRIVACY, {"smashed_dtype": "float16"}),
        ("splitfed-v1", "u-shaped", NO_PRIVACY, {"smashed_dtype": "int8"}),
        ("splitfed-v1", "u-shaped", JOINT, {"smashed_dtype": "int8", "smashed_top_k": 0.4}),
        ("split", "u-shaped", NO_PRIVACY, {"smashed_top_k": 0.4}),
        ("splitfed-v2", "vanilla", {"mechanism": "label-rr", "label-epsilon": 2.0}, {}),
        (
            "splitfed-v1",
            "u-shaped",
            {
                "mechanism": "smashed-noise",
                "noise-multiplier": 0.7,
                "smashed-clip": 1.0,
                "tail-clip": 0.1,
                "delta": 1e-3,
            },
            {},
        ),
    ],
)
def test_a_turn_without_messages_is_the_turn_with_them(csv, name, cut, privacy, train):
    """In parameters bit for bit, in bytes, in noised steps and in the log of what was released."""
    plan, federation = plan_of(run_spec(csv, name, cut, privacy, **train))
    short, long = (train_run(plan, federation, shortcut=shortcut) for shortcut in (True, False))
    assert bitwise(short.parameters, long.parameters)
    assert short.trail.entries == long.trail.entries
    assert short.meter.traffic.keys() == long.meter.traffic.keys()
    for kind, sizes in short.meter.traffic.items():
        np.testing.assert_array_equal(sizes, long.meter.traffic[kind])


@pytest.mark.parametrize("alternate", ["clinic", "mini-batch"])
@pytest.mark.parametrize("name", ["split", "splitfed-v2"])
def test_clinics_that_alternate_by_mini_batch_need_no_messages_either(csv, name, alternate):
    spec = run_spec(csv, name, "u-shaped", DP_SGD)
    spec = spec.model_copy(update={"strategy": spec.strategy.model_copy(update={"alternate": alternate})})
    plan, federation = plan_of(spec)
    short, long = (train_run(plan, federation, shortcut=shortcut) for shortcut in (True, False))
    assert bitwise(short.parameters, long.parameters)
    assert short.trail.entries == long.trail.entries


def test_a_run_that_diverges_does_not_disturb_the_others(csv, tmp_path):
    rates = (0.1, 1e6, 0.05)
    plans = [plan_of(run_spec(csv, "split", "vanilla", learning_rate=rate))[0] for rate in rates]
    rows = {row["run_id"]: row for row in execute_together(plans, tmp_path / "together", {})}
    found = [rows[plan.spec.run_id] for plan in plans]
    assert [row["status"] for row in found] == ["ok", "failed", "ok"]
    assert DivergedError.__name__ in found[1]["error"]
    for number in (0, 2):
        alone = execute(plans[number], tmp_path / "alone", {})
        assert found[number] | {"wall_seconds": 0} == alone | {"wall_seconds": 0}


def test_work_that_fails_beside_others_is_done_again_alone(csv):
    """Whose fault it was cannot be seen from outside; nothing of it is done, so that each can do its own."""
    plans, shared = planned(csv, "fedavg", None, NO_PRIVACY, {}), Shared()
    federation = plans[1][1]
    broken = dataclasses.replace(federation.train, x=federation.train.x[:, :2].copy())
    plans[1] = plans[1][0], dataclasses.replace(federation, train=broken)

    def one(plan, federation):
        try:
            return train_run(plan, federation, program=shared)
        except Exception as error:
            return error

    found = list(shared.run([partial(one, *each) for each in plans]))
    assert sum(isinstance(each, Exception) for each in found) == 1
    sound = [each for each in found if not isinstance(each, Exception)]
    for plan, federation in (plans[0], plans[2]):
        assert any(bitwise(each.parameters, train_run(plan, federation).parameters) for each in sound)


@pytest.mark.parametrize("field", ["key", "rate", "clip", "noise_std", "clinic"])
def test_a_program_that_takes_the_first_lanes_settings_for_all_is_caught(csv, field, monkeypatch):
    plans = planned(csv, "splitfed-v1", "vanilla", DP_SGD, {})
    expected = [train_run(*each).parameters for each in plans]
    joined = Trainer.joined.__func__

    def alike(cls, trainers, places):
        trainer = joined(cls, trainers, places)
        first = getattr(trainer.lanes[0], field)
        return trainer._of(
            [dataclasses.replace(lane, **{field: first}) for lane in trainer.lanes],
            trainer._values,
            trainer.noised_steps,
        )

    monkeypatch.setattr(Trainer, "joined", classmethod(alike))
    found = [trained.parameters for trained in together(plans, Shared())]
    assert not all(bitwise(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("as_one", [False, True])
def test_lanes_that_differ_in_rate_step_as_each_does_alone(csv, as_one, monkeypatch):
    if as_one and not rates_step_as_one():
        pytest.skip("this processor's additions round otherwise")
    monkeypatch.setattr("sim.tensor.trainer.rates_step_as_one", lambda: as_one)
    plans = planned(csv, "splitfed-v2", "vanilla", DP_SGD, {})
    expected = [train_run(*each).parameters for each in plans]
    found = [trained.parameters for trained in together(plans, Shared())]
    assert all(bitwise(a, b) for a, b in zip(found, expected, strict=True))


def test_lanes_with_a_clip_and_lanes_without_one_do_not_train_together(csv):
    [(plan, _)] = planned(csv, "fedavg", None, DP_SGD, {}, count=1)
    lanes = lanes_of(plan.job, plan.job.network.whole, [0, 1])
    lanes[1] = dataclasses.replace(lanes[1], clip=None)
    values = expand(plan.job.network.initial_parameters(0), 2)
    with pytest.raises(ValueError, match="lanes with a clip and lanes without one cannot train together"):
        Trainer(plan.job.network.whole, lanes, values, plan.job.optimizer, noise=plan.job.dp.mechanism.add_noise)
