"""Bad input: one line a problem, exit code 2, and nothing left behind."""

import re
from pathlib import Path

import pytest
from support import suture_process

HEART = Path(__file__).resolve().parents[2] / "scenarios" / "heart.toml"


def lines_of(suture, *arguments, out):
    """Run a study that cannot be; return the lines on stderr."""
    code, printed, err = suture("run", *arguments, "--out", out)
    assert code == 2
    assert printed == ""
    assert "Traceback" not in err
    assert not out.exists()
    assert err.endswith("\n")
    return err.splitlines()


@pytest.mark.parametrize(
    ("override", "fragments"),
    [
        ('clinics.0.uplink="10 Mbaud"', ["small.toml: clinics.0.uplink:", "unknown unit"]),
        ('clinics.0.sites=["k0", "kk"]', ['clinics.0.sites: unknown site "kk"']),
        ('data.sites=["k1", "k2", "k9"]', ['data.sites: unknown site "k9"']),
        ('data.path="nowhere.csv"', ["data.path:", "nowhere.csv does not exist"]),
        ("sweep.privacy.epsilon=[0]", ["small.toml: sweep.privacy.epsilon: 0 is out of range"]),
        ("model.hidden=[16]", ["model.cut:", "[1, -1] lies outside the model", "u-shaped", "[32, 16]"]),
        ("model.cut=[1, 5]", ["[1, 5] lies outside the model", "take cut = [1, 2]"]),
        ("privacy.delta=0.5", ["privacy.delta: 0.5", "1 / 42", '"k3"']),
        ("privacy.delta=0.024", ["privacy.delta: 0.024", "1 / 42", '"k3"']),  # below 1 / 26 only
        ('data.features=["x0", "x9"]', ["data.features:", '"x9"']),
        ('data.label="diagnosis"', ["data.label:", '"diagnosis"']),
    ],
)
def test_each_problem_is_one_line(suture, trade_off, tmp_path, override, fragments):
    [line] = lines_of(suture, trade_off, "--set", override, out=tmp_path / "out")
    assert [fragment for fragment in fragments if fragment not in line] == []


def test_a_logistic_model_cannot_be_split(suture, trade_off, tmp_path):
    lines = lines_of(suture, trade_off, "--set", 'model={name="logistic"}', out=tmp_path / "out")
    assert len(lines) == 2  # one for each cut
    for line, cut in zip(sorted(lines), ("hidden = [32, 16], cut = [1, -1]", "hidden = [32], cut = 1"), strict=True):
        assert line.endswith(f'take name = "mlp", {cut}')
    for line, cut in zip(lines, ("vanilla", "u-shaped"), strict=True):
        assert "model.cut:" in line
        assert cut in line
        assert "output" in line


def test_delta_too_large_for_the_largest_real_clinic(suture, tmp_path):
    """Cleveland has 200 training records, so that 0.01 would let a mechanism publish two of them."""
    for delta in (0.01, 0.5, 0.005):
        [line] = lines_of(suture, HEART, "--set", "seeds=[0]", "--set", f"privacy.delta={delta}", out=tmp_path / "out")
        assert f"privacy.delta: {delta}" in line
        assert "1 / 200" in line
        assert '"cleveland"' in line


def test_delta_of_centralised_training_is_held_against_all_records_together(suture, tmp_path):
    arguments = ("--set", "seeds=[0]", "--set", "privacy.delta=0.003", "--set", 'sweep."privacy.epsilon"=[3]')
    [line] = lines_of(suture, HEART, *arguments, out=tmp_path / "out")
    assert "1 / 488, one over the training records of all clinics together" in line


def edited(file, change):
    """Rewrite the rows of the clinics' file: each is a list of cells, clinic and label first."""
    csv = file.with_name("clinics.csv")
    header, *rows = csv.read_text(encoding="utf-8").splitlines()
    changed = [row for row in (change(i, row.split(",")) for i, row in enumerate(rows)) if row]
    csv.write_text("\n".join([header, *map(",".join, changed)]) + "\n", encoding="utf-8")


def with_cell(row, column, text):
    """Return an edit that writes a text into one cell; rows count from 0."""
    return lambda i, cells: [*cells[:column], text, *cells[column + 1 :]] if i == row else cells


def of_one_class(*clinics):
    """Return an edit that gives all records of these clinics the same label."""
    return lambda i, cells: [cells[0], "class0", *cells[2:]] if cells[0] in clinics else cells


