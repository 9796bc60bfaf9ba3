"""Every strategy against an oracle: a slow twin in plain PyTorch, another strategy that must agree, or Flower's own."""

import random

import numpy as np
import pytest
import torch
import twins
from split_twins import rounding
from support import (
    BUILT_IN,
    DP_SGD,
    JOINT,
    NO_PRIVACY,
    bitwise,
    distance,
    plan_of,
    run_spec,
    train_spec,
    with_noise_by,
    write_csv,
)
from wire import travelling

from sim.foundation.problems import ScenarioError
from sim.methods.node_group import NodeGroup
from sim.methods.trainer import BLOCK, LocalTraining, expand, trainer_for
from sim.study.train import train_run
from sim.tensor.program import Alone

OPTIMIZERS = ("sgd", "momentum", "adam")
SPLIT = ("vanilla", "u-shaped")
TWINS = {"centralised": twins.centralised, "local": twins.local}
DP_WITHOUT_NOISE = {"mechanism": "dp-sgd", "noise-multiplier": 0, "clip": float("inf"), "delta": 1e-3}
RATE = {"sgd": 0.1, "momentum": 0.03, "adam": 0.02}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("alone") / "one.csv", [61])


@pytest.fixture(scope="module")
def three_classes(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("classes") / "three.csv", [40, 25, 33], classes=3)


def by_twin(spec, plan, federation, twin_of=None):
    """Return the twin's parameters, with a leading axis as the simulator has it."""
    twin = twin_of or TWINS.get(spec.strategy.name, twins.fedavg)
    state = twin(twins.Twin(spec, federation, plan.noise_multipliers))
    return state if spec.strategy.name == "local" else {name: value[None] for name, value in state.items()}


def assert_equals_twin(spec, tolerance=None, twin_of=None, node_groups=1):
    plan, federation = plan_of(spec)
    trained = train_run(plan, federation, node_groups).parameters
    initial = {name: value[None] for name, value in twins.Twin(spec, federation).initial().items()}
    moved = {name: value[:1] for name, value in trained.items()}
    assert spec.train.rounds == 0 or distance(moved, initial) > 1e-2, "the run did not train; the test would be blind"
    assert distance(trained, by_twin(spec, plan, federation, twin_of)) < (tolerance or rounding(spec))


# The strategies among themselves


@pytest.mark.parametrize("cut", SPLIT)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("participation", [1.0, 0.6])
def test_splitfed_v1_is_fedavg_bit_for_bit(ragged, optimizer, cut, participation):
    train = {"optimizer": optimizer, "local_epochs": 2, "participation": participation, "learning_rate": 0.02}
    fedavg = train_spec(run_spec(ragged, "fedavg", **train))
    assert bitwise(train_spec(run_spec(ragged, "splitfed-v1", cut, **train)).parameters, fedavg.parameters)


@pytest.mark.parametrize("cut", SPLIT)
def test_splitfed_v1_is_fedavg_bit_for_bit_with_three_classes(three_classes, cut):
    fedavg = train_spec(run_spec(three_classes, "fedavg"))
    assert bitwise(train_spec(run_spec(three_classes, "splitfed-v1", cut)).parameters, fedavg.parameters)


@pytest.mark.parametrize(("optimizer", "rounds"), [("sgd", 4), ("momentum", 1), ("adam", 1)])
@pytest.mark.parametrize(
    ("strategy", "cut"), [("splitfed-v1", "vanilla"), ("splitfed-v1", "u-shaped"), ("fedavg", None)]
)
def test_with_one_clinic_split_and_federated_are_centralised_bit_for_bit(alone, strategy, cut, optimizer, rounds):
    """With momentum or Adam only for one round: V1 and FedAvg begin each round with a fresh optimiser."""
    train = {"optimizer": optimizer, "rounds": rounds, "local_epochs": 2}
    centralised = train_spec(run_spec(alone, "centralised", **train))
    assert bitwise(train_spec(run_spec(alone, strategy, cut, **train)).parameters, centralised.parameters)


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_over_several_rounds_only_centralised_carries_the_optimiser(alone, optimizer):
    train = {"optimizer": optimizer, "rounds": 3}
    centralised, fedavg = (train_spec(run_spec(alone, name, **train)).parameters for name in ("centralised", "fedavg"))
    assert distance(fedavg, centralised) > 1e-3


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_with_one_clinic_local_is_centralised_bit_for_bit(alone, optimizer):
    train = {"optimizer": optimizer, "rounds": 3}
    centralised = train_spec(run_spec(alone, "centralised", **train))
    assert bitwise(train_spec(run_spec(alone, "local", **train)).parameters, centralised.parameters)


