"""Flower's own strategies by import path: on our grid, repeatable, and each what its definition says."""

import gc
import logging
import random

import numpy as np
import pytest
import torch
import twins
from split_twins import SplitTwin, apart, fedprox
from support import bitwise, plan_of, run_spec, train_spec
from torch.nn import functional
from twins import weighted_average

from sim.flower.imported import StrategyError
from sim.foundation.problems import ScenarioError
from sim.study.planning import plan_runs
from sim.study.runner import execute
from sim.study.train import train_run

FLOWER = "flwr.serverapp.strategy."
CLIPPED = {"strategy": f"{FLOWER}FedAvg", "noise-multiplier": 0.3, "clipping-norm": 0.02, "num-sampled-clients": 4}
OPTIONS = {
    "FedAvg": {},
    "FedAdam": {"eta": 0.05, "beta-1": 0.8, "beta-2": 0.95, "tau": 0.01},
    "FedYogi": {"eta": 0.05, "beta-1": 0.8, "beta-2": 0.95, "tau": 0.01},
    "Krum": {"num-malicious-nodes": 1},
    "FedMedian": {},
    "QFedAvg": {"client-learning-rate": 0.1, "q": 0.5},
    "FedProx": {"proximal-mu": 0.7},
    "DifferentialPrivacyServerSideFixedClipping": CLIPPED,
}
NAMES = pytest.mark.parametrize("name", OPTIONS)


