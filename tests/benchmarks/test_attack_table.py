"""The README's table of attacks: spans over methods by hand, and nothing of studies that were not run."""

import pandas as pd
import pytest

from benchmarks.attacks import publish, table, times
from sim import run
from sim.report.reading import read_results

STUDY = """
name = "attacked"
seeds = [0]
[data]
source = "synthetic"
clinics = 3
records = 120
features = 4
[model]
name = "mlp"
hidden = [6, 4]
[train]
rounds = 1
batch-size = 16
learning-rate = 0.1
[[strategies]]
name = "split"
[sweep]
"model.cut" = [1, 2]
[[attacks]]
name = "decoder"
options = { records = 20, steps = 5 }
"""


def written(folder, rows):
    columns = ["series", "level", "depth", "adversary", "attack", "measure", "mean", "chance", "sim_seconds"]
    folder.mkdir(parents=True)
    pd.DataFrame(rows, columns=columns).to_csv(folder / "attacks.csv", index=False)


def test_spans_are_over_methods_at_each_depth(tmp_path):
    rows = [
        (f"{method}, cut {depth}", level, depth, "Server", "decoder", "R²", value - depth / 10 - less, 0.0, 2.0 * depth)
        for method, value in (("V1", 0.9), ("V2", 0.8))
        for depth in (1, 2, 3)
        for level, less in (("ε = 1", 0.3), ("no DP", 0.0))
    ]
    written(tmp_path / "attacks-digits", rows)
    [found] = table(tmp_path).to_dict("records")
    assert found == {
        "Data": "digits", "Attack": "decoder, server", "Measure": "R²", "Guessing": ".000",
        "cut 1": ".700 to .800", "cut 2": ".600 to .700", "cut 3": ".500 to .600", "all cuts, ε = 1": ".200 to .500",
    }  # fmt: skip
    assert times(tmp_path).endswith("digits 2 s, 4 s, 6 s.")


def test_nothing_is_said_of_what_was_not_run(tmp_path):
    assert table(tmp_path).empty


def test_a_study_with_attacks_is_published_with_what_they_found(tmp_path):
    (tmp_path / "attacked.toml").write_text(STUDY, encoding="utf-8")
    run(tmp_path / "attacked.toml", tmp_path)
    folder, to = tmp_path / "attacked", tmp_path / "published"
    to.mkdir()
    study = read_results(folder)
    publish(study, folder, to)
    found = pd.read_csv(to / "attacks.csv")
    decoder = found[found["attack"] == "decoder"]
    assert decoder["depth"].tolist() == [1, 2]
    values = study.attacks.query("measure == 'r2' and clinic == ''")["value"]
    assert sorted(decoder["mean"]) == pytest.approx(sorted(values))