@pytest.mark.parametrize(("strategy", "cut"), BUILT_IN[2:])
def test_one_local_step_a_round_is_one_step_on_the_pooled_records(ragged, strategy, cut):
    train = {"batch_size": 1000, "rounds": 3, "learning_rate": 0.3}
    pooled = train_spec(run_spec(ragged, "centralised", **train))
    assert distance(train_spec(run_spec(ragged, strategy, cut, **train)).parameters, pooled.parameters) < 1e-6


# Plain PyTorch


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("strategy", "cut"), BUILT_IN)
def test_every_strategy_equals_its_plain_twin(ragged, strategy, cut, optimizer):
    """Ragged clinics, one smaller than a batch; local and centralised carry the optimiser from round to round."""
    spec = run_spec(ragged, strategy, cut, optimizer=optimizer, local_epochs=2, learning_rate=RATE[optimizer])
    assert_equals_twin(spec)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", ["cosine", "warm-up"])
@pytest.mark.parametrize(("strategy", "cut"), BUILT_IN)
def test_weight_decay_and_schedules_are_those_of_torch(ragged, strategy, cut, optimizer, schedule):
    """Everywhere: at clinics, in the server's body, and in optimisers that are carried on or handed on."""
    rate = {"learning_rate": 2 * RATE[optimizer], "weight_decay": 0.05, "schedule": schedule, "rounds": 7}
    assert_equals_twin(run_spec(ragged, strategy, cut, optimizer=optimizer, **rate))


@pytest.mark.parametrize(("strategy", "cut"), BUILT_IN)
def test_weight_decay_is_added_behind_clipping_and_noise(ragged, strategy, cut):
    assert_equals_twin(run_spec(ragged, strategy, cut, DP_SGD, weight_decay=0.3))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("cut", SPLIT)
def test_splitfed_v1_equals_a_loop_that_really_cuts_the_network(ragged, cut, optimizer):
    spec = run_spec(ragged, "splitfed-v1", cut, optimizer=optimizer, learning_rate=RATE[optimizer])
    assert_equals_twin(spec, twin_of=twins.splitfed_v1)


@pytest.mark.parametrize(("strategy", "cut"), BUILT_IN[2:])
@pytest.mark.parametrize("participation", [0.01, 0.5, 0.75])
def test_with_some_clinics_only(ragged, strategy, cut, participation):
    assert_equals_twin(run_spec(ragged, strategy, cut, participation=participation, rounds=4))


@pytest.mark.parametrize(("strategy", "cut"), BUILT_IN)
@pytest.mark.parametrize("batch_size", [1, 30, 500])
def test_batches_smaller_and_larger_than_the_clinics(ragged, strategy, cut, batch_size):
    assert_equals_twin(run_spec(ragged, strategy, cut, batch_size=batch_size, learning_rate=0.05))


@pytest.mark.parametrize(("strategy", "cut"), BUILT_IN)
def test_three_classes(three_classes, strategy, cut):
    assert_equals_twin(run_spec(three_classes, strategy, cut))


@pytest.mark.parametrize(("strategy", "cut"), BUILT_IN[:4])
def test_a_softmax_head_for_two_classes_and_another_cut(ragged, strategy, cut):
    assert_equals_twin(run_spec(ragged, strategy, cut, model={"head": "softmax", "cut": 2}))


@pytest.mark.parametrize(("strategy", "cut"), BUILT_IN)
@pytest.mark.parametrize("privacy", [NO_PRIVACY, DP_SGD], ids=["plain", "dp-sgd"])
def test_without_rounds_the_model_stays_as_it_was(ragged, strategy, cut, privacy):
    spec = run_spec(ragged, strategy, cut, privacy, rounds=0)
    plan, federation = plan_of(spec)
    trained = train_run(plan, federation)
    initial = twins.Twin(spec, federation).initial()
    assert bitwise(trained.parameters, {name: value[None] for name, value in initial.items()})
    assert len(trained.evaluations) == 1
    assert not trained.meter.traffic
    assert not trained.meter.noised_steps


