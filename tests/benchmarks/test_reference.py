"""What the README says of the methods stands in the published tables."""

import math
import re

import pandas as pd
from support import TRADE_OFF, write_scenario

from benchmarks.reference import MARKED, METHODS, NOT_YET, REFERENCE, ROOT, paragraphs, publish
from sim import run
from sim.report.gallery import gallery, study_pictures
from sim.report.html import write_report
from sim.report.pictures import draw
from sim.report.reading import read_results
from sim.results.store import as_table


def write_reference(folder):
    """Write the table of a study in which each method's scores are known."""
    rows = [
        {
            **dict.fromkeys(("epsilon_model_user", "epsilon_peer", "epsilon_server"), epsilon),
            "run_id": f"{strategy}{cut}{epsilon}{seed}",
            "study": "heart",
            "strategy": strategy,
            "cut": cut,
            "seed": seed,
            "rounds": 30,
            "status": "ok",
            "auc": 0.8 + 0.02 * seed - 0.1 * number * (epsilon == 3),
            "privacy.epsilon": epsilon,
        }
        for number, (strategy, cut) in enumerate(METHODS)
        for epsilon in (3.0, math.inf)
        for seed in range(3)
    ]
    (folder / "heart").mkdir(parents=True)
    as_table(rows).to_csv(folder / "heart" / "runs.csv", index=False)


def test_the_readme_says_what_the_published_tables_say():
    found = MARKED.search((ROOT / "README.md").read_text(encoding="utf-8"))
    assert found[0] == found[1] + paragraphs(REFERENCE) + found[2], "run: make reference"


def test_means_and_intervals_by_hand(tmp_path):
    assert paragraphs(tmp_path) == NOT_YET
    write_reference(tmp_path)
    text = paragraphs(tmp_path)
    # .80, .82, .84: their deviation is .02, and Student's quantile of two degrees of freedom 4.303; a third of the same
    # records is held out on each seed, half as many as train.
    half = 4.303 * 0.02 * math.sqrt(1 / 3 + 1 / 2)
    shown = f"±{half:.3f}".replace("0.", ".")
    rows = {cells[1].strip(): cells[2:4] for cells in (line.split("|") for line in text.splitlines()) if len(cells) > 3}
    for number, name in enumerate(("FedAvg", "Split learning, vanilla", "SplitFed V1, vanilla")):
        expected = [f".{820}{shown}", f".{820 - 100 * number}{shown}"]
        assert [cell.strip() for cell in rows[name]] == expected
    assert "It is better than Split learning, vanilla; SplitFed V1, vanilla; and SplitFed V2, vanilla." in text
    assert re.search(r"Without DP: .* are equal to it within \.01", text)


def test_a_study_is_published_without_its_run_folders_and_wall_times(tmp_path):
    path = write_scenario(tmp_path, TRADE_OFF)
    table = run(path, tmp_path, jobs=1)
    study = read_results(tmp_path / "small")
    write_report(study, tmp_path / "small")
    draw(study_pictures(study, gallery(study)), tmp_path / "small" / "figures")
    publish(tmp_path / "small", tmp_path / "reference")
    assert {item.name for item in (tmp_path / "reference").iterdir()} == {
        *("runs.csv", "results.md", "comparison.md", "report.html", "figures")
    }
    published = pd.read_csv(tmp_path / "reference" / "runs.csv")
    assert published["auc"].tolist() == table["auc"].tolist()
    assert "wall_seconds" not in published
    assert "SplitFed V1, U-shaped" in (tmp_path / "reference" / "results.md").read_text(encoding="utf-8")


def test_what_is_published_is_small():
    sizes = [path.stat().st_size for path in REFERENCE.rglob("*") if path.is_file()]
    assert sum(sizes) < 8e6
