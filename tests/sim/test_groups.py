"""Which runs share a program: those of one shape, as many as time and memory allow."""

import itertools

import pytest
from support import DP_SGD, plan_of, run_spec, write_csv

from sim.study import groups
from sim.study.groups import grouped


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("groups") / "clinics.csv")


def plans(csv, methods=("fedavg",), seeds=(0, 1), rates=(0.1, 0.2), **other):
    return [
        plan_of(run_spec(csv, method, seed=seed, learning_rate=rate, **other))[0]
        for method, seed, rate in itertools.product(methods, seeds, rates)
    ]


def of(found):
    return sorted(sorted({(p.spec.strategy.name, p.rounds, len(g)) for p in g}) for g in found)


def test_runs_that_differ_in_seed_rate_and_noise_alone_share_a_program(csv):
    noisy = [plan_of(run_spec(csv, privacy=DP_SGD | {"clip": clip}))[0] for clip in (0.5, 1.0)]
    found = grouped([*plans(csv, ("fedavg", "local")), *plans(csv, rates=(0.1,), rounds=5), *noisy], 1)
    assert of(found) == [
        [("fedavg", 3, 2)],
        [("fedavg", 3, 4)],
        [("fedavg", 5, 2)],
        [("local", 3, 4)],
    ]


def test_runs_that_differ_in_how_their_rate_goes_share_a_program(csv):
    ways = [{"weight_decay": 0.1, "schedule": "cosine"}, {"schedule": "warm-up"}, {}]
    found = grouped([plan for way in ways for plan in plans(csv, rates=(0.1,), **way)] + plans(csv, rounds=10), 1)
    assert of(found) == [[("fedavg", 3, 6)], [("fedavg", 10, 4)]]


def test_every_run_is_in_one_group_whatever_the_number_of_processes(csv):
    all_of_them = plans(csv, seeds=range(7))
    for jobs in (1, 2, 3, 50):
        found = grouped(all_of_them, jobs)
        assert sorted(p.spec.run_id for g in found for p in g) == sorted(p.spec.run_id for p in all_of_them)
        assert len(found) >= min(jobs, len(all_of_them))


def test_a_group_is_cut_into_what_fits_into_time_and_memory(csv, monkeypatch):
    all_of_them = plans(csv, seeds=range(4))
    assert [len(group) for group in grouped(all_of_them, 1)] == [8]
    assert [len(group) for group in grouped(all_of_them, 3)] == [2, 3, 3]
    monkeypatch.setattr(groups, "MOST_SECONDS", 1e-9)
    assert {len(group) for group in grouped(all_of_them, 1)} == {1}
    monkeypatch.setattr(groups, "MOST_SECONDS", 1e9)
    monkeypatch.setattr(groups, "MEMORY_SHARE", 1e-12)
    assert {len(group) for group in grouped(all_of_them, 1)} == {1}


def test_networks_with_other_layers_train_run_by_run(csv):
    assert plan_of(run_spec(csv))[0].job.dense
    smashed = {"mechanism": "smashed-noise", "noise-multiplier": 2.0, "delta": 1e-3, "labels": "public"}
    noised = [plan_of(run_spec(csv, "split", "vanilla", smashed, {"freeze": ["head"]}, seed=s))[0] for s in (0, 1)]
    assert not noised[0].job.dense
    assert len(grouped(noised, 1)) == 2
