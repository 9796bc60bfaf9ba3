"""What the README says of the methods stands in the published tables."""

import pandas as pd
import pytest
from support import TRADE_OFF, write_scenario

from benchmarks.reference import MARKED, METHODS, NOT_YET, REFERENCE, ROOT, paragraphs, publish, scores, together
from sim import run
from sim.methods.labels import method_label
from sim.report.gallery import gallery, study_pictures
from sim.report.html import write_report
from sim.report.pictures import draw
from sim.report.reading import read_results


def cells_of(text):
    """Return the rows of Markdown tables, by their first cell."""
    lines = (line.split("|") for line in text.splitlines() if line.startswith("| "))
    return {cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for cells in lines}


def test_the_readme_says_what_the_published_tables_say():
    found = MARKED.search((ROOT / "README.md").read_text(encoding="utf-8"))
    assert found[0] == found[1] + paragraphs(REFERENCE) + found[2], "run: make reference"


def test_nothing_is_said_of_studies_that_were_not_run(tmp_path):
    assert paragraphs(tmp_path) == NOT_YET


def test_the_table_has_a_row_a_method_and_a_column_a_level():
    names = [method_label(*method) for method in METHODS]
    rows = [(level, name, 0.8, 0.0125) for level in ("ε = 3", "no DP") for name in [*names, "Local"]]
    table = cells_of(scores(pd.DataFrame(rows, columns=["level", "series", "mean", "half_width"])))
    assert table["Method"] == ["ε = 3", "no DP"]
    assert list(table)[2:] == names
    assert table["FedAvg"] == [".800±.013"] * 2


def test_several_data_sets_are_told_as_differences_that_each_counts_once():
    studies = {}
    for number, gap in enumerate((0.03, 0.02, 0.04)):
        rows = [
            ("no DP", name, 0.7 + 0.1 * number + own, seed)
            for seed in range(number + 1)
            for name, own in (("FedAvg", 0.0), ("Local", -gap), ("V", 0))
        ]
        studies[f"{'data' if number else 'made-up'}-{number}"] = pd.DataFrame(
            rows, columns=["level", "series", "within_clinic_auc", "seed"]
        )
    said = "\n".join(together(studies))
    # Differences of -.03, -.02 and -.04: their deviation is .01, and Student's quantile at 1.25 % of two degrees 6.205.
    assert cells_of(said)["Local"] == [f"-.030±{6.205 * 0.01 / 3**0.5:.3f}".replace("0.", ".")]
    assert cells_of(said)["V"] == [".000±.000"]
    assert "Local: no conclusion; V: equal within the margin" in said
    # All have the ranks 1.5, 1.5 and 3; Demšar's quantile for three methods is 2.343.
    assert "Average ranks: FedAvg 1.5, V 1.5, Local 3.0" in said
    assert said.endswith("1 of the 3 are made up by one generator, and each has 1 to 3 seeds.")
    assert f"those less than {2.343 * (12 / 18) ** 0.5:.1f} apart" in said


def test_a_study_is_published_without_its_run_folders_and_wall_times(tmp_path):
    path = write_scenario(tmp_path, TRADE_OFF)
    table = run(path, tmp_path, jobs=1).runs
    study = read_results(tmp_path / "small")
    write_report(study, tmp_path / "small")
    draw(study_pictures(study, gallery(study)), tmp_path / "small" / "figures")
    publish(tmp_path / "small", tmp_path / "reference", pictures=True)
    assert {item.name for item in (tmp_path / "reference").iterdir()} == {
        *("runs.csv", "means.csv", "conclusions.md", "results.md", "comparison.md", "report.html", "figures")
    }
    published = pd.read_csv(tmp_path / "reference" / "runs.csv")
    assert published["auc"].tolist() == table["auc"].tolist()
    assert "wall_seconds" not in published
    assert "SplitFed V1, U-shaped" in (tmp_path / "reference" / "results.md").read_text(encoding="utf-8")
    means = pd.read_csv(tmp_path / "reference" / "means.csv")
    assert means["mean"].tolist() == pytest.approx(
        study.ok.groupby(["level", "series"], sort=False, observed=True)["within_clinic_auc"].mean().tolist()
    )
    publish(tmp_path / "small", tmp_path / "reference", pictures=False)
    assert {item.name for item in (tmp_path / "reference").iterdir()} == {"runs.csv", "means.csv", "conclusions.md"}


def test_what_is_published_is_small():
    sizes = [path.stat().st_size for path in REFERENCE.rglob("*") if path.is_file()]
    assert sum(sizes) < 12e6
