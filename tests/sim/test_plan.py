"""The plan against numbers worked out by hand: traffic, FLOPs, times, noise and epsilon, before any training."""

from collections import Counter

import numpy as np
import pytest
from planned import FIRST, SECOND, SPLIT_AND_WHOLE, dp_sgd, named, spec_of
from support import plan_of, train_spec, write_csv
from torch import nn

from sim.data.facts import run_key
from sim.foundation.rng import stream
from sim.foundation.text import bytes_text
from sim.methods.job import Job
from sim.methods.sampling import participants
from sim.models import Block, Part
from sim.plan.costs import part_costs
from sim.plan.notes import memory_warnings
from sim.scenario.study import ClinicGroup


def by_clinic(plan):
    """Return the plan's bytes as lists, by direction and kind."""
    return {key: sizes.tolist() for key, sizes in plan.traffic.items()}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Clinics of 8 and 12 records, of which 4 and 6 are for training: 1 and 2 batches of up to 4."""
    return write_csv(tmp_path_factory.mktemp("pair") / "pair.csv", sizes=(8, 12), features=3)


TRAFFIC = {
    ("fedavg", None): {
        ("down", "model"): [136, 136],  # 2 rounds x 17 parameters x 4 bytes
        ("up", "model"): [136, 136],
        ("down", "headers"): [1024, 1024],  # 2 rounds x 1 message x 512 bytes
        ("up", "headers"): [1024, 1024],
    },
    ("splitfed-v1", "vanilla"): {
        ("down", "model"): [64, 64],  # 2 rounds x 8 parameters of the head x 4 bytes
        ("up", "model"): [64, 64],
        ("up", "smashed"): [64, 96],  # 2 rounds x 4 (6) records x 2 values x 4 bytes
        ("up", "labels"): [8, 12],  # 2 rounds x 4 (6) records x 1 byte
        ("down", "cut-gradient"): [64, 96],
        ("down", "headers"): [2048, 3072],  # 2 rounds x (1 or 2 batches + the model) x 512 bytes
        ("up", "headers"): [2048, 3072],
    },
    ("splitfed-v1", "u-shaped"): {
        ("down", "model"): [88, 88],  # 2 rounds x (8 + 3) parameters of head and tail x 4 bytes
        ("up", "model"): [88, 88],
        ("up", "smashed"): [64, 96],
        ("down", "body-output"): [64, 96],
        ("up", "tail-gradient"): [64, 96],
        ("down", "cut-gradient"): [64, 96],
        ("down", "headers"): [3072, 5120],  # 2 rounds x (2 a batch + the model) x 512 bytes
        ("up", "headers"): [3072, 5120],
    },
    ("centralised", None): {
        ("up", "records"): [48, 72],  # once, 4 (6) records x 3 features x 4 bytes
        ("up", "labels"): [4, 6],
        ("up", "headers"): [512, 512],
    },
    ("local", None): {},
}


@pytest.mark.parametrize("method", TRAFFIC, ids=named)
def test_traffic_by_hand(pair, method):
    plan, _ = plan_of(spec_of(pair, *method, clinics=(FIRST, SECOND)))
    assert by_clinic(plan) == TRAFFIC[method]
    up, down = (
        [sum(sizes[k] for (way, _), sizes in TRAFFIC[method].items() if way == direction) for k in (0, 1)]
        for direction in ("up", "down")
    )
    assert [(c.name, c.records, c.bytes_up, c.bytes_down) for c in plan.clinics] == [
        ("k0", 4, up[0], down[0]),
        ("k1", 6, up[1], down[1]),
    ]
    columns = plan.columns()
    assert (columns["bytes_up"], columns["bytes_down"]) == (sum(up), sum(down))


# By method: FLOPs at the clinics and at the server in both rounds, and the seconds of each round. A round is the
# slower clinic's download + clinic + upload + server, and then the server's common work.
FLOPS_AND_TIMES = {
    # (k0) 1 + 580/2000 + 4 x 60/100 + 1 + 580/1000 = 5.27; (k1) .529 + 7.2 + .558 = 8.287; averaging 2 x 17 x 2 FLOP
    ("fedavg", None): (1200, 136, [8.355, 8.355]),
    # (k0) 2 + 1088/2000 + 4 x 24/100 + 2 + 1092/1000 + 4 x 36/1000 = 6.74; (k1) 1.5808 + 2.88 + 1.6622 + .216 = 6.339
    ("splitfed-v1", "vanilla"): (480, 856, [6.808, 6.808]),
    # (k0) 3 + 1644/2000 + 4 x 36/100 + 3 + 1644/1000 + 4 x 24/1000 = 10.002; (k1) 2.635 + 4.32 + 2.77 + .144 = 9.869
    ("splitfed-v1", "u-shaped"): (720, 616, [10.07, 10.07]),
    # the upload, once: (k0) 1 + 564/1000, (k1) .5 + 590/10000; 10 records x 60 FLOP at the server in every round
    ("centralised", None): (0, 1200, [2.164, 0.6]),
    # (k0) 4 x 60/100, (k1) 6 x 60/50
    ("local", None): (1200, 0, [7.2, 7.2]),
}


@pytest.mark.parametrize("method", FLOPS_AND_TIMES, ids=named)
def test_flops_and_closed_form_times_by_hand(pair, method):
    clinic_flops, server_flops, seconds = FLOPS_AND_TIMES[method]
    plan, _ = plan_of(spec_of(pair, *method, clinics=(FIRST, SECOND)))
    assert (plan.clinic_flops, plan.server_flops) == (clinic_flops, server_flops)
    assert plan.round_seconds == pytest.approx(seconds, rel=1e-9)
    assert plan.columns()["sim_seconds"] == pytest.approx(sum(seconds), rel=1e-9)


# One clinic, k0: the times above without k1, and with half the averaging.
ONE_CLINIC = {
    ("fedavg", None): ([5.304, 5.304], 10.54),
    ("splitfed-v1", "vanilla"): ([6.774, 6.774], 13.48),
    ("splitfed-v1", "u-shaped"): ([10.036, 10.036], 20.004),
    ("centralised", None): ([1.564 + 0.24, 0.24], 1.564),
    ("local", None): ([2.4, 2.4], 4.8),
}


@pytest.mark.parametrize("method", ONE_CLINIC, ids=named)
def test_one_clinic_by_hand(pair, method):
    seconds, busy = ONE_CLINIC[method]
    plan, _ = plan_of(spec_of(pair, *method, clinics=(FIRST,), sites=["k0"]))
    assert plan.round_seconds == pytest.approx(seconds, rel=1e-9)
    [clinic] = plan.clinics
    assert clinic.seconds == pytest.approx(busy, rel=1e-9)
    assert by_clinic(plan) == {key: sizes[:1] for key, sizes in TRAFFIC[method].items()}


def test_phases_and_clinic_seconds_by_hand(pair):
    plan, _ = plan_of(spec_of(pair, "splitfed-v1", "vanilla", clinics=(FIRST, SECOND)))
    assert plan.phase_seconds == pytest.approx(
        {
            "download": 2 * (2.544 + 1.5808),
            "clinic": 2 * (0.96 + 2.88),
            "upload": 2 * (3.092 + 1.6622),
            "server": 2 * (0.144 + 0.216),
            "waiting": 0,
        }
    )
    assert [clinic.seconds for clinic in plan.clinics] == pytest.approx([13.48, 12.678])


def test_without_rounds_nothing_happens(pair):
    for method in TRAFFIC:
        plan, _ = plan_of(spec_of(pair, *method, rounds=0, privacy=dp_sgd(1.0)))
        columns = plan.columns()
        spent = ("sim_seconds", "bytes_up", "bytes_down", "clinic_flops", "epsilon_model_user", "epsilon_peer")
        assert [columns[name] for name in spent] == [0] * len(spent), method


def test_local_epochs_repeat_batches_but_not_the_model(pair):
    once, twice = (plan_of(spec_of(pair, "splitfed-v1", "vanilla", **{"local-epochs": epochs}))[0] for epochs in (1, 2))
    assert [clinic.steps for clinic in once.clinics] == [2, 4]
    assert [clinic.steps for clinic in twice.clinics] == [4, 8]
    for key, sizes in by_clinic(twice).items():
        if key[1] == "headers":
            assert sizes == [512 * 2 * 3, 512 * 2 * 5]
        else:
            assert sizes == [(1 if key[1] == "model" else 2) * size for size in by_clinic(once)[key]]


def test_flops_of_a_linear_layer():
    first, second = Block("first", nn.Linear(5, 3)), Block("second", nn.Linear(3, 7))
    costs = part_costs((Part("head", (first,)), Part("body", (second,))), (5,))
    head, body = costs["head"], costs["body"]
    assert (head.forward_flops, head.backward_flops) == (2 * 5 * 3, 2 * 5 * 3)  # no gradient in the records
    assert (body.forward_flops, body.backward_flops) == (2 * 3 * 7, 4 * 3 * 7)
    assert (head.parameters, body.parameters) == (5 * 3 + 3, 3 * 7 + 7)
    assert (head.output_shape, body.output_shape) == ((3,), (7,))
    assert (head.output_bytes, body.output_bytes) == (12, 28)


def test_memory_holds_the_optimisers_state_and_only_the_clinics_parts(pair):
    peak = {
        optimizer: plan_of(spec_of(pair, "fedavg", optimizer=optimizer))[0].peak_clinic_bytes
        for optimizer in ("sgd", "momentum", "adam")
    }
    assert peak["momentum"] - peak["sgd"] == 17 * 4
    assert peak["adam"] - peak["sgd"] == 2 * 17 * 4
    head = plan_of(spec_of(pair, "splitfed-v1", "vanilla"))[0].peak_clinic_bytes
    assert 2 * 8 * 4 < head < peak["sgd"] - 2 * 9 * 4 + 1
    wider = plan_of(spec_of(pair, "fedavg", **{"batch-size": 6}))[0].peak_clinic_bytes
    assert wider > peak["sgd"]  # the larger clinic's batch of 6 instead of 4


@pytest.mark.parametrize("method", [*SPLIT_AND_WHOLE, ("local", None), ("centralised", None)], ids=named)
def test_under_poisson_sampling_the_plan_draws_what_training_draws(ragged, method):
    spec = spec_of(ragged, *method, privacy={"mechanism": "dp-sgd", "noise-multiplier": 1.0, "delta": 1e-3})
    plan, _ = plan_of(spec)
    trained = train_spec(spec)
    assert by_clinic(plan) == {key: sizes.tolist() for key, sizes in trained.meter.traffic.items()}
    assert {part: list(steps) for part, steps in plan.noised_steps.items()} == {
        part: steps.tolist() for part, steps in trained.meter.noised_steps.items()
    }


def test_poisson_rows_by_hand(ragged):
    spec = spec_of(ragged, "splitfed-v1", "vanilla", privacy=dp_sgd(1.0), rounds=3)
    plan, federation = plan_of(spec)
    key = run_key(spec.digest, federation.facts)
    records = [clinic.records for clinic in plan.clinics]
    rows = [
        sum(
            int((stream(key, "batches", clinic=k, server_round=r).random((-(-n // 4), n)) < min(1, 4 / n)).sum())
            for r in (1, 2, 3)
        )
        for k, n in enumerate(records)
    ]
    assert rows != [3 * n for n in records]  # an epoch of shuffled batches would hold every record once
    assert plan.traffic["up", "labels"].tolist() == rows
    assert plan.traffic["up", "smashed"].tolist() == [8 * n for n in rows]


def test_participation_decides_each_clinics_steps(ragged):
    target, rounds, share = 2.0, 6, 0.5
    spec = spec_of(ragged, "fedavg", privacy=dp_sgd(target), rounds=rounds, participation=share, seed=2)
    plan, _ = plan_of(spec)
    present = Counter(k for r in range(1, rounds + 1) for k in participants(2, r, 4, share).tolist())
    assert sum(present.values()) == 2 * rounds  # half of four clinics in each round
    assert len({present[k] for k in range(4)}) > 1  # the seed is one that treats the clinics differently
    assert [clinic.steps for clinic in plan.clinics] == [present[k] * steps for k, steps in enumerate((1, 3, 5, 8))]
    model = 4 * (4 * 2 + 2 + 2 * 2 + 2 + 2 + 1)  # four features here
    assert plan.traffic["up", "model"].tolist() == [present[k] * model for k in range(4)]
    always, _ = plan_of(spec_of(ragged, "fedavg", privacy=dp_sgd(target), rounds=rounds, seed=2))
    for k, (clinic, same) in enumerate(zip(plan.clinics, always.clinics, strict=True)):
        assert present[k] == rounds or clinic.noise_multiplier < same.noise_multiplier  # fewer steps need less noise
        assert 0.98 * target < clinic.epsilon["server"] <= target


@pytest.mark.usefixtures("one_key")
def test_the_plan_looks_at_counts_only(pair, tmp_path):
    """Other feature values and other labels, equally many of each class: the same plan."""
    header, *rows = pair.read_text(encoding="utf-8").splitlines()
    rng = np.random.default_rng(0)
    cells = [row.split(",") for row in rows]
    swapped = {"class0": "class1", "class1": "class0"}
    other = [[k, swapped[label], *(f"{v:.4f}" for v in rng.normal(size=len(x)))] for k, label, *x in cells]
    path = tmp_path / "other.csv"
    path.write_text("\n".join([header, *map(",".join, other)]) + "\n", encoding="utf-8")
    plans = [plan_of(spec_of(csv, "splitfed-v1", "vanilla", privacy=dp_sgd(1.0)))[0] for csv in (pair, path)]
    assert plans[0].clinics == plans[1].clinics
    assert by_clinic(plans[0]) == by_clinic(plans[1])
    assert plans[0].round_seconds == plans[1].round_seconds


def test_effort_of_each_clinic_by_hand(pair):
    """FedAvg, one round: the flops of a record times its records; busy power while it computes, idle on the line."""
    board = ClinicGroup(profile="rural-dsl", compute="small-board")
    spec = spec_of(pair, "fedavg", rounds=1)
    plan, federation = plan_of(spec.model_copy(update={"clinics": (board,)}))
    job = Job.build(spec, federation.facts)
    [cost] = part_costs(job.parts, job.network.input_shape).values()
    sizes = np.diff(federation.train.offsets)
    for clinic, records in zip(plan.clinics, sizes, strict=True):
        assert clinic.flops == records * (cost.forward_flops + cost.backward_flops)
        computing = clinic.flops / 10e9
        assert clinic.joules == pytest.approx(6.4 * computing + 3 * (clinic.seconds - computing), rel=1e-9)
        assert clinic.memory_bytes == 4e9
    assert sum(clinic.flops for clinic in plan.clinics) == plan.clinic_flops
    assert max(clinic.peak_bytes for clinic in plan.clinics) == plan.peak_clinic_bytes
    assert memory_warnings([plan]) == []
    small = ClinicGroup(profile="rural-dsl", memory="100 B")
    short, _ = plan_of(spec.model_copy(update={"clinics": (small,)}))
    [line] = memory_warnings([short, short])
    assert line.startswith(f"memory: FedAvg needs {bytes_text(short.peak_clinic_bytes)} at ")
    assert "(and 1 more), which has 100 B;" in line
