"""``suture report`` makes table, report and figures anew from the run folders, and touches none of these."""

import os
from pathlib import Path

import pandas as pd
import pytest
from support import call_suture, write_csv

from sim import Scenario, run
from sim.foundation.problems import SutureError
from sim.inference.scores import SCORED
from sim.report.held_out import evidence_of
from sim.report.html import write_report
from sim.report.pictures import drawn_beside
from sim.report.reading import read_results
from sim.results import reading
from sim.results.reading import file_bytes
from sim.scenario import parse_scenario


def small(folder: Path) -> Scenario:
    data = {
        "source": "csv",
        "path": str(write_csv(folder / "own.csv")),
        "label": "label",
        "clinic": "clinic",
        "features": ["x0", "x1", "x2", "x3"],
        "scaling": "none",
    }
    return parse_scenario(
        {
            "name": "small",
            "seeds": [4],
            "data": data,
            "model": {"name": "mlp", "hidden": [6, 5], "cut": 1},
            "train": {"rounds": 2, "batch-size": 8, "learning-rate": 0.1},
            "privacy": {"mechanism": "dp-sgd", "clip": 0.5, "delta": 1e-3},
            "evaluation": {"reference": False},
            "strategies": [{"name": "fedavg"}, {"name": "splitfed-v1", "cut": ["vanilla"]}],
            "sweep": {"privacy.epsilon": [2.0, float("inf")]},
        },
        folder,
    )


def test_report_is_rebuilt_from_the_run_folders(tmp_path, capsys, no_vega, monkeypatch):
    table = run(small(tmp_path), out=tmp_path / "out").runs
    study = tmp_path / "out" / "small"
    before = {path: path.stat().st_mtime_ns for path in study.glob("*/*")}
    whole = (study / "runs.parquet").read_bytes()
    (study / "runs.parquet").unlink()
    opened = []
    monkeypatch.setattr(reading, "file_bytes", lambda root, name: opened.append(root / name) or file_bytes(root, name))

    assert call_suture("report", study, "--figures") == 0
    assert sorted(path for path in opened if path.name == "run.json" and path.exists()) == sorted(
        study.glob("*/run.json")
    )  # once each
    assert (study / "runs.parquet").read_bytes() == whole
    printed = capsys.readouterr().out
    assert f"Report: {study / 'report.html'}\n" in printed
    assert "SplitFed V1, vanilla has the highest within-clinic AUC" in printed or "FedAvg has the" in printed
    assert "AUC" in printed.partition("\n\n")[0]
    pd.testing.assert_frame_equal(pd.read_parquet(study / "runs.parquet"), table)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (study / "figures" / "traffic.svg").is_file()
    assert (study / "figures" / "privacy_accuracy.png").read_bytes().startswith(b"\x89PNG")

    results = read_results(study)
    for metric in SCORED:
        known = evidence_of(results.runs.assign(of=results.runs["run_id"]), "of", metric, results.held_out)
        assert dict(zip(known.methods, known.by_seed[0], strict=True)) == pytest.approx(
            dict(zip(table["run_id"], table[metric], strict=True)), abs=1e-6
        )
    page = (study / "report.html").read_text(encoding="utf-8")
    assert write_report(results, study).read_text(encoding="utf-8") == page  # whichever way pandas keeps text
    for title in ("Composed ε of all runs", "Not covered by ε", "All runs, composed"):
        assert title in page
    assert {"All runs, composed", "Runs with a finite ε, composed"} < set(results.composed["Setting"])
    assert results.settings["sweep"] == {"privacy.epsilon": [2.0, float("inf")]}
    assert [s["name"] for s in results.settings["strategies"]] == ["fedavg", "splitfed-v1"]
    assert results.settings["privacy"]["mechanism"] == "dp-sgd"
    assert "epsilon" not in results.settings["privacy"]  # it was swept
    bytes_of = results.traffic.pivot_table(index="run_id", columns="way", values="bytes", aggfunc="sum")
    rows = table.set_index("run_id").loc[bytes_of.index]
    assert bytes_of["up"].tolist() == rows["bytes_up"].tolist()
    assert bytes_of["down"].tolist() == rows["bytes_down"].tolist()
    own = results.clinics.set_index("name").groupby("name")[["class class0", "class class1"]].first()
    assert own.loc["k1"].tolist() == [12, 11]  # 23 records, classes in turn
    assert (own.sum(axis=1) == [7, 23, 40, 64]).all()
    assert {len(statement["adversaries"]) for statement in results.statements.values()} == {3}
    assert [one.method for one in results.clock] == ["FedAvg", "SplitFed V1, vanilla"]
    last = results.rounds.groupby("run_id")["auc"].last()
    assert last.to_dict() == pytest.approx(table.set_index("run_id")["auc"].to_dict())


def test_a_folder_that_is_no_study(tmp_path, capsys):
    assert call_suture("report", tmp_path) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_pictures_that_cannot_be_drawn_are_one_line(tmp_path):
    (tmp_path / "a file").write_text("", encoding="utf-8")
    with pytest.raises(OSError, match="exists"), drawn_beside(tmp_path / "a file") as draw:
        draw({"one": {"data": {"values": []}, "mark": "bar"}})
    with pytest.raises(SutureError, match="pictures died"), drawn_beside(tmp_path / "folder") as draw:
        draw({"one": _Deadly()})


class _Deadly(dict):
    """Ends the process that unpacks it."""

    def __reduce__(self):
        return os._exit, (1,)
