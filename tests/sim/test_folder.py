"""A folder from somebody else is only read: damage is one line, nothing leads out of it, nothing is imported."""

import json
import os
import shutil
import socket
import stat
from importlib.util import find_spec
from types import SimpleNamespace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from folders import MARK, SCENARIO, arguments
from support import write_csv

from sim import run
from sim.results import reading
from sim.scenario import load_scenario


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished study; return its scenario and the results folder."""
    folder = tmp_path_factory.mktemp("folder")
    write_csv(folder / "own.csv")
    (folder / "small.toml").write_text(SCENARIO, encoding="utf-8")
    run(load_scenario(folder / "small.toml"), out=folder / "out")
    return folder / "small.toml", folder / "out"


@pytest.fixture
def copy(whole, tmp_path):
    """The same, to be damaged: the scenario, the study's folder and its first run's."""
    scenario, out = whole
    study = shutil.copytree(out / "small", tmp_path / "out" / "small")
    table = pd.read_parquet(study / "runs.parquet")
    return scenario, study, study / table["run_id"].iloc[0]


ROW = ("report", "target", "status", "rebuild", "epsilon", "verify", "replan", "rerun", "export")
"""The commands that read the row of a ``run.json``."""
RECORD = ("report", "target", "epsilon", "verify", "replan", "rerun", "export")
"""Those that read all of it."""
TABLE, ROUNDS, STUDY = ("compare", "target", "advise"), ("report", "target", "export"), ("report", "status", "rebuild")


def edited(change):
    """Return a damage of ``run.json``: `change` gets what it holds, and may put another value in its place."""

    def damage(study, one):
        record = json.loads((one / "run.json").read_text(encoding="utf-8"))
        changed = change(record)
        (one / "run.json").write_text(json.dumps(record if changed is None else changed), encoding="utf-8")

    return damage


def put(place, value):
    """Return a damage that puts a value into ``run.json``; the place is dotted."""

    def change(record):
        *parents, last = [int(part) if part.isdigit() else part for part in place.split(".")]
        for part in parents:
            record = record[part]
        record[last] = value

    return edited(change)


def without(place):
    """Return a damage that takes a key out of ``run.json``."""

    def change(record):
        *parents, last = [int(part) if part.isdigit() else part for part in place.split(".")]
        for part in parents:
            record = record[part]
        del record[last]

    return edited(change)


def written(name, content):
    """Return a damage that writes a file: in the run's folder, or with ``../`` in the study's."""

    def damage(study, one):
        (one / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return damage


def replaced(old, new):
    """Return a damage that replaces text of ``run.json``."""

    def damage(study, one):
        text = (one / "run.json").read_text(encoding="utf-8")
        assert old in text
        (one / "run.json").write_text(text.replace(old, new, 1), encoding="utf-8")

    return damage


def tabled(name, change):
    """Return a damage of a Parquet table."""

    def damage(study, one):
        frame = change(pd.read_parquet(one / name))
        frame.to_parquet(one / name, index=False)

    return damage


def cut_short(name, share=0.5):
    def damage(study, one):
        content = (one / name).read_bytes()
        (one / name).write_bytes(content[: int(share * len(content))])

    return damage


def of_study(change):
    def damage(study, one):
        content = json.loads((study / "study.json").read_text(encoding="utf-8"))
        change(content)
        (study / "study.json").write_text(json.dumps(content), encoding="utf-8")

    return damage


def linked(name, target):
    def damage(study, one):
        (one / name).unlink(missing_ok=True)
        (one / name).symlink_to(target)

    return damage


def piped(name):
    def damage(study, one):
        (one / name).unlink()
        os.mkfifo(one / name)

    return damage


def listening(name):
    def damage(study, one):
        (one / name).unlink()
        with socket.socket(socket.AF_UNIX) as plug:
            os.chdir(one)  # the address of a socket may have 108 bytes
            plug.bind(name)

    return damage


def bomb(study, one):
    """Five billion cells in a few kilobytes."""
    table = pa.table({"round": pa.array([1] * 1_000_000).dictionary_encode().cast(pa.int64())})
    pq.write_table(pa.concat_tables([table] * 25), one / "rounds.parquet")


def event(key, value):
    """Return a damage of the first release's innermost event."""

    def change(record):
        releases = json.loads(record["privacy"]["releases"])
        inner = releases[0]["event"]
        while "event" in inner:
            inner = inner["event"]
        assert key in inner
        inner[key] = value
        record["privacy"]["releases"] = json.dumps(releases)

    return edited(change)


