"""What papers print, beside what Suture measures: runs their settings on the data at hand, and writes docs/papers.md.

    python -m benchmarks.papers                              # every study; about fifteen minutes on two cores
    python -m benchmarks.papers --only flamby --data FOLDER  # one study; FOLDER holds the files that [data] names
    python -m benchmarks.papers --write                      # the page again from the published tables

The scenarios are ``scenarios/papers/*.toml``. A study's table of runs is published in ``results/reference/papers/``,
and every figure of ours on the page is computed from there.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from benchmarks.reference import REFERENCE, ROOT, markdown
from sim import run
from sim.foundation.text import epsilon_text, score_text, seconds_text
from sim.methods.labels import method_label
from sim.report.summary import summarise
from sim.scenario import Scenario, load_scenario

SCENARIOS = ROOT / "scenarios" / "papers"
PUBLISHED = REFERENCE / "papers"
PAGE = ROOT / "docs" / "papers.md"
DATA = ROOT.parent / "shared" / "data"
MARKED = re.compile(r"(<!-- papers:begin -->\n).*?(<!-- papers:end -->)", re.DOTALL)
NOT_YET = "not run yet"
KEPT = (
    "strategy", "cut", "seed", "status", "rounds", "accuracy", "within_clinic_auc", "auc", "sim_seconds",
    "epsilon_server", "smashed_reconstruction_r2",
)  # fmt: skip
"""Columns that are published, beside swept and tuned ones."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One line of the table."""

    study: str  # Name of the scenario that it is held against
    paper: str
    printed: str
    ours: Callable[[pd.DataFrame], str]  # From the study's table of runs
    why: str


def scores(runs: pd.DataFrame, metric: str, names: Sequence[str] = ()) -> str:
    """Say the mean of a metric by method, with its interval over seeds; of all methods, or of those named."""
    means = summarise(runs.assign(method=method_names(runs)), ["method"], metric).set_index("method")
    return "; ".join(f"{name} {score_text(*means.loc[name, ['mean', 'half_width']])}" for name in names or means.index)


def method_names(runs: pd.DataFrame) -> list[str]:
    """Name each run's method without its cut, which is vanilla in all these studies."""
    return [method_label(strategy) for strategy in runs["strategy"]]


def seconds(runs: pd.DataFrame, slowest: str) -> str:
    """Say each method's simulated time a round, and how many times less it is than one of them."""
    times = (runs["sim_seconds"] / runs["rounds"]).groupby(method_names(runs), sort=False).mean()
    return "; ".join(
        f"{name} {seconds_text(time)}" + (f" ({times[slowest] / time:.1f} times less)" if name != slowest else "")
        for name, time in times.items()
    )


def split_and_whole(runs: pd.DataFrame) -> str:
    """Say whether the split network scored as the whole one did, to the last digit."""
    metrics = ["accuracy", "within_clinic_auc"]
    whole, split = (runs.loc[runs["strategy"] == name].set_index("seed")[metrics] for name in ("centralised", "split"))
    said = "the same to the last digit" if whole.equals(split) else "NOT the same"
    return f"{scores(runs, 'accuracy', ['Centralised', 'Split learning'])}: {said} for each seed"


def reconstructed(runs: pd.DataFrame) -> str:
    """Say how much of the records comes back from their rows at the cut."""
    rows = runs[runs["strategy"] == "split"]
    [(mean, half)] = summarise(rows, ["strategy"], "smashed_reconstruction_r2")[["mean", "half_width"]].to_numpy()
    return f"linear regression from the rows recovers {score_text(mean, half)} of the beats' variance"


def noised(runs: pd.DataFrame) -> str:
    """Say the accuracy at each amount of noise, and what the same noise is worth behind a frozen head."""
    key = "privacy.noise-multiplier"
    means = summarise(runs, [key, "strategy"], "accuracy").set_index([key, "strategy"])
    epsilons = runs.groupby([key, "strategy"])["epsilon_server"].max()
    return "; ".join(
        f"{STRENGTH / multiplier:.0f}: {score_text(*means.loc[(multiplier, 'split'), ['mean', 'half_width']])} "
        f"(frozen head {score_text(means.loc[(multiplier, 'frozen head'), 'mean'])}, "
        f"epsilon {epsilon_text(epsilons[multiplier, 'frozen head'])})"
        for multiplier in sorted(runs[key].unique())
    )


