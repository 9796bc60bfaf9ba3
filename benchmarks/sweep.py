"""Wall time of a sweep of 125 runs: five methods, five target epsilons, five seeds on the four real centres.

    python -m benchmarks.sweep [--jobs 2]

From the call of the command to its end: start, plans with calibrated noise, learning, table and report.
``benchmarks/README.md`` keeps the figures.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

HEART = Path(__file__).resolve().parents[1] / "scenarios" / "heart.toml"
METHODS = ("fedavg", "split", "splitfed-v1", "splitfed-v2", "splitfed-v3")
RUNS = len(METHODS) * 5 * 5


def main() -> None:
    """Run the sweep in a new folder and print how long it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2)
    jobs = parser.parse_args().jobs
    listed = ", ".join(f'{{name="{name}"}}' for name in METHODS)
    settings = [
        f"strategies=[{listed}]",
        "evaluation.reference=false",
        "seeds=[0, 1, 2, 3, 4]",
        "sweep.privacy.epsilon=[0.5, 1, 3, 8, inf]",
    ]
    with tempfile.TemporaryDirectory() as out:
        command = [Path(sys.executable).with_name("suture"), "run", HEART, "--out", out, "--jobs", str(jobs)]
        started, load = time.perf_counter(), os.getloadavg()[0]
        subprocess.run([*command, *(word for text in settings for word in ("--set", text))], check=True)
        seconds = time.perf_counter() - started
        table = pd.read_parquet(Path(out) / "heart" / "runs.parquet")
    assert (len(table), set(table["status"])) == (RUNS, {"ok"})
    learned = table["wall_seconds"].sum()
    print(
        f"{RUNS} runs on {jobs} processes: {seconds:.0f} s, of which {learned / jobs:.0f} s a process learning; "
        f"load average {load:.1f} at the start, {os.getloadavg()[0]:.1f} at the end"
    )


if __name__ == "__main__":
    main()
