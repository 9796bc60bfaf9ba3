"""Whole ``suture run`` of 1,000 and of 10,000 clinics with a hundred records each: linear growth, and memory.

    python -m benchmarks.clinics
    python -m benchmarks.clinics --strategy split --participation 1 --rounds 2
    python -m benchmarks.clinics --participation 1 --actors 0 2 4

Seconds on the clock, seconds of the processor and peak memory of the command, a process of its own, report included;
with ``--actors`` the clinics of 10,000 are in so many actors of Ray's (0: in the process), whose seconds and memory do
not count.
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

SCENARIO = """
name  = "clinics"
seeds = [0]
[data]
source      = "synthetic"
clinics     = {clinics}
records     = {records}
size-spread = 0.5
test-share  = 0.1
[model]
name   = "mlp"
hidden = [32, 16]
cut    = 1
[evaluation]
reference = false
[train]
rounds        = {rounds}
batch-size    = 16
learning-rate = 0.1
participation = {participation}
[[clinics]]
profile = "fcc-benchmark"
[[strategies]]
name = "{strategy}"
"""


def measure(text: str, actors: int = 0) -> tuple[float, float, float]:
    """Return seconds on the clock and of the processor, and the peak memory in GB of a study."""
    with tempfile.TemporaryDirectory() as folder:
        scenario = Path(folder) / "clinics.toml"
        scenario.write_text(text, encoding="utf-8")
        suture = str(Path(sys.executable).with_name("suture"))
        command = [suture, "run", str(scenario), "--out", folder]
        command += ["--engine", "ray", "--node-groups", str(actors)] if actors else ["--jobs", "1"]
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError("the study failed")
    return time.perf_counter() - started, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e9


def main() -> None:
    """Print a line a size."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--strategy", default="fedavg")
    parser.add_argument("--participation", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--actors", type=int, nargs="+")
    settings = vars(parser.parse_args())
    actors = settings.pop("actors")
    for clinics, hosts in [(10_000, each) for each in actors] if actors else [(1000, 0), (10_000, 0)]:
        wall, seconds, peak = measure(SCENARIO.format(clinics=clinics, records=100 * clinics, **settings), hosts)
        where = f", {hosts} actors" if hosts else ""
        print(f"{clinics:6} clinics{where}: {wall:.1f} s, {seconds:.1f} CPU s, peak {peak:.2f} GB", flush=True)


if __name__ == "__main__":
    main()