STRENGTH = 0.26
"""Noise multiplier at which our noise has, over a row's norm, the standard deviation that theirs has at epsilon 1."""
THAPA, ABUADBBA, GAWALI = "Thapa et al. 2022 (SplitFed)", "Abuadbba et al. 2020", "Gawali et al. 2020"
CLAIMS: tuple[Claim, ...] = (
    Claim(
        study="xrays",
        paper=THAPA,
        printed="V1 and V2 reach test accuracies similar to split learning's (skin lesions, Fashion-MNIST and others)",
        ours=lambda runs: f"chest X-rays, accuracy: {scores(runs, 'accuracy')}",
        why="Holds within two hundredths. Other images, a small CNN for their ResNet-18, 10 rounds for their 200, "
        "SGD for Adam; V1 is federated averaging bit for bit, whose clinics take a fifth of the steps on one model.",
    ),
    Claim(
        study="xrays",
        paper=THAPA,
        printed="SplitFed needs around five times less time a round than split learning (preprint's abstract)",
        ours=lambda runs: f"five clinics, simulated time a round: {seconds(runs, 'Split learning')}",
        why="Holds for V1. V2 as their code runs it, client after client, waits as a relay does; it is as fast as V1 "
        "only where the server serves the batches of all clinics in turn (V2, by batch). Their cost table has no queue "
        "at the server.",
    ),
    Claim(
        study="heart-centres",
        paper=THAPA,
        printed="The same two claims",
        ours=lambda runs: (
            f"four real centres, accuracy: {scores(runs, 'accuracy')}; time a round: {seconds(runs, 'Split learning')}"
        ),
        why="Centres differ in their patients, which theirs did not; methods cannot be told apart in accuracy.",
    ),
    Claim(
        study="different-clinics",
        paper=GAWALI,
        printed="SplitFed V3 performs better than split learning and V2; turns by mini-batch perform better than turns by "
        "clinic (abstract)",
        ours=lambda runs: (
            f"within-clinic AUC: {scores(runs, 'within_clinic_auc')}; accuracy: {scores(runs, 'accuracy')}"
        ),
        why="Not their images (tuberculosis at five sources, DenseNet).",
    ),
    Claim(
        study="heartbeats",
        paper=ABUADBBA,
        printed="Split equals whole; accuracy .989 (best of 10 runs and 400 epochs; released logs: mean .985, and "
        ".910 ± .020 (standard deviation) after 30 epochs)",
        ours=split_and_whole,
        why="Holds exactly. Ours after 30 epochs, no epoch chosen by held-out beats. Five other classes (AAMI, not "
        "balanced), 8,456 beats in place of 13,245, no softmax before the loss (theirs has two), no denoising. Beats "
        "of one person are in training and test, in theirs too; between people the figure is far lower "
        "([heartbeats](heartbeats.md)).",
    ),
    Claim(
        study="heartbeats",
        paper=ABUADBBA,
        printed="Rows at the cut leak the signal: distance correlation up to .89 for one of 16 channels",
        ours=reconstructed,
        why="Holds. Suture measures no distance correlation: its attack reconstructs the records.",
    ),
    Claim(
        study="heartbeat-noise",
        paper=ABUADBBA,
        printed="Laplace noise at the cut, by their epsilon, accuracy 10: .892; 7: .873; 5: .837; 3: .738; 1: .506 "
        "(.984 without)",
        ours=noised,
        why="Noise costs, in the same order. Ours is Gaussian on clipped rows, of the same standard deviation over a "
        "row's norm; the trained model is tested without noise, theirs with it. Their epsilon is for one number of one "
        "row: a row has 512, each beat leaves in each of 400 epochs, the range comes from the batch and the head is "
        "trained without protection, so that no epsilon follows; by their own count it is at least 204,800 times as "
        "large. Ours (records replaced, delta 1e-5) needs the head frozen, here at random values.",
    ),
)


def table(published: Path) -> str:
    """Return the page's table.

    Parameters
    ----------
    published : Path
        The folder that :func:`publish` has filled; a study that is missing there is said to be.

    Returns
    -------
    str
        Markdown.
    """
    rows = []
    for claim in CLAIMS:
        path = published / f"{claim.study}.csv"
        ours = claim.ours(pd.read_csv(path, keep_default_na=False, na_values=[""])) if path.exists() else NOT_YET
        rows.append((claim.paper, claim.printed, ours, claim.why))
    return markdown(pd.DataFrame(rows, columns=["Paper", "Claim and figure", "Ours", "Why different"]))


def publish(runs: pd.DataFrame, path: Path) -> None:
    """Write what the page needs of a study's runs."""
    extra = [column for column in runs.columns if "." in column]
    path.parent.mkdir(parents=True, exist_ok=True)
    runs[[column for column in (*KEPT, *extra) if column in runs]].to_csv(path, index=False)


def scenario_of(study: str, data: Path) -> Scenario | None:
    """Load a study's scenario with its file in the folder of data; None if it needs one that is not there."""
    path = SCENARIOS / f"{study}.toml"
    file = getattr(load_scenario(path).data, "path", None)
    if file is None:
        return load_scenario(path)
    there = data / Path(file).name
    return load_scenario(path, [f'data.path="{there}"']) if there.exists() else None


def write_page(page: Path, published: Path) -> None:
    """Write the generated part of the page."""
    text = page.read_text(encoding="utf-8")
    page.write_text(MARKED.sub(lambda found: found[1] + table(published) + found[2], text), encoding="utf-8")


def main() -> int:
    """Run the studies that are asked for and write the page."""
    studies = list(dict.fromkeys(claim.study for claim in CLAIMS))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=studies, nargs="+", default=studies, metavar="NAME")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the files that the scenarios name")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="run nothing; write the page from the published tables")
    options = parser.parse_args()
    for study in () if options.write else options.only:
        scenario = scenario_of(study, options.data)
        if scenario is None:
            print(f"{study}: skipped, its file is not in {options.data}; name the folder with --data", file=sys.stderr)
            continue
        publish(run(scenario, ROOT / "results" / "papers", jobs=options.jobs), PUBLISHED / f"{study}.csv")
        print(f"{study}: done", flush=True)
    write_page(PAGE, PUBLISHED)
    return 0


if __name__ == "__main__":
    sys.exit(main())
