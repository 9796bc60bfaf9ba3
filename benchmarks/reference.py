"""The reference study: run its scenarios, keep what is worth keeping, and write what the README says of it.

``python -m benchmarks.reference`` (``make reference``) runs the scenarios below into ``results/``, copies what can be
published (the table of runs, tables of results and comparisons, figures, the report) to
``results/reference/<study>/``, and writes the README's paragraph from there.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd

from sim.foundation.text import bytes_text, score_text, seconds_text
from sim.methods.labels import method_label
from sim.report.compare import Comparison, as_text, compare
from sim.report.held_out import read_held_out
from sim.report.table import results_frame

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "results" / "reference"
STUDIES = ("heart", "rural", "privacy")
MARKED = re.compile(r"(<!-- reference:begin -->\n).*?(<!-- reference:end -->)", re.DOTALL)
METHODS = (("fedavg", ""), ("split", "vanilla"), ("splitfed-v1", "vanilla"), ("splitfed-v2", "vanilla"))
STEPS = (
    "A column says how methods do at this rate, not how well they can do: a relay takes as many noised steps on one "
    "model as all clinics of FedAvg together, so that under DP its best rate is smaller."
)
NOT_YET = "`make reference` runs the reference study and writes here what it found.\n"


def publish(study: Path, to: Path) -> None:
    """Copy the publishable part of a finished study.

    Parameters
    ----------
    study : Path
        The study's folder.
    to : Path
        Its folder in the reference; replaced if it is there.
    """
    runs = pd.read_parquet(study / "runs.parquet")
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    runs.drop(columns="wall_seconds").to_csv(to / "runs.csv", index=False)
    (to / "results.md").write_text(markdown(results_frame(runs)), encoding="utf-8")
    held_out = read_held_out(study, runs.loc[runs["status"] == "ok", "run_id"])
    (to / "comparison.md").write_text(
        as_text(compare(runs, ["strategy", "cut"], "within_clinic_auc", {}, held_out), "markdown"), encoding="utf-8"
    )
    shutil.copy(study / "report.html", to / "report.html")
    # The report draws each round itself; of the figures the vectors are the small ones.
    shutil.copytree(study / "figures", to / "figures", ignore=shutil.ignore_patterns("*.png", "round_[!t]*"))


def markdown(frame: pd.DataFrame) -> str:
    """Write a frame of texts as a Markdown table."""
    rows = [list(frame.columns), ["---"] * len(frame.columns), *frame.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows) + "\n"


def paragraphs(reference: Path) -> str:
    """Say what the reference study found, each number from its tables.

    Parameters
    ----------
    reference : Path
        The folder that :func:`publish` has filled.

    Returns
    -------
    str
        Markdown.
    """
    if not (reference / "heart" / "runs.csv").exists():
        return NOT_YET
    heart = read_runs(reference / "heart")
    seeds, free = heart["seed"].nunique(), told(heart, "inf")
    found = [
        f"On the heart-disease records of four real centres, pooled AUC after {heart['rounds'].max()} rounds, one "
        "learning rate for all; mean ± half-width of the 95 % interval over "
        f"{seeds} seeds (`results/reference/heart`):\n",
        scores(heart),
        f"- Without DP: {free.finding()}\n- At epsilon 3: {told(heart, '3').finding()}\n\n{STEPS} {free.scope}",
    ]
    if (reference / "rural" / "runs.csv").exists():
        rural = read_runs(reference / "rural")
        found += [
            f"\nTwenty clinics on thin lines, {rural['rounds'].max()} rounds, simulated time and traffic of a whole "
            "run (`results/reference/rural`):\n",
            costs(rural),
        ]
    return "\n".join(found) + "\n"


def read_runs(folder: Path) -> pd.DataFrame:
    """Read a published table of runs."""
    runs = pd.read_csv(folder / "runs.csv", keep_default_na=False, na_values=[""])
    return runs.fillna({"cut": ""})


def scores(runs: pd.DataFrame) -> str:
    """Return the table of mean AUC by method and target epsilon."""
    targets = sorted(runs["privacy.epsilon"].unique(), reverse=True)
    means = {target: compare(runs, ["strategy", "cut"], "auc", {"epsilon": f"{target:g}"}).means for target in targets}
    frame = pd.DataFrame({"Method": [method_label(*method) for method in METHODS]})
    for target, table in means.items():
        by_group = table.set_index("group")
        heading = "no DP" if target == float("inf") else f"epsilon {target:g}"
        frame[heading] = [score_text(*by_group.loc[name, ["mean", "half_width"]]) for name in frame["Method"]]
    return markdown(frame)


def told(runs: pd.DataFrame, epsilon: str) -> Comparison:
    """Compare the methods on the same seeds at one target epsilon."""
    kept = runs[[pair in METHODS for pair in zip(runs["strategy"], runs["cut"], strict=True)]]
    return compare(kept, ["strategy", "cut"], "auc", {"epsilon": epsilon})


def costs(runs: pd.DataFrame) -> str:
    """Return the table of simulated time and traffic by method."""
    names = [method_label(*pair) for pair in zip(runs["strategy"], runs["cut"], strict=True)]
    means = runs[runs["status"] == "ok"].assign(method=names).groupby("method")[["sim_seconds", "bytes_up"]].mean()
    chosen = means.loc[[method_label(*method) for method in METHODS]]
    return markdown(
        pd.DataFrame(
            {
                "Method": chosen.index,
                "Time": list(map(seconds_text, chosen["sim_seconds"])),
                "Sent up": list(map(bytes_text, chosen["bytes_up"])),
            }
        )
    )


def main() -> None:
    """Run the reference study, publish it and write the README's paragraph."""
    for name in STUDIES:
        suture = Path(sys.executable).with_name("suture")
        subprocess.run([suture, "run", f"scenarios/{name}.toml", "--out", "results"], cwd=ROOT, check=True)
        publish(ROOT / "results" / name, REFERENCE / name)
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    readme.write_text(MARKED.sub(lambda found: found[1] + paragraphs(REFERENCE) + found[2], text), encoding="utf-8")


if __name__ == "__main__":
    main()
