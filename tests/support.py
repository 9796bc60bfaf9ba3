"""Small federations for the tests: ragged clinics in a CSV file, runs and studies on them, and the command."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from sim.cli import main
from sim.data.federation import Federation, load_federation
from sim.plan.plan import Plan, make_plan
from sim.privacy.mechanisms.dp_sgd import DpSgd
from sim.privacy.mechanisms.noises import RowNoise
from sim.scenario import load_scenario, parse_scenario
from sim.scenario.spec import RunSpec, expand
from sim.study.engines import InProcess
from sim.study.planning import plan_runs
from sim.study.runner import Progress, run_study
from sim.study.train import TrainedRun, train_run
from sim.tensor.optim import Optimizer

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
SCENARIO = """
name = "small"
seeds = [0, 1]
[data]
source = "csv"
path = "clinics.csv"
label = "label"
clinic = "clinic"
features = ["x0", "x1", "x2", "x3"]
scaling = "none"
[model]
name = "mlp"
hidden = [6, 5]
cut = [1, -1]
[evaluation]
reference = false
[train]
rounds = 2
batch-size = 8
learning-rate = 0.1
"""
"""A scenario without strategies, on the records of :func:`write_csv`."""
STUDY = (
    SCENARIO.replace("rounds = 2", 'rounds = 10\noptimizer = "adam"')
    + """
[privacy]
mechanism = "dp-sgd"
delta = 1e-3
[[strategies]]
name = "fedavg"
[[strategies]]
name = "splitfed-v1"
cut = "u-shaped"
[[strategies]]
name = "centralised"
[[strategies]]
name = "local"
[sweep]
"privacy.epsilon" = [3, inf]
"""
)
"""Sixteen runs."""
TRADE_OFF = (
    SCENARIO
    + """
[[clinics]]
profile = "hospital"
sites = ["k0", "k1"]
[[clinics]]
profile = "rural-dsl"
[privacy]
mechanism = "dp-sgd"
delta = 1e-3
[[strategies]]
name = "fedavg"
[[strategies]]
name = "splitfed-v1"
cut = ["vanilla", "u-shaped"]
[sweep]
"privacy.epsilon" = [3, inf]
"""
)
"""Twelve runs: three methods on two links, with and without privacy."""
LOSSES = (
    'profile = "rural-dsl"',
    'profile = "rural-dsl"\navailability = 0.8\ndrop-out = 0.3\nstraggler = { chance = 0.3, slowdown = 4 }',
)
"""What a group of clinics is replaced by, so that some are lost."""
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
    csv: Path, strategy="fedavg", cut=None, privacy=NO_PRIVACY, model=None, options=None, seed=5, records=None, **train
) -> RunSpec:
    """Build the one run of a small scenario; ``train`` keys are written with underscores.

    ``records`` are further keys of ``[data]``; those that are None are left out.
    """
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
            **(records or {}),
        },
        "model": {"name": "mlp", "hidden": [6, 5], "cut": [1, -1] if cut == "u-shaped" else 1, **(model or {})},
        "train": table | {key.replace("_", "-"): value for key, value in train.items()},
        "privacy": privacy,
        "evaluation": {"reference": False},
        "strategies": [
            {"name": strategy} | ({"cut": cut} if cut else {}) | ({"options": options} if options else {}),
        ],
    }
    mapping["data"] = {key: value for key, value in mapping["data"].items() if value is not None}
    [spec] = expand(parse_scenario(mapping, csv.parent))
    return spec


def write_times(path: Path, sizes=SIZES, features=4) -> Path:
    """Write one row a record with a time of event, or of the end of follow-up, on whole and half days up to 12."""
    rng = np.random.default_rng(3)
    parts = []
    for clinic, size in enumerate(sizes):
        x = rng.normal(size=(size, features))
        event = rng.exponential(8 * np.exp(-x[:, 0]))
        followed = rng.uniform(2, 12, size)
        part = pd.DataFrame(x.round(6), columns=[f"x{i}" for i in range(features)])
        part.insert(0, "clinic", f"k{clinic}")
        part.insert(1, "days", np.ceil(2 * np.minimum(event, followed)) / 2)
        parts.append(part.assign(event=(event <= followed).astype(int)))
    pd.concat(parts).to_csv(path, index=False)
    return path


TIMES = {
    "label": None, "outcome": "time", "time": "days", "event": "event", "horizon": 8, "intervals": [1, 2.5, 5],
    "features": ["x0", "x1", "x2", "x3"],
}  # fmt: skip
"""What ``[data]`` says of the records of :func:`write_times`."""


def write_amounts(path: Path, sizes=SIZES, features=4) -> Path:
    """Write one row a record with an amount around 10, of which some lie beyond 6 to 14."""
    rng = np.random.default_rng(4)
    parts = []
    for clinic, size in enumerate(sizes):
        x = rng.normal(size=(size, features))
        part = pd.DataFrame(x.round(6), columns=[f"x{i}" for i in range(features)])
        part.insert(0, "clinic", f"k{clinic}")
        part.insert(1, "amount", (10 + clinic / 2 + x[:, 0] - 0.5 * x[:, 1] + rng.normal(size=size)).round(3))
        parts.append(part)
    pd.concat(parts).to_csv(path, index=False)
    return path


GRADES = {"outcome": "ordinal", "grades": ["class0", "class1", "class2"]}
AMOUNTS = {"outcome": "amount", "label": "amount", "label-range": [6, 14]}
"""What ``[data]`` says of the records of :func:`write_amounts`."""


def plan_of(spec: RunSpec) -> tuple[Plan, Federation]:
    """Load a run's records and plan it."""
    federation = load_federation(spec.data, spec.seed, spec.parties)
    return make_plan(spec, federation.facts), federation