@pytest.fixture(scope="module", autouse=True)
def _little_to_collect():
    """Some of Flower's strategies collect garbage at every message, over all that the test process has ever made."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def imported(csv, name, options=None, **settings):
    options = OPTIONS[name] if options is None else options
    return run_spec(csv, f"{FLOWER}{name}", options=options, **settings)


def global_state():
    _, numbers, *rest = np.random.get_state()  # noqa: NPY002 - Flower draws from the global generator
    return random.getstate(), numbers.tolist(), rest, torch.get_rng_state().tolist()


# On our grid


@NAMES
def test_it_runs_and_keeps_the_element_type_and_the_planned_bytes(ragged, name):
    plan, federation = plan_of(imported(ragged, name, optimizer="momentum"))
    trained = train_run(plan, federation)
    assert {value.dtype for value in trained.parameters.values()} == {torch.float32}
    size = 4 * sum(value.numel() for value in trained.parameters.values())
    assert {key: sizes.tolist() for key, sizes in trained.meter.traffic.items()} == {
        (way, kind): [3 * each] * 4 for way in ("up", "down") for kind, each in {"model": size, "headers": 512}.items()
    }
    assert len(trained.evaluations) == 4
    assert trained.evaluations[0] != trained.evaluations[3]


@NAMES
def test_it_gives_the_same_bits_whatever_the_global_generators_hold(ragged, name):
    found = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        found.append(train_spec(imported(ragged, name)).parameters)
    assert bitwise(*found)


@NAMES
def test_it_leaves_the_global_generators_as_they_were(ragged, name):
    spec = imported(ragged, name, seed=11)
    before = global_state()
    train_spec(spec)
    assert all(a == b for a, b in zip(before, global_state(), strict=True)), "random, numpy or torch was touched"


def test_flower_does_draw_from_the_global_generators(ragged, monkeypatch):
    """Otherwise the two tests above would say nothing."""
    drawn = []
    sample, normal = random.sample, np.random.normal
    monkeypatch.setattr(random, "sample", lambda *a: drawn.append("sample") or sample(*a))
    monkeypatch.setattr(np.random, "normal", lambda *a: drawn.append("normal") or normal(*a))
    train_spec(imported(ragged, "DifferentialPrivacyServerSideFixedClipping"))
    assert {"sample", "normal"} == set(drawn)


# What each of them makes of the clinics' models


def gap(spec, server=None, twin_of=None):
    """Return how far the run is from a plain loop over clinics with a server written out."""
    plan, federation = plan_of(spec)
    twin = SplitTwin(spec, federation, plan.noise_multipliers)
    state = twin_of(twin) if twin_of else twins.fedavg(twin, *([server(twin)] if server else []))
    trained = train_run(plan, federation).parameters
    initial = {name: value[None] for name, value in twin.initial().items()}
    assert apart(trained, initial) > 1e-2, "the run did not train; the test would be blind"
    return apart(trained, {name: value[None] for name, value in state.items()})


def flat(model):
    return torch.cat([value.flatten() for value in model.values()]).double()


def unflat(vector, like):
    pieces = vector.split([value.numel() for value in like.values()])
    return {name: piece.view_as(like[name]).float() for (name, piece) in zip(like, pieces, strict=True)}


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_fedavg_is_the_weighted_average(ragged, optimizer):
    assert gap(imported(ragged, "FedAvg", optimizer=optimizer, learning_rate=0.05)) < 1e-6


@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
def test_fedprox_pulls_every_clinic_by_mu(ragged, optimizer):
    spec = imported(ragged, "FedProx", optimizer=optimizer, learning_rate=0.05, local_epochs=3)
    assert gap(spec, twin_of=lambda twin: fedprox(twin, mu=0.7)) < 1e-6
    assert gap(spec) > 1e-3, "without the pull"


def test_fedmedian_is_the_median_of_every_parameter(ragged):
    def server(twin):
        def median(state, models, server_round):
            stacked = {name: np.stack([model[name].numpy() for _, model in models]) for name in state}
            return {name: torch.from_numpy(np.median(values, axis=0)) for name, values in stacked.items()}

        return median

    assert gap(imported(ragged, "FedMedian"), server) < 1e-6


@pytest.mark.parametrize("malicious", [0, 1])
def test_krum_takes_the_model_that_is_nearest_to_its_neighbours(ragged, malicious):
    """Blanchard et al. 2017: the smallest sum of squared distances to the n - f - 2 nearest others."""
    chosen = []

    def server(twin):
        def krum(state, models, server_round):
            near = len(models) - malicious - 2
            scores = []
            for i, (_, own) in enumerate(models):
                others = [float(((flat(own) - flat(m)) ** 2).sum()) for j, (_, m) in enumerate(models) if j != i]
                scores.append(sum(sorted(others)[:near]))
            chosen.append(int(np.argmin(scores)))
            return models[chosen[-1]][1]

        return krum

    spec = imported(ragged, "Krum", {"num-malicious-nodes": malicious}, rounds=6, learning_rate=0.3)
    assert gap(spec, server) < 1e-6
    assert len(chosen) == 6
    assert gap(spec) > 1e-3, "the average would do as well"


def test_fedyogi_is_its_server_update_written_out(ragged):
    """Reddi et al. 2021, algorithm 2; both moments begin at zero."""
    eta, beta_1, beta_2, tau = OPTIONS["FedYogi"].values()

    def server(twin):
        moments = [0.0, 0.0]

        def yogi(state, models, server_round):
            delta = flat(weighted_average(models)) - flat(state)
            m = beta_1 * moments[0] + (1 - beta_1) * delta
            v = moments[1] - (1 - beta_2) * delta**2 * torch.sign(moments[1] - delta**2)
            moments[:] = m, v
            return unflat(flat(state) + eta * m / (v.sqrt() + tau), state)

        return yogi

    assert gap(imported(ragged, "FedYogi", rounds=5), server) < 2e-6


def test_qfedavg_weighs_by_the_loss_of_the_model_that_was_sent(ragged):
    """Li et al. 2020, "Fair Resource Allocation in Federated Learning", algorithm 2."""
    rate, q = OPTIONS["QFedAvg"].values()

    def server(twin):
        def mean_loss(state, x, y):
            with torch.no_grad():
                return float(functional.binary_cross_entropy_with_logits(twin.module(state)(x)[:, 0], y.float()))

        def fair(state, models, server_round):
            top, bottom = 0.0, 0.0
            for (x, y), (_, model) in zip(twin.records, models, strict=True):
                loss = mean_loss(state, x, y)
                delta = (flat(state) - flat(model)) / rate
                top = top + loss**q * delta
                bottom += q * loss ** (q - 1) * float((delta**2).sum()) + loss**q / rate
            return unflat(flat(state) - top / bottom, state)

        return fair

    assert gap(imported(ragged, "QFedAvg"), server) < 2e-6
    assert gap(imported(ragged, "QFedAvg")) > 1e-3, "the average would do as well"


@pytest.mark.parametrize("side", ["Server", "Client"])
def test_the_dp_wrapper_clips_every_clinics_update(ragged, side):
    norm = CLIPPED["clipping-norm"]
    lengths = []

    def server(twin):
        def clip(state, models, server_round):
            shorter = []
            for size, model in models:
                update = flat(model) - flat(state)
                lengths.append(float(update.norm()))
                shorter.append((size, unflat(flat(state) + update * min(1.0, norm / lengths[-1]), state)))
            return weighted_average(shorter)

        return clip

    spec = imported(ragged, f"DifferentialPrivacy{side}SideFixedClipping", {**CLIPPED, "noise-multiplier": 0.0})
    assert gap(spec, server) < 1e-6
    assert min(lengths) < norm < max(lengths), "all or none were clipped"
    assert gap(spec) > 1e-3, "the average would do as well"


def test_the_adaptive_dp_wrappers_clip_the_same_at_the_clinics_and_at_the_server(ragged):
    options = {"strategy": f"{FLOWER}FedAvg", "noise-multiplier": 0.0, "num-sampled-clients": 4}
    options |= {"initial-clipping-norm": 0.05, "clip-norm-lr": 0.5, "clipped-count-stddev": 0.0}
    server, client = (
        train_spec(imported(ragged, f"DifferentialPrivacy{side}SideAdaptiveClipping", options)).parameters
        for side in ("Server", "Client")
    )
    assert apart(server, client) < 1e-6
    unclipped = train_spec(imported(ragged, "FedAvg")).parameters
    assert apart(unclipped, client) > 1e-3


def wrapped(ragged, rounds, seed=5):
    """Return the model after some rounds that hardly move it, so that it is mostly noise."""
    name, settings = "DifferentialPrivacyServerSideFixedClipping", {"rounds": rounds, "seed": seed}
    spec = imported(ragged, name, {**CLIPPED, "clipping-norm": 4.0}, learning_rate=1e-4, **settings)
    return flat(train_spec(spec).parameters)


def correlation(one, other):
    return abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1]))


@pytest.mark.usefixtures("one_key")
def test_the_dp_wrappers_noise_has_its_size_and_is_new_in_every_round(ragged):
    """Standard deviation z C / n on every parameter."""
    models = [wrapped(ragged, rounds) for rounds in (0, 1, 2)]
    first, second = models[1] - models[0], models[2] - models[1]
    assert len(first) == 71
    for drawn in (first, second):
        assert float(drawn.std()) == pytest.approx(0.3 * 4.0 / 4, rel=0.3)
    assert correlation(first, second) < 0.4


def test_the_dp_wrappers_noise_is_new_with_every_seed(ragged):
    one, other = (wrapped(ragged, 1, seed) - wrapped(ragged, 0, seed) for seed in (5, 6))
    assert correlation(one, other) < 0.4


def test_nothing_is_said_of_evaluation_which_flower_is_not_asked_for(ragged, caplog):
    log = logging.getLogger("flwr")
    log.addHandler(caplog.handler)
    log.setLevel(logging.NOTSET)
    try:
        list(plan_runs([run_spec(ragged, f"{FLOWER}FedMedian", rounds=1)]))
    finally:
        log.removeHandler(caplog.handler)
    assert caplog.text == ""


# What cannot be built


WRONG = {
    "no such module": ("no.such.module.Strategy", {}, "strategy 'no.such.module.Strategy' cannot be imported"),
    "no such name": (f"{FLOWER}FedNothing", {}, f"strategy '{FLOWER}FedNothing' cannot be imported"),
    "a class of another kind": ("collections.OrderedDict", {}, "'collections.OrderedDict' is not a Flower Strategy"),
    "a function": ("json.dumps", {}, "'json.dumps' is not a Flower Strategy"),
    "an unknown option": (f"{FLOWER}FedAvg", {"fraction-trian": 1.0}, "unexpected keyword argument 'fraction_trian'"),
    "a missing option": (f"{FLOWER}QFedAvg", {"q": 0.5}, "missing 1 required positional argument"),
    "a refused value": (
        f"{FLOWER}DifferentialPrivacyServerSideFixedClipping",
        {**CLIPPED, "noise-multiplier": -1.0},
        "noise multiplier should be a non-negative value",
    ),
    "an inner strategy that does not exist": (
        f"{FLOWER}DifferentialPrivacyServerSideFixedClipping",
        {**CLIPPED, "strategy": f"{FLOWER}FedNothing"},
        f"strategy '{FLOWER}FedNothing' cannot be imported",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_built_fails_the_run_with_one_line(ragged, tmp_path, what):
    path, options, expected = WRONG[what]
    spec = run_spec(ragged, path, options=options, rounds=1)
    with pytest.raises(ScenarioError) as refused:
        list(plan_runs([spec]))
    assert len(refused.value.problems) == 1
    assert expected in str(refused.value)
    plan, federation = plan_of(spec)
    with pytest.raises(StrategyError) as error:
        train_run(plan, federation)
    row = execute(plan, tmp_path, {})
    assert row["status"] == "failed"
    assert row["error"] == f"StrategyError: {error.value}"
    assert expected in row["error"]
    assert path in row["error"] or "FedNothing" in row["error"]
    assert len(row["error"].splitlines()) == 1