DEEP = "[" * 3000 + "]" * 3000
RUNS = "../runs.parquet"
DAMAGE = {
    "no row": (without("row"), RECORD),
    "no plan": (without("plan"), RECORD),
    "no spec": (without("spec"), RECORD),
    "no privacy": (without("privacy"), RECORD),
    "no statement": (without("privacy.statement"), RECORD),
    "no clinics in the plan": (without("plan.clinics"), RECORD),
    "no adversaries": (without("privacy.statement.adversaries"), RECORD),
    "no provenance": (without("provenance"), RECORD),
    "no strategy in the row": (without("row.strategy"), RECORD),
    "row is a list": (put("row", [MARK]), ROW),
    "row is text": (put("row", MARK), ROW),
    "record is a list": (edited(lambda record: [MARK]), ROW),
    "seed is text": (put("row.seed", MARK), ROW),
    "seed is true": (put("row.seed", True), ROW),
    "seed beyond int64": (put("row.seed", 2**63), ROW),
    "rounds negative": (put("row.rounds", -1), ROW),
    "rounds of 10^18": (put("row.rounds", 10**18), ROW),
    "status unknown": (put("row.status", MARK), ROW),
    "auc of 5": (put("row.auc", 5), ROW),
    "auc is text": (put("row.auc", MARK), ROW),
    "auc is infinite": (put("row.auc", "inf"), ROW),
    "auc is NaN": (put("row.auc", float("nan")), ROW),
    "seconds infinite": (put("row.sim_seconds", float("inf")), ROW),
    "bytes negative": (put("row.bytes_up", -1), ROW),
    "epsilon is a dict": (put("row.epsilon_server", {MARK: 1}), ROW),
    "epsilon negative": (put("row.epsilon_server", -1), ROW),
    "swept epsilon is text": (put("row.privacy.epsilon".replace("row.privacy", "row"), MARK), ROW),
    "unknown column": (put("row.colour", MARK), ROW),
    "swept key that the spec lacks": (edited(lambda record: record["row"].update({"a.b": 1})), RECORD),
    "another run's id": (put("row.run_id", "0" * 16), ("report", "status", "rebuild", "export")),
    "run id with dots": (put("row.run_id", "../../etc"), ROW),
    "study with a path": (put("row.study", "../x"), ROW),
    "name that turns the text": (put("row.worst_clinic", "a\u202eb"), ROW),
    "escape of a terminal": (put("row.error", "\x1b[2J"), ROW),
    "half a surrogate": (replaced('"status"', '"\\ud800": 1, "status"'), ROW),
    "number of 401 digits": (replaced('"results-version": ', '"big": ' + "9" * 401 + ', "results-version": '), ROW),
    "number of 1e999": (replaced('"results-version": ', '"big": 1e999, "results-version": '), ROW),
    "key twice": (replaced('"results-version": ', '"results-version": 1, "results-version": '), ROW),
    "3,000 deep": (written("run.json", DEEP), ROW),
    "60 deep": (replaced('"results-version": ', f'"a": {"[" * 60}{"]" * 60}, "results-version": '), ROW),
    "junk JSON": (written("run.json", MARK), ROW),
    "empty JSON": (written("run.json", ""), ROW),
    "truncated JSON": (cut_short("run.json"), ROW),
    "not UTF-8": (written("run.json", b'{"row": "\xff\xfe"}'), ROW),
    "UTF-16": (written("run.json", '{"row": 1}'.encode("utf-16")), ROW),
    "spec is text": (put("spec", MARK), RECORD),
    "spec without data": (without("spec.data"), RECORD),
    "spec of another seed": (put("spec.seed", 5), RECORD),
    "rounds of the spec are text": (put("spec.train.rounds", MARK), RECORD),
    "releases are no ledger": (put("privacy.releases", MARK), RECORD),
    "releases 3,000 deep": (put("privacy.releases", DEEP), RECORD),
    "a release's event is text": (put("privacy.releases", json.dumps([{"clinic": 0, "event": MARK}])), RECORD),
    "an event that does not exist": (event("class", MARK), ("epsilon",)),
    "an event's noise negative": (event("noise_multiplier", -1), RECORD),
    "an event's noise of 1e-300": (event("noise_multiplier", 1e-300), RECORD),
    "an event's noise is text": (event("noise_multiplier", MARK), RECORD),
    "plan's counts too short": (edited(lambda record: record["plan"]["counts"].update(x=[1])), RECORD),
    "clinic twice": (edited(lambda record: record["plan"]["clinics"].append(record["plan"]["clinics"][0])), RECORD),
    "advantage of 2": (put("privacy.statement.adversaries.0.advantage", 2), RECORD),
    "statement's epsilon a list": (put("privacy.statement.adversaries.0.epsilon", [1]), RECORD),
    "head of the log no hash": (put("privacy.audit-log.head", MARK), RECORD),
    "run.json is a link": (linked("run.json", "/etc/passwd"), ROW),
    "run.json is a link in a circle": (linked("run.json", "run.json"), ROW),
    "run.json is a pipe": (piped("run.json"), ROW),
    "run.json is a socket": (listening("run.json"), ROW),
    "run.json leads to a device": (linked("run.json", "/dev/zero"), ROW),
    "log is a link": (linked("audit-log.jsonl", "/dev/zero"), ("verify",)),
    "log is a pipe": (piped("audit-log.jsonl"), ("verify",)),
    "junk table": (written(RUNS, MARK), TABLE),
    "empty table file": (written(RUNS, ""), TABLE),
    "truncated table": (cut_short(RUNS), TABLE),
    "table without a column": (tabled(RUNS, lambda runs: runs.drop(columns="auc")), TABLE),
    "table without rows": (tabled(RUNS, lambda runs: runs.iloc[:0]), ("compare", "target")),
    "table with an unknown column": (tabled(RUNS, lambda runs: runs.assign(colour=MARK)), TABLE),
    "table's auc of 5": (tabled(RUNS, lambda runs: runs.assign(auc=5.0)), TABLE),
    "table's seed text": (tabled(RUNS, lambda runs: runs.assign(seed=MARK)), TABLE),
    "table's seconds infinite": (tabled(RUNS, lambda runs: runs.assign(sim_seconds=float("inf"))), TABLE),
    "table's bytes negative": (tabled(RUNS, lambda runs: runs.assign(bytes_up=-1.0)), TABLE),
    "table's epsilon missing": (tabled(RUNS, lambda runs: runs.assign(epsilon_server=float("nan"))), TABLE),
    "table's run ids the same": (tabled(RUNS, lambda runs: runs.assign(run_id=runs["run_id"].iloc[0])), TABLE),
    "table's run ids lead out": (tabled(RUNS, lambda runs: runs.assign(run_id="../x")), TABLE),
    "table of lists": (tabled(RUNS, lambda runs: runs.assign(error=[[MARK]] * len(runs))), TABLE),
    "table's name turns the text": (tabled(RUNS, lambda runs: runs.assign(strategy="a\u202eb")), TABLE),
    "table is a link": (linked(RUNS, "/etc/passwd"), TABLE),
    "table is a pipe": (piped(RUNS), TABLE),
    "junk rounds": (written("rounds.parquet", MARK), ROUNDS),
    "no rounds": (lambda study, one: (one / "rounds.parquet").unlink(), ROUNDS),
    "rounds without rows": (tabled("rounds.parquet", lambda rounds: rounds.iloc[:0]), ROUNDS),
    "rounds without round": (tabled("rounds.parquet", lambda rounds: rounds.drop(columns="round")), ROUNDS),
    "rounds' auc of 5": (tabled("rounds.parquet", lambda rounds: rounds.assign(auc=5.0)), ROUNDS),
    "rounds' auc text": (tabled("rounds.parquet", lambda rounds: rounds.assign(auc=MARK)), ROUNDS),
    "rounds name a run": (tabled("rounds.parquet", lambda rounds: rounds.assign(run_id=MARK)), ROUNDS),
    "rounds are a pipe": (piped("rounds.parquet"), ROUNDS),
    "rounds that unpack to too much": (bomb, ROUNDS),
    "clinics without names": (tabled("clinics.parquet", lambda rows: rows.drop(columns="name")), ("report", "target")),
    "clinics' records text": (tabled("clinics.parquet", lambda rows: rows.assign(records=MARK)), ("report", "target")),
    "clinics' names the same": (tabled("clinics.parquet", lambda rows: rows.assign(name="k")), ("report", "target")),
    "junk study.json": (written("../study.json", MARK), STUDY),
    "study.json is a list": (written("../study.json", "[]"), STUDY),
    "study.json 3,000 deep": (written("../study.json", DEEP), STUDY),
    "study.json without runs": (of_study(lambda study: study.pop("runs")), STUDY),
    "study.json's ids lead out": (of_study(lambda study: study.update(table=["../../etc"])), STUDY),
    "study.json names a run twice": (of_study(lambda study: study.update(table=study["table"] * 2)), STUDY),
    "study.json's estimate text": (of_study(lambda study: study["runs"][0].update(estimated_seconds=MARK)), STUDY),
    "study.json is a pipe": (piped("../study.json"), STUDY),
    "junk first rounds": (written("../first-rounds.json", MARK), ("report", "target")),
    "first rounds of text": (written("../first-rounds.json", json.dumps({"a": MARK})), ("report", "target")),
    "junk study log": (written("../study-log.jsonl", f"{MARK}\n"), ("report", "target")),
    "study log of numbers": (written("../study-log.jsonl", "[1]\n"), ("report", "target")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_line_that_quotes_nothing(copy, suture, damage):
    scenario, study, one = copy
    harm, commands = DAMAGE[damage]
    harm(study, one)
    for command in commands:
        if command == "export" and find_spec("mlflow") is None:
            continue  # an extra; the second stage has it
        code, out, err = suture(*arguments(command, scenario, study, one))
        assert (code, err.count("\n"), out) == (2, 1, ""), (command, out, err)
        assert str(study.parent) in err or damage == "table without rows"
        assert MARK not in out + err
        assert "\u202e" not in err
        assert not (study / "report.html").exists()


@pytest.mark.parametrize("command", ["compare", "target", "status", "advise", "epsilon", "verify", "replan", "rerun"])
def test_whole_the_same_folder_is_read(copy, suture, command):
    code, _, err = suture(*arguments(command, *copy))
    assert (code, err) == (0, "")


def test_a_folder_of_pictures_that_leads_out_is_not_written_to(copy, suture, tmp_path):
    _, study, _ = copy
    (tmp_path / "outside").mkdir()
    (study / "figures").symlink_to(tmp_path / "outside")
    code, _, err = suture("report", study, "--figures")
    assert (code, err.count("\n"), list((tmp_path / "outside").iterdir())) == (2, 1, [])
    (study / "figures").unlink()
    (study / "figures").mkdir()
    (tmp_path / "kept.svg").write_text("mine", encoding="utf-8")
    (study / "figures" / "pareto.svg").symlink_to(tmp_path / "kept.svg")
    assert suture("report", study, "--figures")[0] == 2
    assert (tmp_path / "kept.svg").read_text(encoding="utf-8") == "mine"


def test_a_run_that_is_a_link_and_a_table_that_is_one_are_not_followed(copy, suture, tmp_path):
    scenario, study, one = copy
    shutil.move(one, tmp_path / "elsewhere")
    one.symlink_to(tmp_path / "elsewhere")
    for command in ("report", "target", "status"):
        code, _, err = suture(*arguments(command, scenario, study, one))
        assert (code, err.count("\n")) == (2, 1)
        assert "is a link" in err
    assert suture("verify", one)[0] == 0  # the folder that is named may be a link of the user's own


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "a\\..\\x", "..", ".", "a//b", "C:x", ""])
def test_a_name_that_leads_out_is_refused(tmp_path, name):
    with pytest.raises(reading.ScenarioError):
        reading.file_bytes(tmp_path, name)