def train_spec(spec: RunSpec, node_groups: int = 1) -> TrainedRun:
    """Plan and train a run."""
    plan, federation = plan_of(spec)
    return train_run(plan, federation, node_groups)


class NoisedBy(DpSgd):
    """DP-SGD whose noise a test watches, or draws otherwise: ``add(original, *arguments of add_noise)``."""

    def __init__(self, add):
        self.add = add

    def add_noise(self, *arguments):
        self.add(super().add_noise, *arguments)


def with_noise_by(plan: Plan, add) -> Plan:
    """Return a plan whose gradients are noised by a mechanism of the test's own."""
    return replace(plan, job=replace(plan.job, dp=replace(plan.job.dp, mechanism=NoisedBy(add))))


class SumsSeen(Optimizer):
    """An optimiser that tells a test of the noised sums that it is handed, which the mechanism has just named."""

    def step(self, parameters, grads, state, rate):
        self.seen([grad.clone() for grad in grads])
        super().step(parameters, grads, state, rate)


def with_sums_seen_by(plan: Plan, seen) -> Plan:
    """Return a plan whose clipped and noised sums a test sees where they are used: ``seen(part, clinic, sums)``."""
    named = []

    def add(original, *arguments):
        original(*arguments)
        _, _, _, _, purpose, clinics, _, _ = arguments
        named.append((purpose.removeprefix("noise."), list(clinics)))

    def told(grads):
        part, clinics = named.pop()
        for lane, clinic in enumerate(clinics):
            seen(part, clinic, torch.cat([grad[lane].flatten() for grad in grads]))

    mechanism = plan.job.dp.mechanism
    given = mechanism.add if isinstance(mechanism, NoisedBy) else lambda original, *arguments: original(*arguments)
    watched = with_noise_by(plan, lambda original, *arguments: add(lambda *a: given(original, *a), *arguments))
    optimizer = SumsSeen(**vars(plan.job.optimizer))
    object.__setattr__(optimizer, "seen", told)
    return replace(watched, job=replace(watched.job, optimizer=optimizer))


class CodesBy(RowNoise):
    """Noise on rows that a test watches, or draws otherwise: ``made(original, *arguments of codes)``."""

    made = None

    def codes(self, *arguments):
        return self.made(super().codes, *arguments)


def with_codes_by(plan: Plan, made) -> Plan:
    """Return a plan whose rows are noised by a function of the test's own."""
    rows = CodesBy(**vars(plan.job.rows))
    object.__setattr__(rows, "made", made)
    return replace(plan, job=replace(plan.job, rows=rows))


