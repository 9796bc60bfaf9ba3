"""What the attack studies found, as a table of the README: each attack by the depth of the cut, with and without DP.

The studies are ``scenarios/attacks*.toml``; :mod:`benchmarks.reference` runs them and keeps ``attacks.csv``.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import pandas as pd

from sim.foundation.text import score_text, seconds_text
from sim.report.attacks import attack_points, attack_words
from sim.report.spoken import HEADLINE
from sim.report.study import StudyResults

STUDIES: Final = {"attacks": "heart", "attacks-digits": "digits", "attacks-heartbeats": "heartbeats"}
"""Name of a study, and of its data."""
MOST_BYTES: Final = 600_000
"""Larger pictures are not published."""
TOLD: Final = ("Model user, RMIA", "Server, row membership", "Server, decoder", "Server, label norm")
BARE: Final = "no DP"
_DEPTH: Final = "model.cut"


def publish(study: StudyResults, folder: Path, to: Path) -> None:
    """Write ``attacks.csv``, what was measured by method, level, depth and attack, with its pictures.

    Nothing without named attacks.
    """
    if study.attacks.empty:
        return
    points = attack_points(study, HEADLINE)
    runs = study.drawn.groupby(["series", "level"], observed=True)[["sim_seconds"]].mean()
    if _DEPTH in study.drawn:
        runs["depth"] = study.drawn.groupby(["series", "level"], observed=True)[_DEPTH].first()
    points.merge(runs.reset_index(), on=["series", "level"]).to_csv(to / "attacks.csv", index=False)
    said = [f"- {sentence}\n" for sentence in attack_words(study, HEADLINE)]
    (to / "attacks.md").write_text("".join(said), encoding="utf-8")
    for path in (*folder.glob("figures/attacks-*.svg"), folder / "reconstructions.html"):
        if path.exists() and path.stat().st_size < MOST_BYTES:
            shutil.copy(path, to / path.name)


def table(reference: Path) -> pd.DataFrame:
    """Return, by data set and attack, what it found at each depth of the cut: least to most over methods.

    Where nothing is cut there is one depth, the first.
    """
    rows = []
    for name, data in STUDIES.items():
        path = reference / name / "attacks.csv"
        if not path.exists():
            continue
        points = pd.read_csv(path)
        protected = [level for level in points["level"].unique() if level != BARE]
        for (adversary, attack, measure), own in points.groupby(["adversary", "attack", "measure"], sort=False):
            row = {
                "Data": data,
                "Attack": f"{attack}, {str(adversary).lower()}",
                "Measure": measure,
                "Guessing": score_text(own["chance"].mean()),
            }
            for depth in (1, 2, 3):
                row[f"cut {depth}"] = _span(own[(own["level"] == BARE) & (own["depth"] == depth)])
            row[f"all cuts, {protected[0]}"] = _span(own[own["level"] == protected[0]])
            rows.append(row)
    return pd.DataFrame(rows)


def sentences(reference: Path) -> list[str]:
    """Return what :data:`TOLD` attacks found most, with the interval, a line each."""
    found = []
    for name, data in STUDIES.items():
        path = reference / name / "attacks.md"
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            told = [line for line in lines if line.startswith(tuple(f"- {attack}: " for attack in TOLD))]
            found += [line.replace("- ", f"- {data.capitalize()}. ", 1) for line in told]
    return found


def _span(own: pd.DataFrame) -> str:
    if own.empty:
        return "–"
    least, most = own["mean"].min(), own["mean"].max()
    return score_text(least) if most - least < 5e-4 else f"{score_text(least)} to {score_text(most)}"


def times(reference: Path) -> str:
    """Say how simulated time grows with the depth of the cut, as a mean over methods that cut, without DP."""
    said = []
    for name, data in STUDIES.items():
        path = reference / name / "attacks.csv"
        if path.exists():
            points = pd.read_csv(path)
            cut = points[(points["level"] == BARE) & points["series"].str.contains(", cut [0-9]", regex=True)]
            means = cut.drop_duplicates("series").groupby("depth")["sim_seconds"].mean()
            said.append(f"{data} {', '.join(seconds_text(value) for value in means)}")
    return f"Simulated time of a run at cut 1, 2 and 3, mean over methods that cut: {'; '.join(said)}."
