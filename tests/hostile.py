"""Runs whose messages are tampered with: what both tables of hostile messages share."""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from support import DP_SGD, JOINT, NO_PRIVACY, plan_of, run_spec

from sim.flower.wire import array_record, tensors_in

FROZEN = {"freeze": ["head"]}
ROWS = {"mechanism": "smashed-noise", "noise-multiplier": 0.8, "clip": 1.0, "delta": 1e-3, "labels": "public"}
LABELS = {"mechanism": "label-rr", "label-epsilon": 1.0}
RUNS: dict[str, dict[str, Any]] = {
    "fedavg": {"strategy": "fedavg"},
    "fedavg-dp": {"strategy": "fedavg", "privacy": DP_SGD},
    "local-dp": {"strategy": "local", "privacy": DP_SGD},
    "v1": {"strategy": "splitfed-v1", "cut": "vanilla"},
    "v1-rows": {"strategy": "splitfed-v1", "cut": "vanilla", "privacy": ROWS, "model": FROZEN},
    "v1-labels": {"strategy": "splitfed-v1", "cut": "vanilla", "privacy": LABELS},
    "v1-16-bit": {"strategy": "splitfed-v1", "cut": "vanilla", "smashed_dtype": "float16"},
    "v1-8-bit": {"strategy": "splitfed-v1", "cut": "vanilla", "smashed_dtype": "int8"},
    "v1-sparse": {"strategy": "splitfed-v1", "cut": "vanilla", "smashed_top_k": 0.5},
    "fedavg-compressed": {"strategy": "fedavg", "update_dtype": "int8", "update_top_k": 0.4},
    "v1-joint": {"strategy": "splitfed-v1", "cut": "u-shaped", "privacy": JOINT},
    "v1-u-dp": {"strategy": "splitfed-v1", "cut": "u-shaped", "privacy": DP_SGD},
    "v2": {"strategy": "splitfed-v2", "cut": "u-shaped"},
    "v3": {"strategy": "splitfed-v3", "cut": "vanilla"},
    "relay": {"strategy": "split", "cut": "vanilla", "optimizer": "adam"},
    "release-once": {"strategy": "release-once", "cut": "vanilla", "privacy": ROWS},
    "centralised": {"strategy": "centralised"},
    "local": {"strategy": "local"},
    "fedavg-some": {"strategy": "fedavg", "participation": 0.5},
    "v2-some": {"strategy": "splitfed-v2", "cut": "vanilla", "participation": 0.5},
    "imported": {"strategy": "flwr.serverapp.strategy.FedAvg"},
}


@cache
def planned(csv, name):
    """Plan a run of the table once for all who tamper with it."""
    settings = {"privacy": NO_PRIVACY, "cut": None, "rounds": 2, **RUNS[name]}
    strategy, cut, privacy = (settings.pop(key) for key in ("strategy", "cut", "privacy"))
    return plan_of(run_spec(csv, strategy, cut, privacy, **settings))


@dataclass
class Opened:
    """A message's content, taken apart so that it can be changed."""

    kinds: dict[str, dict[str, torch.Tensor]]
    config: dict[str, Any]
    metrics: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, content):
        kinds = {k: {n: t.clone() for n, t in tensors_in(r).items()} for k, r in content.array_records.items()}
        [config] = content.config_records.values()
        metrics = [dict(record) for record in content.metric_records.values()]
        return cls(kinds, dict(config), *metrics)

    def into(self, content):
        """Put what is held now in the place of a message's content."""
        content.clear()
        for kind, named in self.kinds.items():
            content[kind] = named if isinstance(named, ConfigRecord | ArrayRecord) else array_record(named)
        content["config"] = ConfigRecord(self.config)
        if self.metrics:
            content["metrics"] = MetricRecord(self.metrics)

    def first(self, kind):
        """Return the name and the value of a kind's first array."""
        return next(iter(self.kinds[kind].items()))


def name_as(kind, new):
    def change(opened):
        opened.kinds[kind] = {new if i == 0 else n: t for i, (n, t) in enumerate(opened.kinds[kind].items())}

    return change


def value(kind, put):
    """Put a value into the middle of a kind's last array."""

    def change(opened):
        array = list(opened.kinds[kind].values())[-1]
        array.view(-1)[array.numel() // 2] = put

    return change


def array(kind, turned):
    """Turn a kind's first array into another."""

    def change(opened):
        name, tensor = opened.first(kind)
        opened.kinds[kind][name] = turned(tensor)

    return change


def state(key, turned):
    """Turn what the config says under a key into something else; None takes it away."""

    def change(opened):
        stated = turned(opened.config.get(key))
        opened.config.pop(key, None)
        if stated is not None:
            opened.config[key] = stated

    return change


def drop(kind):
    return lambda opened: opened.kinds.pop(kind)


def drop_array(kind):
    return lambda opened: opened.kinds[kind].pop(opened.first(kind)[0])


def add_kind(kind):
    return lambda opened: opened.kinds.update({kind: {kind: torch.zeros(1, 1)}})


def add_array(kind):
    return lambda opened: opened.kinds[kind].update(another=torch.zeros(1, 1))


def arrays(kind):
    """Return what can be wrong with any kind of array, by name."""
    return {
        f"no {kind}": drop(kind),
        f"{kind} renamed": name_as(kind, "another"),
        f"an array more in {kind}": add_array(kind),
        f"an array less in {kind}": drop_array(kind),
        f"{kind} with a lane more": array(kind, lambda t: torch.cat([t, t[:1]])),
        f"{kind} with a lane less": array(kind, lambda t: t[1:]),
        f"{kind} as a scalar": array(kind, lambda t: t.sum()),
        f"{kind} with an axis more": array(kind, lambda t: t.unsqueeze(-1)),
        f"{kind} of 64 bits": array(kind, lambda t: t.to(torch.float64 if t.is_floating_point() else torch.int64)),
    }


def numbers(kind):
    """Return what can be wrong with real numbers, by name."""
    return {f"{put} in {kind}": value(kind, put) for put in (float("nan"), float("inf"), float("-inf"))}
