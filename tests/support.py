"""Small federations for the tests: ragged clinics in a CSV file, and runs on them."""

from pathlib import Path

import numpy as np
import torch

from sim.data import Federation, load_federation
from sim.plan.plan import Plan, make_plan
from sim.scenario import parse_scenario
from sim.spec import RunSpec, expand
from sim.study.learn import Learned, learn

torch.set_num_threads(1)

SIZES = (7, 23, 40, 64)
BUILT_IN = [
    ("centralised", None),
    ("local", None),
    ("fedavg", None),
    ("splitfed-v1", "vanilla"),
    ("splitfed-v1", "u-shaped"),
]
NO_PRIVACY = {"mechanism": "none"}
DP_SGD = {"mechanism": "dp-sgd", "noise-multiplier": 0.8, "clip": 0.5, "delta": 1e-3}
JOINT = {**DP_SGD, "clipping": "joint"}


def write_csv(path: Path, sizes=SIZES, classes=2, features=4, shuffled=False) -> Path:
    """Write one row a record; ``shuffled`` mixes the clinics' rows but keeps each clinic's own order."""
    rng = np.random.default_rng(len(sizes))
    lines = []
    for clinic, size in enumerate(sizes):
        y = np.arange(size) % classes
        x = rng.normal(size=(size, features)) + 0.8 * y[:, None] * (-1) ** np.arange(features) + 0.2 * clinic
        lines += [(clinic, ",".join([f"k{clinic}", f"class{y[i]}", *(f"{v:.6f}" for v in x[i])])) for i in range(size)]
    if shuffled:
        own = {clinic: iter([line for k, line in lines if k == clinic]) for clinic in range(len(sizes))}
        order = rng.permutation([k for k, _ in lines])
        lines = [(k, next(own[k])) for k in order]
    header = ",".join(["clinic", "label", *(f"x{i}" for i in range(features))])
    path.write_text("\n".join([header, *(line for _, line in lines)]) + "\n", encoding="utf-8")
    return path


def run_spec(
    csv: Path, strategy="fedavg", cut=None, privacy=NO_PRIVACY, model=None, options=None, seed=5, **train
) -> RunSpec:
    """Build the one run of a small scenario; ``train`` keys are written with underscores."""
    features = csv.read_text(encoding="utf-8").splitlines()[0].split(",")[2:]
    table = {"rounds": 3, "batch-size": 8, "learning-rate": 0.1}
    mapping = {
        "name": "small",
        "seeds": [seed],
        "data": {
            "source": "csv",
            "path": str(csv),
            "label": "label",
            "clinic": "clinic",
            "features": features,
            "scaling": "none",
        },
        "model": {"name": "mlp", "hidden": [6, 5], "cut": [1, -1] if cut == "u-shaped" else 1, **(model or {})},
        "train": table | {key.replace("_", "-"): value for key, value in train.items()},
        "privacy": privacy,
        "strategies": [
            {"name": strategy} | ({"cut": cut} if cut else {}) | ({"options": options} if options else {}),
        ],
    }
    [spec] = expand(parse_scenario(mapping, csv.parent))
    return spec


def plan_of(spec: RunSpec) -> tuple[Plan, Federation]:
    """Load a run's records and plan it."""
    federation = load_federation(spec.data, spec.seed)
    return make_plan(spec, federation), federation


def learn_run(spec: RunSpec, cohorts: int = 1) -> Learned:
    """Plan and learn a run."""
    plan, federation = plan_of(spec)
    return learn(plan, federation, cohorts)


def bitwise(a, b) -> bool:
    """Whether two sets of parameters are the same bits under the same names."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def distance(a, b) -> float:
    """Largest difference of two sets of parameters, relative to the largest value of each tensor."""
    assert a.keys() == b.keys()
    assert all(a[name].shape == b[name].shape for name in a)
    return max(float((a[n].double() - b[n].double()).abs().max() / b[n].double().abs().max()) for n in a)
