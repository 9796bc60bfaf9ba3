"""One method's runs of six learning rates, four epsilons and five seeds together, over one of them alone.

    python -m benchmarks.together fedavg
    python -m benchmarks.together split vanilla

The centres, network and rounds of ``scenarios/heart.toml``, DP-SGD throughout; processor seconds of a whole
``suture run`` in one process, with its start, plans and report, and of training, scores, attacks and folders alone.
``benchmarks/README.md`` keeps the figures.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sim.data.folds import runs_of
from sim.plan.plan import Plan
from sim.scenario import parse_scenario
from sim.study.engines import InProcess
from sim.study.groups import grouped
from sim.study.planning import plan_runs
from sim.study.runner import execute_together

HEART = Path(__file__).resolve().parents[1] / "scenarios" / "heart.toml"
SWEPT = {"privacy.epsilon": [1, 3, 8, 20], "train.learning-rate": [0.02, 0.05, 0.1, 0.2, 0.5, 1.0]}
ALONE = 5
PASSES = 3


def seconds(plans: list[Plan], folder: Path) -> float:
    """Execute runs as ``suture run`` does in one process, and return the processor's seconds."""
    start = time.process_time()
    rows = list(InProcess().run(lambda group: execute_together(group, folder, {}), grouped(plans, 1)))
    spent = time.process_time() - start
    assert {row["status"] for row in rows} == {"ok"}
    return spent


def of_command(tables: Mapping[str, Any], folder: Path) -> float:
    """Return the processor's seconds of ``suture run --jobs 1`` and all that it starts."""
    scenario = folder / "together.toml"
    scenario.write_text(written(tables), encoding="utf-8")
    command = [
        Path(sys.executable).with_name("suture"),
        "run",
        scenario,
        "--jobs",
        "1",
        "--out",
        tempfile.mkdtemp(dir=folder),
    ]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def written(tables: Mapping[str, Any]) -> str:
    """Return the tables of a scenario as TOML."""

    def pairs(table: Mapping[str, Any]) -> list[str]:
        return [f"{json.dumps(key)} = {json.dumps(value)}" for key, value in table.items()]

    of_kind: dict[bool, list[str]] = {True: [], False: []}
    for key, value in tables.items():
        several = isinstance(value, list) and isinstance(value[0], dict)
        if several:
            of_kind[True] += [line for table in value for line in (f"[[{key}]]", *pairs(table))]
        elif isinstance(value, dict):
            of_kind[True] += [f"[{key}]", *pairs(value)]
        else:
            of_kind[False] += pairs({key: value})
    return "\n".join([*of_kind[False], *of_kind[True], ""])


def main() -> None:
    """Print the seconds of one run, of all, and how many times as long these take."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method")
    parser.add_argument("cut", nargs="?")
    options = parser.parse_args()
    tables = tomllib.loads(HEART.read_text(encoding="utf-8"))
    method = {"name": options.method} | ({"cut": options.cut} if options.cut else {})
    tables |= {"strategies": [method], "evaluation": {"reference": False}, "sweep": SWEPT, "seeds": list(range(5))}
    del tables["tune"]
    alone = tables | {"seeds": [0], "privacy": tables["privacy"] | {"epsilon": 1}}
    del alone["sweep"]
    plans = list(plan_runs(runs_of(parse_scenario(tables, HEART.parent))))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        of_command(tables, folder)  # the accountant's answers are remembered
        commands = [(of_command(alone, folder), of_command(tables, folder)) for _ in range(PASSES)]
        told = [("suture run", *pair) for pair in commands]
        told += [("training alone", min(seconds([plan], folder) for plan in plans[:ALONE]), seconds(plans, folder))]
    for what, one, together in told:
        print(f"{what}: one {one:.2f} s, {len(plans)} runs {together:.1f} s, {together / one:.1f} times as long")


if __name__ == "__main__":
    main()
