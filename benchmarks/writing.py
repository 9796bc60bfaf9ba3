"""Processor time of ``suture report`` on a finished study: ``python -m benchmarks.writing results/heart``.

Each command is a process of its own with all its children, the cases in turn: nothing remembered yet (the privacy
accountant's answers, Vega's bundle), everything remembered, and everything remembered with the pictures. With
``--against SUTURE STUDY`` another version's command writes its own finished study in the same turns; the ratio is of
medians. ``benchmarks/README.md`` keeps the figures.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median


def seconds(command: list[str | Path], cache: Path) -> float:
    """Return the processor seconds of a command and its children."""
    before = getrusage(RUSAGE_CHILDREN)
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    after = getrusage(RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("--against", nargs=2, metavar=("SUTURE", "STUDY"))
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    suture = Path(sys.executable).with_name("suture")
    measured: dict[str, list[float]] = {}
    for _ in range(given.repeats):
        with tempfile.TemporaryDirectory() as cache:
            cases = {
                "nothing remembered": [suture, "report", given.study],
                "all remembered": [suture, "report", given.study],
                "all remembered, with pictures": [suture, "report", given.study, "--figures"],
            }
            if given.against:
                cases["against"] = [given.against[0], "report", given.against[1]]
            for case, command in cases.items():
                measured.setdefault(case, []).append(seconds(command, Path(cache)))
    other = median(measured["against"]) if given.against else None
    for case, own in measured.items():
        ratio = f", {other / median(own):.1f} times less" if other and case != "against" else ""
        print(f"{case}: {median(own):.2f} s ({min(own):.2f} to {max(own):.2f}){ratio}")


if __name__ == "__main__":
    main()
