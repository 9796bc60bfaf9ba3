"""A small scenario whose plan can be worked out by hand."""

from sim.scenario import parse_scenario
from sim.scenario.spec import expand

NO_PRIVACY = {"mechanism": "none"}
FIRST = {
    "sites": ["k0"],
    "uplink": "8 kbit/s",  # 1000 B/s
    "downlink": "16 kbit/s",  # 2000 B/s
    "latency": "1 s",
    "compute": "100 FLOP/s",
}
SECOND = {
    "sites": ["k1"],
    "uplink": "80 kbit/s",  # 10000 B/s
    "downlink": "160 kbit/s",  # 20000 B/s
    "latency": "500 ms",
    "compute": "50 FLOP/s",
}
# Three features, hidden layers of two units each, one logit: 8 + 6 + 3 = 17 parameters.
# FLOPs a record, forward + backward: 12 + 12 (first layer), 8 + 16 (second), 4 + 8 (output).
MODEL = {"name": "mlp", "hidden": [2, 2]}


def spec_of(csv, strategy, cut=None, clinics=({"profile": "hospital"},), privacy=NO_PRIVACY, model=MODEL, **train):
    """Build the one run of a scenario on a file of ``write_csv``; ``seed`` and ``sites`` may be among the rest."""
    seed, sites = train.pop("seed", 1), train.pop("sites", None)
    features = csv.read_text(encoding="utf-8").splitlines()[0].split(",")[2:]
    data = {"source": "csv", "path": str(csv), "label": "label", "clinic": "clinic", "features": features}
    data |= {"scaling": "none", "test-share": 0.5} | ({"sites": sites} if sites else {})
    mapping = {
        "name": "planned",
        "seeds": [seed],
        "data": data,
        "model": {"cut": [1, -1] if cut == "u-shaped" else 1, **model},
        "train": {"rounds": 2, "batch-size": 4, "learning-rate": 0.1} | train,
        "server": {"compute": "1 kFLOP/s"},
        "clinics": list(clinics),
        "privacy": privacy,
        "evaluation": {"reference": False},
        "strategies": [{"name": strategy} | ({"cut": cut} if cut else {})],
    }
    [spec] = expand(parse_scenario(mapping, csv.parent))
    return spec


def named(method):
    return "-".join(filter(None, method))


def dp_sgd(target, delta=1e-3, **more):
    return {"mechanism": "dp-sgd", "epsilon": target, "delta": delta} | more


SPLIT_AND_WHOLE = [("fedavg", None), ("splitfed-v1", "vanilla"), ("splitfed-v1", "u-shaped")]
