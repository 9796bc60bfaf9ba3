"""Regions with patients and vertical parties of their own: SplitFed between them, vertical learning within."""

import numpy as np
import pytest
import torch
from support import distance, plan_of, write_csv
from torch.nn import functional
from vertical import PARTIES, Twin, scenario_of

from sim.methods.sampling import Sampling, draw_batches
from sim.scenario import parse_scenario
from sim.scenario.spec import expand
from sim.study.train import train_run

SIZES, COLUMNS = [50, 30, 40], [[0, 1], [2], [3, 4]]
CUTS = pytest.mark.parametrize("cut", ["vanilla", "u-shaped"])
LACKING = [{**PARTIES[0], "regions": ["k0", "k2"]}, *PARTIES[1:]]


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("regions") / "patients.csv", sizes=SIZES, features=5)


def spec_of(csv, strategy="vertical-splitfed", cut="vanilla", *, regions=True, **tables):
    """Return the one run of a scenario whose regions are the table's clinics."""
    written = scenario_of(csv, strategy, cut, **tables)
    written["data"] = {**written["data"], "exclude": [], "clinic": "clinic", "regions": regions}
    [spec] = expand(parse_scenario(written, csv.parent))
    return spec


def fedavg(spec, start, federation, join, columns):
    """Federated averaging over regions of one block-diagonal model, in plain PyTorch; regions may lack blocks."""
    offsets, model = federation.train.offsets, Twin(COLUMNS, start, join)
    sizes = np.diff(offsets)
    sampling = Sampling(False, spec.train.batch_size, spec.train.local_epochs)
    x, y = torch.tensor(federation.train.x).nan_to_num(), torch.tensor(federation.train.y)
    for server_round in range(1, spec.train.rounds + 1):
        trained = []
        for region, size in enumerate(sizes):
            own = [value.detach().clone().requires_grad_() for value in model.parameters]
            optimizer = torch.optim.SGD(own, lr=spec.train.learning_rate)
            drawn = draw_batches(sampling, spec.seed, server_round, [region], [int(size)])
            for step, rows in enumerate(drawn.rows[:, 0].tolist()):
                batch = torch.from_numpy(drawn.index[step, 0, :rows]) + int(offsets[region])
                logits = model.forward(x[batch], own, columns[region])
                optimizer.zero_grad()
                functional.binary_cross_entropy_with_logits(logits, y[batch].float()).backward()
                optimizer.step()
            trained.append([value.detach() for value in own])
        width = start["heads.0.hidden1.0.weight"].shape[1]
        for number, value in enumerate(model.parameters):
            shares = torch.zeros(len(sizes), *value.shape)
            for region, size in enumerate(sizes):
                shares[region] = float(size)
                for party in set(range(3)) - set(columns[region]) if number < 2 else ():
                    shares[region, party * width : (party + 1) * width] = 0
            shares /= shares.sum(0)
            model.parameters[number] = (shares * torch.stack([own[number] for own in trained])).sum(0).requires_grad_()
    return model


@CUTS
@pytest.mark.parametrize("join", ["concatenation", "mean"])
@pytest.mark.parametrize("parties", [PARTIES, LACKING], ids=["everywhere", "lacking"])
def test_regions_average_one_block_diagonal_model(csv, cut, join, parties):
    spec = spec_of(csv, cut=cut, options={"join": join}, parties=parties)
    plan, federation = plan_of(spec)
    start = plan.job.network.initial_parameters(spec.seed)
    there = [[0, 1, 2], [0, 1, 2] if parties is PARTIES else [1, 2], [0, 1, 2]]
    twin = fedavg(spec, start, federation, join, there)
    trained = train_run(plan, federation)
    assert distance(start, twin.by_name()) > 1e-2, "the twin did not train; the test would be blind"
    assert distance(trained.parameters, twin.by_name()) < 1e-6
    x, bounds = torch.tensor(federation.test.x).nan_to_num(), federation.test.offsets
    each = [twin.forward(x[bounds[r] : bounds[r + 1]], present=there[r]) for r in range(3)]
    logits = torch.cat(each).detach().double().sigmoid().numpy()
    assert trained.evaluations[-1].predicted[:, 1] == pytest.approx(logits, abs=1e-6)
