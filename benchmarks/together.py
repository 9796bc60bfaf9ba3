"""One method's runs of six learning rates, four epsilons and five seeds together, over one of them alone.

    python -m benchmarks.together fedavg
    python -m benchmarks.together split vanilla

The centres, network and rounds of ``scenarios/heart.toml``, DP-SGD throughout; processor seconds of training, scores,
attacks and folders in one process, without planning. ``benchmarks/README.md`` keeps the figures.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import tomllib
from pathlib import Path

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


def seconds(plans: list[Plan], folder: Path) -> float:
    """Execute runs as ``suture run`` does in one process, and return the processor's seconds."""
    start = time.process_time()
    rows = list(InProcess().run(lambda group: execute_together(group, folder, {}), grouped(plans, 1)))
    spent = time.process_time() - start
    assert {row["status"] for row in rows} == {"ok"}
    return spent


def main() -> None:
    """Print the seconds of one run, of all, and how many times as long these take."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method")
    parser.add_argument("cut", nargs="?")
    options = parser.parse_args()
    tables = tomllib.loads(HEART.read_text(encoding="utf-8"))
    del tables["tune"]
    scenario = parse_scenario(tables | {"sweep": SWEPT, "seeds": list(range(5))}, HEART.parent)
    wanted = options.method, options.cut
    plans = list(plan_runs([spec for spec in runs_of(scenario) if (spec.strategy.name, spec.strategy.cut) == wanted]))
    with tempfile.TemporaryDirectory() as folder:
        one = min(seconds([plan], Path(folder)) for plan in plans[:ALONE])
        together = seconds(plans, Path(folder))
    print(f"one run {one:.2f} s, {len(plans)} runs {together:.1f} s, {together / one:.0f} times as long")


if __name__ == "__main__":
    main()
