"""Two parties on one small table, and vertical learning as plain PyTorch: one model, trained in one place."""

from __future__ import annotations

from pathlib import Path

import torch
from support import NO_PRIVACY
from torch.nn import functional

from sim.methods.sampling import Sampling, draw_batches
from sim.scenario import parse_scenario
from sim.scenario.spec import RunSpec, expand

PARTIES = [
    {"name": "doctor", "columns": ["x0", "x1"], "profile": "solo-practice"},
    {"name": "laboratory", "columns": ["x2"], "profile": "hospital", "label": True},
    {"name": "imaging", "columns": ["x3", "x4"], "profile": "hospital"},
]

TWO = [
    {
        "name": "a", "columns": ["x0", "x1"], "latency": "10 ms",
        "uplink": "1 Mbit/s", "downlink": "2 Mbit/s", "compute": "1 MFLOP/s",
    },
    {
        "name": "b", "columns": ["x2", "x3", "x4"], "label": True, "latency": "1 ms",
        "uplink": "8 Mbit/s", "downlink": "8 Mbit/s", "compute": "0.1 MFLOP/s",
    },
]  # fmt: skip
"""For what is worked out by hand."""


def scenario_of(csv: Path, strategy="vertical", cut=None, *, parties=None, **tables) -> dict:
    """Return a scenario's tables; others may be given, ``train`` keys among them."""
    train = {"rounds": 3, "batch-size": 8, "learning-rate": 0.1} | tables.pop("train", {})
    strategies = [
        {
            "name": strategy,
            **({"cut": cut} if cut else {}),
            **({"options": o} if (o := tables.pop("options", None)) else {}),
        }
    ]
    return {
        "name": "vertical",
        "seeds": [5],
        "data": {
            "source": "csv",
            "path": str(csv),
            "label": "label",
            "exclude": ["clinic"],
            "scaling": "none",
            "layout": "vertical",
            "test-share": 0.2,
        },
        "parties": PARTIES if parties is None else parties,
        "model": {"name": "mlp", "hidden": [3, 4], "cut": [1, -1] if cut == "u-shaped" else 1},
        "train": train,
        "privacy": NO_PRIVACY,
        "evaluation": {"reference": False},
        "strategies": strategies,
    } | tables


def spec_of(csv: Path, strategy="vertical", cut=None, **tables) -> RunSpec:
    """Return the one run of a scenario."""
    [spec] = expand(parse_scenario(scenario_of(csv, strategy, cut, **tables), csv.parent))
    return spec


class Twin:
    """A whole model whose first layer is block-diagonal: each block is a party's, and sees its columns.

    Parameters
    ----------
    columns : list of list of int
        By party.
    start : dict of str to Tensor
        Initial values ``[1, *shape]``, by the names of the simulator.
    join : str
    """

    def __init__(self, columns, start, join="concatenation"):
        self.join, self.parties = join, len(columns)
        width = start["heads.0.hidden1.0.weight"].shape[1]
        features = sum(map(len, columns))
        weight, self.mask = torch.zeros(self.parties * width, features), torch.zeros(self.parties * width, features)
        for party, own in enumerate(columns):
            rows = slice(party * width, (party + 1) * width)
            weight[rows, own] = start[f"heads.{party}.hidden1.0.weight"][0]
            self.mask[rows, own] = 1
        bias = torch.cat([start[f"heads.{party}.hidden1.0.bias"][0] for party in range(self.parties)])
        rest = [start[f"{name}.{kind}"][0] for name in ("hidden2.0", "output") for kind in ("weight", "bias")]
        self.columns, self.width = columns, width
        self.parameters = [value.clone().requires_grad_() for value in (weight, bias, *rest)]

    def forward(self, x, parameters=None, present=None):
        weight, bias, w2, b2, w3, b3 = parameters or self.parameters
        rows = functional.linear(x, weight * self.mask, bias).relu().unflatten(-1, (self.parties, self.width))
        there = torch.tensor([float(present is None or k in present) for k in range(self.parties)])
        rows = rows * there[:, None]
        if self.join == "concatenation":
            rows = rows.flatten(-2)
        else:
            rows = rows.sum(-2) / (there.sum() if self.join == "mean" else 1)
        return functional.linear(functional.linear(rows, w2, b2).relu(), w3, b3).squeeze(-1)

    def by_name(self):
        """Return the parameters as the simulator names them, ``[1, *shape]``."""
        weight, bias, w2, b2, w3, b3 = (value.detach()[None] for value in self.parameters)
        found = {"hidden2.0.weight": w2, "hidden2.0.bias": b2, "output.weight": w3, "output.bias": b3}
        for party, own in enumerate(self.columns):
            rows = slice(party * self.width, (party + 1) * self.width)
            found[f"heads.{party}.hidden1.0.weight"] = weight[:, rows][:, :, own]
            found[f"heads.{party}.hidden1.0.bias"] = bias[:, rows]
        return found


def optimizer_of(spec: RunSpec, parameters):
    """Return PyTorch's own optimiser."""
    rate = spec.train.learning_rate
    if spec.train.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=rate, betas=(spec.train.momentum, 0.999))
    return torch.optim.SGD(parameters, lr=rate, momentum=0.9 if spec.train.optimizer == "momentum" else 0.0)


def batches(spec: RunSpec, records: int, key=None):
    """Yield the rows of every batch of every round: one stream, that of the first clinic, for all."""
    sampling = Sampling(key is not None, spec.train.batch_size, spec.train.local_epochs)
    for server_round in range(1, spec.train.rounds + 1):
        drawn = draw_batches(sampling, spec.seed if key is None else key, server_round, [0], [records])
        for step, rows in enumerate(drawn.rows[:, 0].tolist()):
            yield torch.from_numpy(drawn.index[step, 0, :rows])


def train_plainly(spec: RunSpec, forward, parameters, x, y):
    """Train with mean losses of the batches."""
    optimizer = optimizer_of(spec, parameters)
    for rows in batches(spec, len(y)):
        optimizer.zero_grad()
        functional.binary_cross_entropy_with_logits(forward(x[rows]), y[rows].float()).backward()
        optimizer.step()