def test_more_classes_than_a_byte_can_name_are_refused_or_arrive(tmp_path):
    csv = write_csv(tmp_path / "many.csv", [1000], classes=260)
    try:
        vanilla = train_spec(run_spec(csv, "splitfed-v1", "vanilla", rounds=1)).parameters
    except ScenarioError:
        return
    assert bitwise(vanilla, train_spec(run_spec(csv, "fedavg", rounds=1)).parameters)


# DP-SGD


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("strategy", "cut"), BUILT_IN)
def test_dp_sgd_equals_record_by_record_clipping_with_noise_in_every_part(ragged, strategy, cut, optimizer):
    spec = run_spec(ragged, strategy, cut, DP_SGD, optimizer=optimizer, learning_rate=RATE[optimizer])
    assert_equals_twin(spec)


@pytest.mark.parametrize(("strategy", "cut"), BUILT_IN)
def test_dp_sgd_with_batches_that_may_be_empty(ragged, strategy, cut):
    """An empty Poisson batch is a step all the same: nothing but noise."""
    assert_equals_twin(
        run_spec(ragged, strategy, cut, DP_SGD, batch_size=1, rounds=2, learning_rate=0.05), tolerance=1e-3
    )


@pytest.mark.parametrize(("strategy", "cut"), BUILT_IN[2:])
def test_dp_sgd_with_some_clinics_only(ragged, strategy, cut):
    assert_equals_twin(run_spec(ragged, strategy, cut, DP_SGD, participation=0.5, rounds=4))


@pytest.mark.parametrize(("strategy", "cut"), BUILT_IN)
def test_dp_sgd_without_clip_and_noise_is_plain_training_on_the_poisson_batches(ragged, strategy, cut):
    assert_equals_twin(run_spec(ragged, strategy, cut, DP_WITHOUT_NOISE, local_epochs=2))


@pytest.mark.parametrize(("strategy", "cut"), BUILT_IN)
def test_weight_decay_is_neither_clipped_nor_counted(ragged, strategy, cut):
    """Of gradients clipped to next to nothing the decay alone is left: by (1 - rate x decay) a step."""
    privacy = {"mechanism": "dp-sgd", "noise-multiplier": 1e-4, "clip": 1e-5, "delta": 1e-3}
    train = {"rounds": 1, "batch_size": 1000, "learning_rate": 0.1}
    spec = run_spec(ragged, strategy, cut, privacy, weight_decay=2.0, **train)
    plan, federation = plan_of(spec)
    initial = twins.Twin(spec, federation).initial()
    for name, value in train_run(plan, federation).parameters.items():
        steps = (1, len(federation.facts.sizes))  # the second in parts that serve one clinic after another
        assert min(distance({name: value}, {name: 0.8**n * initial[name].expand_as(value)}) for n in steps) < 1e-4
    without, _ = plan_of(run_spec(ragged, strategy, cut, privacy, **train))
    assert [clinic.epsilon for clinic in plan.clinics] == [clinic.epsilon for clinic in without.clinics]


def test_noise_differs_between_seeds_only_in_what_it_should(ragged):
    """Two seeds must not share the noise, and the noise must move the model."""
    quiet = train_spec(run_spec(ragged, "fedavg", privacy={**DP_SGD, "noise-multiplier": 0})).parameters
    noised = [train_spec(run_spec(ragged, "fedavg", privacy=DP_SGD, seed=seed)).parameters for seed in (5, 6)]
    assert distance(noised[0], quiet) > 1e-3
    assert distance(noised[0], noised[1]) > 1e-3


# Flower's own strategies


def flower(csv, name, options=None, **train):
    return run_spec(csv, f"flwr.serverapp.strategy.{name}", options=options, **train)