@pytest.mark.parametrize("texts", [(), ("a",), ("a", "b"), ("a", "nowhere"), ("n",)])
def test_text_is_read_as_such_whatever_was_expected(tmp_path, texts):
    table = pa.table({"a": ["x", None, "x"], "b": ["y", "y", "z"], "n": [1, 2, 3]})
    pq.write_table(table, tmp_path / "own.parquet")
    read = reading.read_arrow(tmp_path, "own.parquet", texts)
    assert [pa.types.is_dictionary(kind) for kind in read.schema.types] == [True, True, False]
    assert read.to_pydict() == table.to_pydict()


def test_a_file_that_has_grown_since_its_size_was_asked_is_read_whole_or_not_at_all(tmp_path, monkeypatch):
    (tmp_path / "own").write_bytes(b"a" * 3000)
    monkeypatch.setattr(reading.os, "fstat", lambda _: SimpleNamespace(st_mode=stat.S_IFREG, st_size=1000))
    assert reading.file_bytes(tmp_path, "own", most=3000) == b"a" * 3000
    with pytest.raises(reading.ScenarioError, match="larger than the limit of 2,999 bytes"):
        reading.file_bytes(tmp_path, "own", most=2999)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with (tmp_path / "big").open("wb") as file:
        file.truncate(2**40)  # no byte of it takes room on the disk
    with pytest.raises(reading.ScenarioError, match="larger than the limit of 1,000 bytes"):
        reading.file_bytes(tmp_path, "big", most=1000)
