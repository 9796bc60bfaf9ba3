"""The reference study: run its scenarios, keep what is worth keeping, and write what the README says of it.

    python -m benchmarks.reference                          # ``make reference``; about half an hour on two cores
    python -m benchmarks.reference --only heart --data DIR  # one study; DIR holds the files that [data] names
    python -m benchmarks.reference --write                  # the README's part again, from what is published

Of each study the table of runs, the means and what can be concluded go to ``results/reference/<study>/``, of those in
``scenarios/`` itself also tables, figures and the report; every figure in the README comes from there.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd

from benchmarks import attacks
from benchmarks.across import average_ranks, differences
from benchmarks.across import scores as over_data_sets
from benchmarks.rank_figure import rank_picture
from sim.foundation.text import bytes_text, count_text, listed, score_text, seconds_text
from sim.methods.labels import method_label
from sim.report.compare import as_text, compare
from sim.report.held_out import MARGIN
from sim.report.pictures import svg
from sim.report.points import with_levels
from sim.report.reading import read_results
from sim.report.summary import PREVALENCE, successful_runs, summarise
from sim.report.table import results_frame
from sim.report.words import conclusions

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "results" / "reference"
DATA = ROOT.parent / "shared" / "data"
RANKS = REFERENCE / "ranks.svg"
STUDIES = {
    path.stem: path
    for path in [
        *(ROOT / "scenarios" / f"{name}.toml" for name in ("heart", "rural", "privacy", "trust", *attacks.STUDIES)),
        *sorted((ROOT / "scenarios" / "reference").glob("*.toml")),
    ]
}
WITH_PICTURES = ("heart", "rural", "privacy")
MARKED = re.compile(r"(<!-- reference:begin -->\n).*?(<!-- reference:end -->)", re.DOTALL)
METHODS = (("fedavg", ""), ("split", "vanilla"), ("splitfed-v1", "vanilla"), ("splitfed-v2", "vanilla"))
SCORE = "within_clinic_auc"
REFERENCE_METHOD = "FedAvg"
NOT_YET = "`make reference` runs the reference study and writes here what it found.\n"


def publish(study: Path, to: Path, *, pictures: bool) -> None:
    """Copy the publishable part of a finished study.

    Parameters
    ----------
    study : Path
        The study's folder.
    to : Path
        Its folder in the reference; replaced if it is there.
    pictures : bool
        Whether figures and report are published too.
    """
    found = read_results(study)
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    found.runs.drop(columns="wall_seconds").to_csv(to / "runs.csv", index=False)
    summarise(found.ok, ["level", "series"], SCORE, found.held_out).to_csv(to / "means.csv", index=False)
    said = [f"- {level or 'Limits'}: {finding}\n" for level, finding in conclusions(found)]
    (to / "conclusions.md").write_text("".join(said), encoding="utf-8")
    attacks.publish(found, study, to)
    if not pictures:
        return
    (to / "results.md").write_text(markdown(results_frame(found.runs, found.held_out)), encoding="utf-8")
    (to / "comparison.md").write_text(
        as_text(
            compare(found.runs, ["strategy", "cut"], SCORE, {}, found.held_out, found.trials, found.rounds), "markdown"
        ),
        encoding="utf-8",
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
    if not (reference / "heart" / "means.csv").exists():
        return NOT_YET
    heart = read_runs(reference / "heart")
    said = dict(line.removeprefix("- ").split(": ", 1) for line in _lines(reference / "heart" / "conclusions.md"))
    found = [
        f"On the heart-disease records of four real centres, within-clinic AUC after {heart['rounds'].max()} rounds, "
        "every method at the settings that it chose on validation records; mean ± half-width of the 95 % interval over "
        f"patients and {heart['seed'].nunique()} seeds (`results/reference/heart`):\n",
        scores(pd.read_csv(reference / "heart" / "means.csv")),
        *(f"- {level}: {said[level]}" for level in ("no DP", "ε = 3", "Limits") if level in said),
    ]
    if len(studies := _tuned(reference)) > 1:
        found += ["", *together(studies)]
    if (reference / "rural" / "runs.csv").exists():
        rural = read_runs(reference / "rural")
        found += [
            f"\nTwenty clinics on thin lines, {rural['rounds'].max()} rounds, simulated time and traffic of a whole "
            "run (`results/reference/rural`):\n",
            costs(rural),
        ]
    if (reference / "trust" / "means.csv").exists():
        trust = pd.read_csv(reference / "trust" / "means.csv")
        found += [
            "\nWhom clinics must trust: within-clinic AUC at the same ε against the server (where clinics collude with "
            "it, against all of them), heart, tuned; labels count as public where rows are noised. Compare noise on "
            "gradients in one column with noise on rows in the next: ε of the former is for zero-out, of the latter "
            "for replace-one (`scenarios/trust.toml`, `results/reference/trust`):\n",
            markdown(by_level(trust[trust["series"] != "Prevalence alone"])),
        ]
    if len(attacked := attacks.table(reference)):
        found += [
            "\nWhat attacks find, least to most over methods: without DP by the depth of the cut, and at the strongest "
            "DP-SGD over all cuts (`scenarios/attacks*.toml`; intervals: `results/reference/attacks*/attacks.csv`). "
            "An attack that fails proves no privacy.\n",
            markdown(attacked),
            attacks.times(reference),
            "\nWhere these found most, with the 95 % interval of that setting by itself:\n",
            *attacks.sentences(reference),
        ]
    return "\n".join(found) + "\n"


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def _tuned(reference: Path) -> dict[str, pd.DataFrame]:
    """Return the successful runs of the studies that compare methods, by data set, without what is no method."""
    studies = {}
    for name, path in STUDIES.items():
        if (name == "heart" or path.parent.name == "reference") and (reference / name / "runs.csv").exists():
            ok = with_levels(successful_runs(read_runs(reference / name)))
            studies[name] = ok[
                (ok["strategy"] != PREVALENCE) & (ok["cut"] != "u-shaped") & (ok["strategy"] != "fedprox")
            ]
    return studies


def together(studies: dict[str, pd.DataFrame]) -> list[str]:
    """Say what holds over data sets: differences from one method, and ranks."""
    table = over_data_sets(studies, SCORE)
    gaps = differences(table, REFERENCE_METHOD, MARGIN)
    levels = [level for level in dict.fromkeys(gaps["level"]) if (gaps["level"] == level).any()]
    frame = pd.DataFrame({"Method": list(dict.fromkeys(gaps["method"]))})
    for level in levels:
        own = gaps[gaps["level"] == level].set_index("method")
        frame[str(level)] = [score_text(*own.loc[name, ["mean", "half_width"]]) for name in frame["Method"]]
    said = [
        f"Over {len(studies)} data sets ({listed(list(studies))}), each counted once: within-clinic AUC less that of "
        f"{REFERENCE_METHOD}; mean ± half-width of the 95 % interval over data sets, which holds for all methods at a "
        "level together (`scenarios/reference/` says what was cut to fit):\n",
        markdown(frame),
    ]
    for level in levels:
        own = gaps[gaps["level"] == level]
        ranks, gap = average_ranks(table[table["level"] == level])
        spelled = [f"{name} {rank:.1f}" for name, rank in ranks.items()]
        verdicts = [
            f"{listed(own.loc[own['verdict'] == kind, 'method'].tolist())}: {kind}"
            for kind in dict.fromkeys(own["verdict"])
        ]
        said.append(
            f"- {level}: from {REFERENCE_METHOD}, {'; '.join(verdicts)} (margin {score_text(MARGIN)}). Average ranks: "
            f"{', '.join(spelled)}; those less than {gap:.1f} apart cannot be told apart (Nemenyi)."
        )
    said.append(
        "\n![Average ranks of the methods over the data sets, by level of privacy, with Nemenyi's critical difference]"
        f"({RANKS.relative_to(ROOT)})\n\n*Average ranks over the data sets: two methods whose bars do not overlap can "
        "be told apart (Nemenyi's test at 5 %, Demšar 2006).*\n"
    )
    counts = sorted(runs["seed"].nunique() for runs in studies.values())
    seeds = count_text(counts[-1], "seed") if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]} seeds"
    made_up = sum(name.startswith("made-up") for name in studies)
    said.append(
        f"- Limits: intervals and ranks take the data sets for a sample of all; {made_up} of the {len(studies)} are "
        f"made up by one generator, and each has {seeds}."
    )
    return said


def read_runs(folder: Path) -> pd.DataFrame:
    """Read a published table of runs."""
    runs = pd.read_csv(folder / "runs.csv", keep_default_na=False, na_values=[""])
    return runs.fillna({"cut": ""})


def scores(means: pd.DataFrame) -> str:
    """Return the table of means by method and level of privacy."""
    names = [method_label(*method) for method in METHODS]
    return markdown(by_level(means[means["series"].isin(names)]))


def by_level(means: pd.DataFrame) -> pd.DataFrame:
    """Lay out means with their intervals: a row a series, a column a level."""
    series = list(dict.fromkeys(means["series"]))
    frame = pd.DataFrame({"Method": series})
    levels = sorted(dict.fromkeys(means["level"]), key="no DP".__eq__)
    for level in levels:
        known = means[means["level"] == level].set_index("series")
        frame[str(level)] = [
            score_text(*known.loc[name, ["mean", "half_width"]]) if name in known.index else "–" for name in series
        ]
    return frame


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
    """Run the reference study, publish it and write the README's part."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reference", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(STUDIES), default=list(STUDIES))
    parser.add_argument("--data", type=Path, default=DATA, help="the folder of the files that scenarios name")
    parser.add_argument("--write", action="store_true", help="run nothing; write from what is published")
    given = parser.parse_args()
    for name in () if given.write else given.only:
        path = STUDIES[name]
        file = tomllib.loads(path.read_text(encoding="utf-8"))["data"].get("path")
        file = None if file is None or (path.parent / file).exists() else file
        if file is not None and not (given.data / file).exists():
            print(f"{name}: {given.data / file} is not there, so it is left out; give its folder with --data")
            continue
        place = [] if file is None else ["--set", f"data.path={given.data / file}"]
        suture = Path(sys.executable).with_name("suture")
        subprocess.run([suture, "run", path, "--out", "results", *place], cwd=ROOT, check=True)
        publish(ROOT / "results" / name, REFERENCE / name, pictures=name in WITH_PICTURES)
    if studies := _tuned(REFERENCE):
        RANKS.write_text(svg(rank_picture(over_data_sets(studies, SCORE))), encoding="utf-8")
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    readme.write_text(MARKED.sub(lambda found: found[1] + paragraphs(REFERENCE) + found[2], text), encoding="utf-8")


if __name__ == "__main__":
    main()