CSV_PROBLEMS = {
    "one record": (
        lambda i, cells: cells if i == 0 or cells[0] != "k0" else None,
        ["clinic 1 of 4 by name has 1 record,"],
    ),
    "all one class": (of_one_class("k0", "k1", "k2", "k3"), ["the same label"]),
    "no clinic": (with_cell(3, 0, ""), ["data.clinic:", "row 5"]),
    "no label": (with_cell(3, 1, ""), ["data.label:", "row 5"]),
    "NaN": (with_cell(8, 3, "NaN"), ["data.missing:", '"x1"', "row 10"]),
    "empty cell": (with_cell(8, 3, ""), ["data.missing:", '"x1"', "row 10"]),
    "infinite": (with_cell(8, 4, "inf"), ["data.features:", '"x2"', "row 10"]),
    "words": (with_cell(8, 5, "high"), ["data.features:", '"x3"', "row 10"]),
    "no rows": (lambda i, cells: None, ["data.path:", "no rows"]),
}


@pytest.mark.parametrize("fault", CSV_PROBLEMS)
def test_each_problem_in_the_data_is_a_line_without_values(suture, trade_off, tmp_path, fault):
    change, fragments = CSV_PROBLEMS[fault]
    edited(trade_off, change)
    lines = lines_of(suture, trade_off, out=tmp_path / "out")
    assert len(lines) == 1
    for line in lines:
        assert line.startswith(f"{trade_off}: data")
        assert [fragment for fragment in fragments if fragment not in line] == []
        assert "high" not in line  # no record's value may be printed


def test_clinics_of_one_class_are_kept_and_told_or_refused_where_that_is_wanted(suture, trade_off, tmp_path):
    edited(trade_off, of_one_class("k1", "k3"))
    code, said, _ = suture("check", trade_off)
    assert code == 0
    told = re.search(r"all of one class, and so without an AUC: (\d) of 4", " ".join(said.split()))
    assert int(told[1]) >= 2  # the two, and whichever have one class by chance
    lines = lines_of(suture, trade_off, "--set", 'data.one-class="refuse"', out=tmp_path / "out")
    assert ["clinic 2 of 4 by name has records of one class only" in lines[0], "clinic 4" in lines[1], len(lines)] == [
        True,
        True,
        2,
    ]


def test_problems_come_out_together(suture, trade_off, tmp_path):
    overrides = ("train.roundz=1", 'server.compute="40 ms"', 'strategies.0.name="fedavgg"', "privacy.epsilon=0")
    arguments = [word for override in overrides for word in ("--set", override)]
    lines = lines_of(suture, trade_off, *arguments, "--only", "fedprox2", out=tmp_path / "out")
    for place in ("train.roundz", "server.compute", "strategies.0.name", "privacy.epsilon", "strategies:"):
        assert sum(f"small.toml: {place}" in line for line in lines) == 1, place
    assert len(lines) == 5


def test_problems_of_the_data_come_out_together(suture, trade_off, tmp_path):
    def change(i, cells):
        return with_cell(0, 2, "NaN")(i, with_cell(9, 4, "high")(i, of_one_class("k2")(i, cells)))

    edited(trade_off, change)
    settings = "--set", "data.missing={x9=1}", "--set", 'data.one-class="refuse"'
    lines = lines_of(suture, trade_off, *settings, out=tmp_path / "out")
    assert len(lines) == 4
    for fragment in ('missing: column "x0"', 'features: column "x2"', "clinic 3 of 4", 'missing: "x9"'):
        assert sum(fragment in line for line in lines) == 1, fragment


def test_problems_of_different_runs_come_out_together(suture, trade_off, tmp_path):
    lines = lines_of(
        suture, trade_off, "--set", "model.hidden=[16]", "--set", "privacy.delta=0.5", out=tmp_path / "out"
    )
    assert len(lines) == 2
    assert sum("privacy.delta" in line for line in lines) == 1
    assert sum("model.cut" in line for line in lines) == 1


@pytest.mark.parametrize("place", ["out", "out/small"])
def test_a_results_folder_that_cannot_be_written(suture, trade_off, tmp_path, place):
    blocked = tmp_path / place
    blocked.parent.mkdir(exist_ok=True)
    blocked.write_text("mine", encoding="utf-8")
    code, out, err = suture("run", trade_off, "--out", tmp_path / "out", "--set", "seeds=[0]", "--jobs", 1)
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert str(tmp_path / "out") in err.splitlines()[-1]
    assert blocked.read_text(encoding="utf-8") == "mine"
    assert list(blocked.parent.glob("**/run.json")) == []


def test_bad_input_from_a_shell(trade_off):
    """The installed script, too, ends with code 2 and one line."""
    done = suture_process("plan", trade_off, "--set", "train.roundz=1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f'{trade_off}: train.roundz: unknown key; did you mean "rounds"?\n'
