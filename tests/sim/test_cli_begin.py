"""What one begins with: ``suture new``, ``schema``, ``check`` in words, the help and the shell's completion."""

import json
import math
import os
import re
import tomllib
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from support import plain, suture_process

from sim.cli import app
from sim.privacy.mechanisms.mechanism import of
from sim.scenario import load_scenario
from sim.scenario.lookup import mechanisms

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "scenarios" / "scenario.schema.json"
SCENARIOS = sorted((ROOT / "scenarios").glob("*.toml"))
TEMPLATES = sorted((ROOT / "sim" / "templates").glob("*.toml"))
COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands]


def write_patients(path, rows=80):
    """Write the table that the template own-csv describes, with a gap where it allows one."""
    rng = np.random.default_rng(0)
    lines = ["hospital,age,sex,lactate,heart_rate,died"]
    for i in range(rows):
        lactate = "" if i == 5 else f"{rng.uniform(0.5, 6):.1f}"
        age, rate = rng.integers(18, 95), rng.integers(50, 140)
        lines.append(f"h{i % 2},{age},{('female', 'male')[i // 2 % 2]},{lactate},{rate},{i // 4 % 2}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def checker():
    return jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))


# new


@pytest.mark.parametrize("template", ["heart", "own-csv", "rural", "privacy"])
def test_every_template_can_be_checked(suture, tmp_path, template):
    write_patients(tmp_path / "patients.csv")
    code, out, err = suture("new", "mine", "--template", template)
    assert (code, err) == (0, "")
    assert out == "mine.toml: written; edit it, then: suture check mine.toml\n"
    text = (tmp_path / "mine.toml").read_text(encoding="utf-8")
    assert "NAME" not in text
    assert len(re.findall("#", text)) > 8  # commented
    assert list(checker().iter_errors(tomllib.loads(text))) == []
    assert load_scenario(tmp_path / "mine.toml").name == "mine"
    code, out, err = suture("check", "mine.toml", "--set", "seeds=[0]")
    assert (code, err) == (0, "")
    assert "Study mine:" in out


def test_there_is_a_template_a_choice():
    assert {path.stem for path in TEMPLATES} == {"heart", "own-csv", "rural", "privacy"}


def test_new_overwrites_nothing_and_names_folders_only(suture, tmp_path):
    (tmp_path / "mine.toml").write_text("mine", encoding="utf-8")
    code, out, err = suture("new", "mine")
    assert (code, out) == (2, "")
    assert err == "mine.toml: already exists; choose another name, or remove it\n"
    assert (tmp_path / "mine.toml").read_text(encoding="utf-8") == "mine"
    for name in ("../x", "A b", "<script>", ""):
        code, out, err = suture("new", name)
        assert (code, out) == (2, "")
        assert err.startswith(f'NAME: "{name}" cannot name a folder; ')
    assert suture("new", "other", "--template", "hart")[0] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


# schema


def test_the_committed_schema_is_current(suture):
    code, out, err = suture("schema")
    assert (code, err) == (0, "")
    assert SCHEMA.read_text(encoding="utf-8") == out, "run: suture schema > scenarios/scenario.schema.json"
    jsonschema.Draft202012Validator.check_schema(json.loads(out))


