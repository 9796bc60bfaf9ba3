"""What the page of papers says of our figures stands in the published tables."""

import math

import pandas as pd
import pytest

from benchmarks import papers
from sim.scenario import load_scenario


def runs(**accuracies):
    """Return runs on seeds 0, 1, ... of strategies with these accuracies, of 10 rounds that take 20 seconds."""
    rows = [
        {
            "run_id": f"{strategy}{seed}",
            "strategy": strategy,
            "seed": seed,
            "status": "ok",
            "rounds": 10,
            "sim_seconds": 20.0,
        }
        | {"accuracy": accuracy, "within_clinic_auc": accuracy}
        for strategy, values in accuracies.items()
        for seed, accuracy in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_the_page_says_what_the_published_tables_say():
    found = papers.MARKED.search(papers.PAGE.read_text(encoding="utf-8"))
    assert found[0] == found[1] + papers.table(papers.PUBLISHED) + found[2], "run: python -m benchmarks.papers --write"


def test_each_claim_names_a_scenario_and_each_scenario_is_used():
    assert {claim.study for claim in papers.CLAIMS} == {path.stem for path in papers.SCENARIOS.glob("*.toml")}
    for path in papers.SCENARIOS.glob("*.toml"):
        assert load_scenario(path).name == path.stem


def test_a_study_that_has_not_run_is_said_to_be(tmp_path):
    lines = papers.table(tmp_path).splitlines()
    assert len(lines) == 2 + len(papers.CLAIMS)
    assert all(line.split(" | ")[2] == papers.NOT_YET for line in lines[2:])


def test_the_page_is_written_between_its_marks(tmp_path):
    page = tmp_path / "papers.md"
    page.write_text("above\n<!-- papers:begin -->\nold\n<!-- papers:end -->\nbelow\n", encoding="utf-8")
    papers.write_page(page, tmp_path)
    text = page.read_text(encoding="utf-8")
    assert "\nold\n" not in text
    assert text.startswith("above\n<!-- papers:begin -->\n| Paper | ")
    assert text.endswith("<!-- papers:end -->\nbelow\n")


def test_means_and_intervals_by_hand(tmp_path):
    study = papers.Study.of(runs(fedavg=[0.80, 0.82, 0.84], split=[0.9, 0.9, 0.9]).assign(wall_seconds=1.0), None)
    study.write(tmp_path / "study")
    study = papers.Study.read(tmp_path / "study")
    assert "wall_seconds" not in study.runs
    assert papers.scores(study, "accuracy", ["split"]) == "Split learning .900±.000"
    # Student's quantile of two degrees of freedom is 4.303; without predictions a third of the records counts as held
    # out and as the same patients on every seed (Nadeau & Bengio): the variance is .02^2 times 1/3 + .5.
    half = f"{4.303 * 0.02 * math.sqrt(1 / 3 + 0.5):.3f}".removeprefix("0")
    assert (
        papers.less(study, "accuracy", "split", ["fedavg"]) == f"less Split learning: FedAvg −.080±{half} (different)"
    )
    assert (
        papers.less(study, "accuracy", "fedavg", ["split"]) == f"less FedAvg: Split learning +.080±{half} (different)"
    )


def test_values_of_a_swept_key_are_apart():
    parts = [runs(fedavg=[0.5 + low, 0.7 + low]).assign(**{"privacy.clip": low, "tuned.lr": 0.1}) for low in (0.0, 0.1)]
    table = pd.concat(parts).assign(run_id=list("abcd"))
    study = papers.Study.of(table, None)
    assert papers.scores(study, "accuracy", clip=0.1) == "FedAvg .700"
    assert papers.scores(study, "accuracy", clip=0.0) == "FedAvg .600"
    assert "tuned.lr" in study.runs


def test_seconds_a_round_and_how_many_times_less_they_are():
    table = runs(split=[0.5, 0.6], **{"splitfed-v1": [0.5, 0.6]})
    table.loc[table["strategy"] == "splitfed-v1", "sim_seconds"] = 5.0
    said = papers.seconds(papers.Study.of(table, None), ["split", "splitfed-v1"])
    assert said == "Split learning 2 s; SplitFed V1 500 ms (4.0 times less)"


@pytest.mark.parametrize(("split", "said"), [([0.9, 0.8], "the same"), ([0.9, 0.8000001], "NOT the same")])
def test_split_equals_whole_only_to_the_last_digit(split, said):
    study = papers.Study.of(runs(centralised=[0.9, 0.8], split=split), None)
    assert f"; {said}" in papers.split_and_whole(study)


def test_without_its_file_a_study_is_skipped(tmp_path):
    assert papers.scenario_of("xrays", tmp_path) is None
    (tmp_path / "pneumoniamnist_28.npz").touch()
    assert papers.scenario_of("xrays", tmp_path).data.path == tmp_path / "pneumoniamnist_28.npz"
    assert papers.scenario_of("heart-centres", tmp_path).name == "heart-centres"
