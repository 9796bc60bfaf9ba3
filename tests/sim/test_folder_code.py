"""Code that a folder or a scenario names is imported only where it is trusted; names and cells can do nothing."""

import json
import os
import shutil
import sys

import pandas as pd
import pytest
from folders import MARK, SCENARIO, arguments
from support import write_csv

from sim import run
from sim.scenario import load_scenario

# Code that a folder names


EVIL = """
from pathlib import Path

Path({told!r}).write_text("imported", encoding="utf-8")

from torch import nn


def net(shape, outputs):
    return [("first", nn.Linear(shape[0], 3)), ("output", nn.Linear(3, outputs))]
"""


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A study whose model is a factory of a module that tells when it is imported; the module, and what it tells."""
    (tmp_path / "code").mkdir()
    module, told = tmp_path / "code" / "evil_7731.py", tmp_path / "told"
    module.write_text(EVIL.format(told=str(told)), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "code")
    write_csv(tmp_path / "own.csv")
    text = SCENARIO.replace('name = "mlp"\nhidden = [6, 5]', 'name = "factory"\nfactory = "evil_7731:net"')
    imported = '[[strategies]]\nname = "flwr.serverapp.strategy.FedAvgM"\n'
    text = text.replace("[sweep]", imported + "[sweep]").replace('"privacy.epsilon" = [2.0, inf]', "")
    text = text.replace('mechanism = "dp-sgd"\ndelta = 1e-3', 'mechanism = "none"')
    (tmp_path / "small.toml").write_text(text, encoding="utf-8")
    run(load_scenario(tmp_path / "small.toml"), out=tmp_path / "out")
    study = tmp_path / "out" / "small"
    table = pd.read_parquet(study / "runs.parquet").set_index("strategy")
    assert set(table["status"]) == {"ok"}
    told.unlink()
    del sys.modules["evil_7731"]
    yield study, study / table.loc["fedavg", "run_id"], tmp_path, told
    sys.modules.pop("evil_7731", None)


def test_no_reader_imports_what_a_folder_names_nor_opens_its_data(evil, suture, no_vega):
    study, one, folder, told = evil
    csv = (folder / "own.csv").read_bytes()
    (folder / "own.csv").unlink()
    os.mkfifo(folder / "own.csv")  # whoever opens it waits for ever
    shutil.move(folder / "code", folder / "gone")
    for command in ("report", "compare", "target", "status", "rebuild", "epsilon", "verify"):
        code, _, err = suture(*arguments(command, folder / "small.toml", study, one))
        assert (code, err) == (0, ""), command
    assert "Timeline of a round" in (study / "report.html").read_text(encoding="utf-8")
    (folder / "own.csv").unlink()
    (folder / "own.csv").write_bytes(csv)
    shutil.move(folder / "gone", folder / "code")
    for command in ("rerun", "replan"):
        code, out, err = suture(command, one)
        assert (code, out) == (2, "")
        assert err == (
            f'{one}: would import and run factory "evil_7731:net", as its run.json says; '
            "if you trust whoever made the folder, add --trust\n"
        )
    assert not told.exists()
    assert suture("rerun", one, "--trust")[0] == 0
    assert told.read_text(encoding="utf-8") == "imported"


def test_a_strategy_by_import_path_needs_trust_too(evil, suture):
    study, _, folder, _ = evil
    [one] = [
        path.parent
        for path in study.glob("*/run.json")
        if json.loads(path.read_text(encoding="utf-8"))["row"]["strategy"].startswith("flwr")
    ]
    code, _, err = suture("replan", one)
    assert (code, 'strategy "flwr.serverapp.strategy.FedAvgM"' in err, "--trust" in err) == (2, True, True)
    code, out, _ = suture("check", folder / "small.toml")
    assert code == 0
    told = 'imports code and runs it: factory "evil_7731:net", strategy "flwr.serverapp.strategy.FedAvgM".'
    assert told in " ".join(out.split())


# Names and cells


HOSTILE = '=HYPERLINK("http://x") | `b` <script>alert(1)</script> [c](d) \\x $y$ #z'


@pytest.mark.slow
def test_a_label_can_do_nothing_in_csv_markdown_latex_or_html(tmp_path, suture, no_vega):
    from markdown_it import MarkdownIt

    write_csv(tmp_path / "own.csv")
    text = SCENARIO.replace('name = "fedavg"', f'name = "fedavg"\nlabel = {json.dumps(HOSTILE)}')
    (tmp_path / "small.toml").write_text(text, encoding="utf-8")
    run(load_scenario(tmp_path / "small.toml"), out=tmp_path / "out")
    study = tmp_path / "out" / "small"

    _, out, _ = suture("compare", study, "--at", "epsilon=2", "--format", "csv")
    cells = pd.read_csv(pd.io.common.StringIO(out))["group"]
    assert cells.tolist() == [f"'{HOSTILE}"]
    for row in out.splitlines()[1:]:
        assert row.startswith("\"'=")

    _, out, _ = suture("compare", study, "--at", "epsilon=2", "--format", "markdown")
    page = MarkdownIt("commonmark").enable("table").render(out)
    assert "<script" not in page
    assert "<a " not in page
    assert "<code" not in page
    assert page.count("<td") == 5

    _, out, _ = suture("compare", study, "--at", "epsilon=2", "--format", "latex")
    assert "\\x" not in out.replace("\\textbackslash", "")

    assert suture("report", study, "--figures")[0] == 0
    shown = (study / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in shown
    for picture in (study / "figures").glob("*.svg"):
        assert "<script" not in picture.read_text(encoding="utf-8")
    for statement in study.glob("*/privacy.md"):
        page = MarkdownIt("commonmark").render(statement.read_text(encoding="utf-8"))
        assert ("<script" in page, "<a " in page) == (False, False)


@pytest.mark.parametrize("column", ["clinic", "label", "x0", "x3"])
@pytest.mark.parametrize("ending", ["csv", "parquet", "short row", "quote"])
def test_a_cell_is_never_quoted_in_an_error(tmp_path, suture, column, ending):
    frame = pd.read_csv(write_csv(tmp_path / "own.csv")).astype(object)
    frame.loc[5, column] = MARK
    text = SCENARIO
    if ending == "parquet":
        frame.astype(str).to_parquet(tmp_path / "own.parquet", index=False)
        text = text.replace('source = "csv"', 'source = "parquet"').replace("own.csv", "own.parquet")
    else:
        lines = frame.to_csv(index=False).splitlines()
        lines[6] += {"csv": "", "short row": f",{MARK},{MARK}", "quote": f'"{MARK}'}[ending]
        (tmp_path / "own.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "small.toml").write_text(text + "\n", encoding="utf-8")
    settings = ["--set", 'data.one-class="refuse"', "--set", 'data.sites=["k0", "PATIENT"]']
    for more in ([], settings[:2], settings[2:], ["--set", 'clinics=[{profile="hospital", sites=["PATIENT"]}]']):
        code, out, err = suture("check", tmp_path / "small.toml", *more)
        assert MARK not in err
        if code:
            assert (code, MARK in out) == (2, False)


@pytest.mark.parametrize("array", ["y", "site"])
def test_an_array_s_text_is_never_quoted_in_an_error(tmp_path, suture, array):
    import numpy as np

    y, site = np.array(["no", "yes"] * 6), np.array(["a", "b", "b"] * 4)
    arrays = {"x": np.zeros((12, 2, 4), dtype=np.float32), "y": y.astype("U20"), "site": site.astype("U20")}
    arrays[array][3] = MARK
    np.savez(tmp_path / "own.npz", **arrays)
    data = 'data={source="npz", path="own.npz", x="x", label="y", clinic="site", one-class="refuse"}'
    (tmp_path / "small.toml").write_text(SCENARIO, encoding="utf-8")
    write_csv(tmp_path / "own.csv")
    for more in ([], ["--set", 'data.sites=["a", "PATIENT"]']):
        code, out, err = suture("check", tmp_path / "small.toml", "--set", data, *more)
        assert MARK not in err
        if code:
            assert (code, out) == (2, "")
