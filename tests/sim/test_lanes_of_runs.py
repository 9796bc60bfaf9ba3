"""Lanes of several runs trained together give, bit for bit, what each run gives alone."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support import bitwise, distance
from torch import nn

from sim.data.facts import Facts
from sim.methods.job import Job
from sim.methods.node_group import NodeGroup
from sim.methods.sampling import draw_batches
from sim.methods.trainer import expand, lanes_of, train_lanes, train_whole, trainer_for
from sim.privacy.mechanisms.dp_sgd import DpSgd
from sim.scenario import parse_scenario
from sim.scenario.spec import expand as runs_of
from sim.tensor.trainer import Trainer

torch.set_num_threads(1)
SIZES = ((13, 9, 7, 3), (11, 10, 4))
"""Training records by clinic, in each of two runs."""
RUNS = ({"seed": 5, "rate": 0.1, "clip": 0.5, "sigma": 0.7}, {"seed": 6, "rate": 0.03, "clip": 2.0, "sigma": 1.9})
PRIVATE = {"mechanism": "dp-sgd", "delta": 1e-3}


def dropping(input_shape, outputs):
    first = nn.Sequential(nn.Linear(*input_shape, 7), nn.Dropout(0.3), nn.ReLU())
    return [("hidden", first), ("output", nn.Linear(7, outputs))]


MODELS = {
    "mlp": ({"name": "mlp", "hidden": [7, 5]}, (6,)),
    "dropout": ({"name": "factory", "factory": f"{__name__}:dropping"}, (6,)),
    "cnn": ({"name": "cnn", "channels": [4, 6], "hidden": [5]}, (1, 8, 8)),
}


class Run:
    """A run with records, a seed, a learning rate, a clip and a noise of its own."""

    def __init__(self, number, model, optimizer, private):
        settings, shape = MODELS[model]
        own, self.sizes = RUNS[number], SIZES[number]
        privacy = PRIVATE | {"clip": own["clip"], "noise-multiplier": own["sigma"]} if private else None
        train = {"rounds": 2, "batch-size": 4, "learning-rate": own["rate"], "optimizer": optimizer}
        if optimizer == "momentum":
            train["momentum"] = 0.9 - 0.2 * number
        scenario = {
            "name": "small",
            "seeds": [own["seed"]],
            "data": {"source": "heart-disease"},
            "model": settings,
            "train": train,
            "privacy": privacy or {"mechanism": "none"},
            "strategies": [{"name": "fedavg"}],
        }
        [spec] = runs_of(parse_scenario(scenario, Path()))
        rng = np.random.default_rng(number)
        offsets = np.cumsum([0, *self.sizes])
        x = rng.normal(size=(offsets[-1], *shape)).astype(np.float32)
        records = SimpleNamespace(x=x, y=rng.integers(3, size=len(x)), offsets=offsets)
        facts = Facts(
            names=tuple(map(str, self.sizes)),
            classes=("a", "b", "c"),
            sizes=tuple(self.sizes),
            records=len(x),
            input_shape=shape,
            statistics={},
            clinics_of_a_patient=1,
            fingerprint=f"records {number}",
        )
        self.clinics = list(range(len(self.sizes)))
        self.job = Job.build(spec, facts).with_noise([own["sigma"]] * len(self.sizes))
        self.group = NodeGroup.build(self.job, records, self.clinics)
        self.initial = expand(self.job.network.initial_parameters(own["seed"]), len(self.sizes))

    def alone(self, mu=0.0):
        """Train two rounds of this run only; return parameters and optimiser state."""
        trainer = trainer_for(self.job, self.job.network.whole, self.clinics, copied(self.initial))
        if mu:
            trainer.pull_towards(self.initial, mu)
        for server_round in (1, 2):
            train_whole(trainer, self.group, self.job, server_round)
        return {**trainer.parameters, **trainer.state, "noised": trainer.noised_steps}


def copied(parameters):
    return {name: value.clone() for name, value in parameters.items()}


def together(runs, mu=(0.0, 0.0), broken=lambda lane, lanes: lane):
    """Train two rounds of all the runs' clinics in one trainer; return each run's parameters and optimiser state."""
    places = [(number, clinic) for number, run in enumerate(runs) for clinic in run.clinics]
    places.sort(key=lambda place: -runs[place[0]].sizes[place[1]])
    own = [lanes_of(run.job, run.clinics) for run in runs]
    lanes = [own[number][clinic] for number, clinic in places]
    lanes = [broken(lane, lanes) for lane in lanes]
    lanes = [replace(lane, rate=lane.rate._replace(pull=mu[n])) for lane, (n, _) in zip(lanes, places, strict=True)]
    initial = {name: torch.stack([runs[n].initial[name][k] for n, k in places]) for name in runs[0].initial}
    job = runs[0].job
    trainer = Trainer(job.network.whole, lanes, copied(initial), job.optimizer, noise=DpSgd().add_noise)
    trainer.pull_towards(initial)

    def gather(some, index):
        batches = [runs[n].group.batch([k], i[None]) for (n, k), i in zip(places[some], index, strict=True)]
        return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])

    keys, sizes = [runs[n].job.batch_key for n, _ in places], [runs[n].sizes[k] for n, k in places]
    for server_round in (1, 2):
        train_lanes(
            trainer, draw_batches(job.sampling, keys, server_round, trainer.clinics, sizes), gather, server_round
        )
    found = {**trainer.parameters, **trainer.state, "noised": trainer.noised_steps}
    where = [[places.index((number, k)) for k in run.clinics] for number, run in enumerate(runs)]
    return [{name: value[some] for name, value in found.items()} for some in where]


OPTIMIZER = pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
PRIVATE_OR_NOT = pytest.mark.parametrize("private", [False, True], ids=["plain", "dp-sgd"])


@PRIVATE_OR_NOT
@OPTIMIZER
@pytest.mark.parametrize("model", MODELS)
def test_lanes_of_two_runs_train_as_each_run_does_alone(model, optimizer, private):
    """A convolution over lanes that run as groups of channels may round otherwise than another number of them."""
    runs = [Run(number, model, optimizer, private) for number in range(2)]
    for run, found in zip(runs, together(runs), strict=True):
        expected = run.alone()
        noised = expected.pop("noised")
        assert bool(noised.all()) == private
        assert torch.equal(found.pop("noised"), noised)
        assert distance(found, expected) < 2e-5 if model == "cnn" else bitwise(found, expected)


@pytest.mark.parametrize("mu", [(0.5, 0.5), (0.0, 0.5), (0.3, 0.0)])
def test_lanes_of_two_runs_are_pulled_by_their_own_mu(mu):
    runs = [Run(number, "mlp", "sgd", private=False) for number in range(2)]
    for run, own, found in zip(runs, mu, together(runs, mu), strict=True):
        assert bitwise(found, run.alone(own))
        assert bitwise(found, run.alone()) == (own == 0.0)


@pytest.mark.parametrize("field", ["seed", "key", "rate", "clip", "noise_std", "clinic"])
def test_a_trainer_that_takes_the_first_lanes_settings_for_all_is_caught(field):
    runs = [Run(number, "dropout", "momentum", private=True) for number in range(2)]
    found = together(runs, broken=lambda lane, lanes: replace(lane, **{field: getattr(lanes[0], field)}))
    assert not bitwise(found[1], runs[1].alone())


def test_lanes_with_a_clip_and_lanes_without_one_do_not_train_together():
    run = Run(0, "mlp", "sgd", private=True)
    lanes = lanes_of(run.job, run.clinics)
    lanes[1] = replace(lanes[1], clip=None)
    with pytest.raises(ValueError, match="lanes with a clip and lanes without one cannot train together"):
        Trainer(run.job.network.whole, lanes, copied(run.initial), run.job.optimizer, noise=DpSgd().add_noise)
