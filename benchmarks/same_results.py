"""Hold two folders of one study against each other, bit for bit: ``python -m benchmarks.same_results ONE OTHER``.

Compared are every run's identifier, weights, tables of rounds and clinics, traffic, clock and epsilons; left out is
what the machine's speed and the code's version decide. Made to show that a redesign changes no number.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd

LEFT_OUT = ["wall_seconds"]


def differences(one: Path, other: Path) -> list[str]:
    """Return a line for each difference of two studies' folders."""
    tables = [pd.read_parquet(study / "runs.parquet").set_index("run_id").sort_index() for study in (one, other)]
    found = [f"only in one of them: {run_id}" for run_id in tables[0].index.symmetric_difference(tables[1].index)]
    shared = tables[0].index.intersection(tables[1].index)
    columns = [name for name in tables[0].columns if name in tables[1].columns and name not in LEFT_OUT]
    rows = [table.loc[shared, columns] for table in tables]
    found += [f"runs.parquet: {name}" for name in columns if not rows[0][name].equals(rows[1][name])]
    for run_id in shared:
        ours, theirs = one / run_id, other / run_id
        for weights in sorted(path.name for path in ours.glob("*.safetensors")):
            if (ours / weights).read_bytes() != (theirs / weights).read_bytes():
                found.append(f"{run_id}: {weights}")
        for name in ("rounds", "clinics"):
            if not pd.read_parquet(ours / f"{name}.parquet").equals(pd.read_parquet(theirs / f"{name}.parquet")):
                found.append(f"{run_id}: {name}.parquet")
        plans = [json.loads((folder / "run.json").read_text(encoding="utf-8"))["plan"] for folder in (ours, theirs)]
        found += [f"{run_id}: plan.{key}" for key in plans[0] if plans[0][key] != plans[1].get(key)]
    return found


def main() -> None:
    """Compare the two folders named on the command line."""
    one, other = map(Path, sys.argv[1:3])
    found = differences(one, other)
    print("\n".join(found) or f"the same: {len(pd.read_parquet(one / 'runs.parquet'))} runs")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