@pytest.mark.parametrize("path", [*SCENARIOS, *TEMPLATES], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_committed_scenario_validates(path):
    assert list(checker().iter_errors(tomllib.loads(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    ("key", "value", "place"),
    [
        ("train", {"rounds": -1, "batch-size": 8, "learning-rate": 0.1}, ["train", "rounds"]),
        ("trian", {}, []),
        ("model", {"name": "mpl"}, ["model", "name"]),
        ("strategies", [], ["strategies"]),
        ("clinics", [{"profile": "hospital", "uplnk": "1 bit/s"}], ["clinics", 0]),
    ],
)
def test_the_schema_finds_what_the_check_finds(key, value, place):
    mapping = tomllib.loads((ROOT / "scenarios" / "heart.toml").read_text(encoding="utf-8"))
    [error] = checker().iter_errors(mapping | {key: value})
    assert list(error.absolute_path) == place


# check


def test_check_explains_the_scenario_in_words(suture, trade_off):
    code, out, err = suture("check", trade_off)
    assert (code, err) == (0, "")
    told = plain(out)
    for sentence in (
        "Study small: 12 runs, 3 methods x 2 values of privacy.epsilon x 2 seeds.",
        "Methods: FedAvg | SplitFed V1, vanilla | SplitFed V1, U-shaped.",
        # Of 7, 23, 40 and 64 records, a third is held out.
        "Clinics: 4 with 88 training and 46 held-out records; the smallest is k0 (5 training records), the largest k3 "
        "(42).",
        "k0, k1: 1 Gbit/s up, 1 Gbit/s down, 2.5 ms one way. k2, k3: 1 Mbit/s up, 10 Mbit/s down, 25 ms one way.",
        "Vanilla cut: hidden1 at the clinic; hidden2, output at the server, which receives the labels.",
        "U-shaped cut: hidden1 and output at the clinic, where the labels stay; hidden2 at the server.",
        "Privacy: 6 of the 12 runs have none: whatever they release is released as it is.",
        "Privacy: dp-sgd protects one record: its gradient is clipped and noised; ",
        "Against the server, one record at delta 0.001, zero-out: epsilon 3 (FedAvg); no guarantee, since labels are "
        'sent as they are; state labels = "public" if they are; smashed rows leave without noise (SplitFed V1, '
        "vanilla); no guarantee, since smashed rows leave without noise; tail-gradient rows leave without noise "
        "(SplitFed V1, U-shaped).",
    ):
        assert sentence in told
    assert re.search(
        r"Against the model user, one record at delta 0\.001, zero-out: epsilon (3|2\.99) \(every method\)\.", told
    )
    assert re.search(r"Expected running time: about .* on \d+ processors?, estimated from", told)


def test_check_parameters_and_simulated_times_are_those_of_the_plan(suture, trade_off):
    told = plain(suture("check", trade_off)[1])
    assert f"mlp, {4 * 6 + 6 + 6 * 5 + 5 + 5 + 1} parameters" in told
    plans = json.loads(suture("plan", trade_off, "--json")[1])
    quickest = min(plan["sim_seconds"] for plan in plans)
    shown = re.search(r"Simulated time of a run: ([0-9.]+) (ms|s) ", told)
    assert math.isclose(float(shown[1]) * {"ms": 1e-3, "s": 1.0}[shown[2]], quickest, rel_tol=0.01)


def test_check_without_privacy_promises_none(suture, trade_off):
    told = plain(suture("check", trade_off, "--set", "sweep={}", "--set", 'privacy={mechanism="none"}')[1])
    assert "Privacy: No run has a privacy mechanism: whatever they release is released as it is." in told
    assert "Against" not in told


def test_check_marks_preprocessing_that_is_not_private(suture, trade_off):
    assert "Preprocessing uses public constants only." in plain(suture("check", trade_off)[1])
    code, _, refused = suture("check", trade_off, "--set", "data.scaling=pooled")
    assert (code, plain(refused).count("privacy.epsilon: no noise reaches 3 against the model-user: ")) == (2, 1)
    noise = 'privacy={mechanism="dp-sgd",noise-multiplier=1.0,delta=1e-3}'
    told = plain(suture("check", trade_off, "--set", "data.scaling=pooled", "--set", "sweep={}", "--set", noise)[1])
    assert (
        "Preprocessing uses non-private statistics; no epsilon is finite where they enter: mean and deviation of "
        in told
    )
    assert "no guarantee, since features are scaled by statistics of the records (mean and deviation of " in told


def test_every_mechanism_is_explained():
    assert [name for name in mechanisms() if not of(name).sentence.startswith(("one ", "all "))] == []


# help and completion


def test_help_names_every_command(suture):
    code, out, _ = suture("--help")
    assert code == 0
    assert [command for command in COMMANDS if command not in out] == []


def test_the_shell_completes_commands():
    asked = os.environ | {"COMP_WORDS": "suture ", "COMP_CWORD": "1", "_SUTURE_COMPLETE": "complete_bash"}
    assert set(suture_process(env=asked).stdout.split()) >= set(COMMANDS)
    script = suture_process(env=os.environ | {"_SUTURE_COMPLETE": "source_bash"}).stdout
    assert "complete -o default -F" in script