@pytest.mark.usefixtures("one_key")
@pytest.mark.parametrize("privacy", [NO_PRIVACY, DP_SGD], ids=["plain", "dp-sgd"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_fedavg_equals_flowers_stock_fedavg(ragged, optimizer, privacy):
    train = {"optimizer": optimizer, "learning_rate": RATE[optimizer], "privacy": privacy, "rounds": 4}
    stock = train_spec(flower(ragged, "FedAvg", **train))
    ours = train_spec(run_spec(ragged, "fedavg", **train))
    assert distance(ours.parameters, stock.parameters) < (1e-6 if privacy == NO_PRIVACY else 1e-3)
    assert ours.meter.traffic.keys() == stock.meter.traffic.keys()
    for key, sizes in ours.meter.traffic.items():
        np.testing.assert_array_equal(sizes, stock.meter.traffic[key])


def test_fedadam_by_import_path_equals_its_server_update_written_out(ragged):
    """Reddi et al. 2020, algorithm 2 as flwr has it: bias-corrected with t + 1, and tau outside the root."""
    eta, beta_1, beta_2, tau = 0.05, 0.8, 0.95, 1e-2
    options = {"eta": eta, "beta_1": beta_1, "beta_2": beta_2, "tau": tau}
    moments = {}

    def server(state, models, server_round):
        average = twins.weighted_average(models)
        rate = eta * (1 - beta_2 ** (server_round + 1)) ** 0.5 / (1 - beta_1 ** (server_round + 1))
        updated = {}
        for name, value in state.items():
            delta = average[name].double() - value.double()
            m, v = moments.get(name, (torch.zeros_like(delta), torch.zeros_like(delta)))
            m, v = beta_1 * m + (1 - beta_1) * delta, beta_2 * v + (1 - beta_2) * delta**2
            moments[name] = m, v
            updated[name] = (value.double() + rate * m / (v.sqrt() + tau)).float()
        return updated

    spec = flower(ragged, "FedAdam", options, rounds=5)
    assert_equals_twin(spec, tolerance=2e-6, twin_of=lambda twin: twins.fedavg(twin, server))


def test_fedmedian_by_import_path_takes_the_median_of_every_parameter(ragged):
    """Flower's takes the clinics' arrays out of their replies."""

    def server(state, models, server_round):
        values = {name: np.stack([model[name].numpy() for _, model in models]) for name in state}
        return {name: torch.from_numpy(np.median(value, axis=0)) for name, value in values.items()}

    assert_equals_twin(flower(ragged, "FedMedian"), twin_of=lambda twin: twins.fedavg(twin, server))


# How clinics are grouped, stored and scheduled changes nothing


@pytest.mark.parametrize("participation", [1.0, 0.75])
@pytest.mark.parametrize("privacy", [NO_PRIVACY, DP_SGD], ids=["plain", "dp-sgd"])
@pytest.mark.parametrize(("strategy", "cut"), BUILT_IN)
def test_any_number_of_node_groups_gives_the_same_draws_bytes_and_model(ragged, strategy, cut, privacy, participation):
    spec = run_spec(ragged, strategy, cut, privacy, optimizer="momentum", participation=participation, rounds=3)
    plan, federation = plan_of(spec)
    runs, streams, named = [], [], []

    def add(original, *arguments):
        _, _, _, keys, purpose, clinics, server_round, step = arguments
        named.extend((key, purpose, k, server_round, step) for key, k in zip(keys, clinics, strict=True))
        original(*arguments)

    for node_groups in (1, 2, 4):
        named.clear()
        runs.append(train_run(with_noise_by(plan, add) if plan.job.dp else plan, federation, node_groups))
        streams.append(sorted(named))
    assert len(set(streams[0])) == len(streams[0]), "a noise stream was used twice"
    for run, used in zip(runs[1:], streams[1:], strict=True):
        assert used == streams[0]
        assert distance(run.parameters, runs[0].parameters) < rounding(spec)
        assert run.meter.traffic.keys() == runs[0].meter.traffic.keys()
        for key, sizes in runs[0].meter.traffic.items():
            np.testing.assert_array_equal(run.meter.traffic[key], sizes)


@pytest.mark.usefixtures("one_key")
@pytest.mark.parametrize("privacy", [NO_PRIVACY, DP_SGD], ids=["plain", "dp-sgd"])
@pytest.mark.parametrize(("strategy", "cut"), BUILT_IN)
def test_the_order_of_rows_of_different_clinics_in_the_file_does_not_matter(tmp_path, strategy, cut, privacy):
    """Clinics are numbered by name, and their streams by number."""
    files = [write_csv(tmp_path / f"{shuffled}.csv", shuffled=shuffled) for shuffled in (False, True)]
    assert files[0].read_bytes() != files[1].read_bytes()
    tidy, mixed = (train_spec(run_spec(csv, strategy, cut, privacy, rounds=2)).parameters for csv in files)
    assert bitwise(tidy, mixed)


@pytest.mark.parametrize(("strategy", "cut"), BUILT_IN)
def test_a_file_that_has_changed_is_trained_on_anew(tmp_path, strategy, cut):
    csv = write_csv(tmp_path / "clinics.csv", [40, 30])
    before = train_spec(run_spec(csv, strategy, cut)).parameters
    rows = csv.read_text(encoding="utf-8").splitlines()
    changed = [rows[0], *(row.replace(",0.", ",5.") for row in rows[1:])]
    csv.write_text("\n".join(changed) + "\n", encoding="utf-8")
    assert not bitwise(train_spec(run_spec(csv, strategy, cut)).parameters, before)


@pytest.mark.parametrize("privacy", [NO_PRIVACY, DP_SGD], ids=["plain", "dp-sgd"])
def test_clinics_train_in_blocks_as_each_does_alone(ragged, privacy):
    """More lanes than train at a time: copies of four clinics, each of which must become what it becomes alone."""
    plan, federation = plan_of(run_spec(ragged, "fedavg", None, privacy, optimizer="adam", learning_rate=0.02))
    job, clinics = plan.job, plan.job.in_lane_order(range(4))
    group, initial = NodeGroup.build(job, federation.train, clinics), job.network.initial_parameters(job.seed)
    whole, copies = job.network.whole, BLOCK // 4 + 7

    def training(lanes):
        return LocalTraining(
            trainer=trainer_for(job, whole, lanes, expand(initial, len(lanes))), group=group, job=job, server_round=1
        )

    works = [training(clinics) for _ in range(copies)]
    LocalTraining.together(works)
    alone = training(clinics)
    Alone().do(alone)
    assert distance(alone.trainer.parameters, expand(initial, 4)) > 1e-2
    for work in works:
        assert bitwise(work.trainer.parameters, alone.trainer.parameters)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("privacy", [NO_PRIVACY, DP_SGD, JOINT], ids=["plain", "dp-sgd", "joint"])
@pytest.mark.parametrize(("strategy", "cut"), [("local", None), *BUILT_IN[3:]])
def test_a_nodes_state_may_travel_with_every_message(ragged, strategy, cut, privacy, every):
    """On other grids a handler gets a copy of the state and gives it back, now in one process and now in another."""
    spec = run_spec(ragged, strategy, cut, privacy, optimizer="adam", rounds=2)
    kept = train_spec(spec).parameters
    plan, federation = plan_of(spec)
    assert bitwise(train_run(plan, federation, through=travelling(every)).parameters, kept)


@pytest.mark.parametrize("privacy", [NO_PRIVACY, DP_SGD], ids=["plain", "dp-sgd"])
@pytest.mark.parametrize(("strategy", "cut"), BUILT_IN)
def test_training_again_gives_the_same_bits_whatever_the_global_generators_hold(ragged, strategy, cut, privacy):
    spec = run_spec(ragged, strategy, cut, privacy)
    first = train_spec(spec).parameters
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global state must not matter
    torch.manual_seed(1)
    assert bitwise(train_spec(spec).parameters, first)


@pytest.mark.parametrize(("strategy", "cut"), BUILT_IN)
def test_no_global_generator_is_touched(ragged, strategy, cut):
    def global_state():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002

    spec = run_spec(ragged, strategy, cut, DP_SGD, seed=11)
    before = global_state()
    train_spec(spec)
    same = [a == b for a, b in zip(before, global_state(), strict=True)]
    assert same == [True] * 3, "random, numpy, torch"