def with_rows_seen_by(plan: Plan, seen) -> Plan:
    """Return a plan whose noised rows a test sees: ``seen(kind, clinic, moment, before, after)``."""

    def watched(original, rows, kind, key, sizes, clinics, moment):
        codes = original(rows, kind, key, sizes, clinics, moment)
        for lane, (clinic, size) in enumerate(zip(clinics, sizes, strict=True)):
            values = codes[lane, :size].astype(np.float32) * plan.job.rows.grid_step(kind, clinic)
            seen(kind, clinic, moment, torch.from_numpy(rows[lane, :size].copy()), torch.from_numpy(values))
        return codes

    return with_codes_by(plan, watched)


def bitwise(a, b) -> bool:
    """Whether two sets of parameters are the same bits under the same names."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def distance(a, b) -> float:
    """Largest difference of two sets of parameters, relative to the largest value of each tensor."""
    assert a.keys() == b.keys()
    assert all(a[name].shape == b[name].shape for name in a)
    return max(float((a[n].double() - b[n].double()).abs().max() / b[n].double().abs().max()) for n in a)


def write_scenario(folder: Path, text: str = STUDY) -> Path:
    """Write a scenario on the small clinics, and their records beside it."""
    write_csv(folder / "clinics.csv")
    path = folder / "small.toml"
    path.write_text(text, encoding="utf-8")
    return path


def suture_command(*arguments: object) -> list[str]:
    """Return the words that call the installed command."""
    return [str(Path(sys.executable).with_name("suture")), *map(str, arguments)]


def suture_process(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Call the installed command in a process of its own."""
    settings = {"capture_output": True, "check": False, "text": True, "timeout": 300} | options
    return subprocess.run(suture_command(*arguments), **settings)


def call_suture(*arguments: object) -> int:
    """Call the command in this process; return its exit code."""
    with patch.object(sys, "argv", ["suture", *map(str, arguments)]):
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def executed(path: Path, out: Path) -> Path:
    """Run a study in this process, without its report; return its folder."""
    plans = list(plan_runs(expand(load_scenario(path))))
    run_study(plans, [plan.spec.run_id for plan in plans], out, InProcess(), Progress(*[lambda *_: None] * 2))
    return out / plans[0].spec.study


def plain(text: str) -> str:
    """Return text without line breaks, as a narrow terminal may break it anywhere."""
    return " ".join(text.split())


def assert_same_results(one: Path, other: Path) -> None:
    """Compare two study folders: the table, and every file of every run, bitwise but for wall clock and data path."""
    tables = [pd.read_parquet(study / "runs.parquet") for study in (one, other)]
    pd.testing.assert_frame_equal(*(table.drop(columns="wall_seconds") for table in tables), check_exact=True)
    assert set(tables[0]["status"]) == {"ok"}
    for run_id in tables[0]["run_id"]:
        ours, theirs = one / run_id, other / run_id
        assert (ours / "model.safetensors").read_bytes() == (theirs / "model.safetensors").read_bytes(), run_id
        for name in ("rounds", "clinics"):
            frames = [pd.read_parquet(folder / f"{name}.parquet") for folder in (ours, theirs)]
            pd.testing.assert_frame_equal(*frames, check_exact=True)
        records = [json.loads((folder / "run.json").read_text(encoding="utf-8")) for folder in (ours, theirs)]
        for record in records:
            assert record["row"].pop("wall_seconds") > 0
            record["spec"]["data"].pop("path", None)
            assert record["privacy"].pop("audit-log")["lines"] > 1  # its head covers wall clock and path
        assert records[0] == records[1]


def assert_all_runs_are_whole(study: Path) -> None:
    """Every folder that looks like a run is complete, whatever was interrupted."""
    for folder in [path for path in study.iterdir() if path.is_dir() and not path.name.startswith(".")]:
        if folder.name in ("figures", "logs"):
            continue
        row = json.loads((folder / "run.json").read_text(encoding="utf-8"))["row"]
        assert (row["run_id"], row["status"]) == (folder.name, "ok")
        assert load_file(folder / "model.safetensors")
        for name in ("rounds", "clinics"):
            assert len(pd.read_parquet(folder / f"{name}.parquet")) > 0
