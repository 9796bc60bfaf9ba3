"""Parties predict amounts and times of the same patients."""

import numpy as np
import pandas as pd
import pytest
import torch
from support import distance, plan_of
from torch.nn import functional
from vertical import Twin, batches, spec_of

from sim.attacks.observation import Findings
from sim.study.tables import clinics_table
from sim.study.train import train_run

COLUMNS = [[0, 1], [2], [3, 4]]
HORIZON, INTERVALS = 100.0, 5
CUTS = pytest.mark.parametrize("cut", ["vanilla", "u-shaped"])


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(240, 5))
    amount = x @ [1.0, 0.5, -1.0, 0.3, 0.2] + rng.normal(scale=0.3, size=240)
    time, followed = np.exp(-amount) * 100, rng.uniform(20, 400, 240)
    table = pd.DataFrame(x, columns=[f"x{i}" for i in range(5)])
    table["amount"], table["event"] = amount.round(4), (time <= followed).astype(int)
    table["days"] = np.minimum(time, followed).round().clip(1).astype(int)
    path = tmp_path_factory.mktemp("outcomes") / "patients.csv"
    table.to_csv(path, index=False)
    return path


def spec(csv, outcome, strategy="vertical", cut=None, **tables):
    own = {
        "amount": {"label": "amount", "label-range": [-8, 8], "exclude": ["days", "event"]},
        "time": {
            "time": "days",
            "event": "event",
            "horizon": HORIZON,
            "intervals": INTERVALS,
            "exclude": ["amount"],
        },
    }
    data = {"source": "csv", "path": str(csv), "scaling": "none", "layout": "vertical", "test-share": 0.2}
    return spec_of(csv, strategy, cut, data={**data, "outcome": outcome, **own[outcome]}, **tables)


def squared(outputs, rows):
    """Half the square, of the amount over 8, which is between -1 and 1."""
    return functional.mse_loss(outputs, torch.tensor(rows["amount"].to_numpy() / 8).float()) / 2


def hazards(outputs, rows):
    """Gensheimer & Narasimhan 2019: up to the event, or the intervals of which at least half was seen without one."""
    days, event = rows["days"].to_numpy(), rows["event"].to_numpy()
    width = HORIZON / INTERVALS
    total = torch.zeros(())
    for i in range(len(rows)):
        seen = bool(event[i]) and days[i] <= HORIZON
        last = int(np.ceil(days[i] / width)) - 1 if seen else int(np.floor(days[i] / width + 0.5)) - 1
        for j in range(min(last + 1, INTERVALS)):
            hit = torch.tensor(float(seen and j == last))
            total = total + functional.binary_cross_entropy_with_logits(outputs[i, j], hit)
    return total / len(rows)


@CUTS
@pytest.mark.parametrize(("outcome", "loss"), [("amount", squared), ("time", hazards)])
def test_it_is_the_block_diagonal_model(csv, cut, outcome, loss):
    own = spec(csv, outcome, cut=cut, train={"rounds": 2, "batch-size": 64})
    plan, federation = plan_of(own)
    twin = Twin(COLUMNS, plan.job.network.initial_parameters(own.seed))
    table, x = pd.read_csv(csv).iloc[federation.train.row], torch.tensor(federation.train.x)
    for rows in batches(own, len(x)):
        slopes = torch.autograd.grad(loss(twin.forward(x[rows]), table.iloc[rows.numpy()]), twin.parameters)
        with torch.no_grad():
            for value, slope in zip(twin.parameters, slopes, strict=True):
                value -= 0.1 * slope
    trained = train_run(plan, federation)
    assert distance(trained.parameters, twin.by_name()) < 2e-4
    sent = trained.meter.traffic.get(("up", "labels"), np.zeros(3)).tolist()
    width = {"amount": 4, "time": 1}[outcome] if cut == "vanilla" else 0
    assert sent == [0, 2 * len(x) * width, 0]


@pytest.mark.parametrize(("outcome", "score"), [("amount", "r2"), ("time", "concordance")])
def test_every_method_of_a_vertical_layout_predicts_it(csv, outcome, score):
    found = {}
    for strategy in ("vertical", "vertical-alone", "centralised", "prevalence"):
        plan, federation = plan_of(spec(csv, outcome, strategy, train={"rounds": 40, "learning-rate": 0.3}))
        trained = train_run(plan, federation)
        found[strategy] = trained.evaluations[-1].pooled[score]
        if strategy == "vertical":
            table = clinics_table(plan, trained, Findings([], []), federation)
            assert max(table[f"absent_{score}"]) < found[strategy]
    assert found["prevalence"] < found["vertical-alone"] < found["vertical"] <= found["centralised"] + 0.05
