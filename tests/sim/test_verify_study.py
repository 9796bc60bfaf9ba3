"""The study's log: what it says of every run ever begun, under kills and several processes, and its signature."""

import base64
import json
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from support import call_suture, run_spec, write_csv, write_scenario

from sim import run as run_study
from sim.foundation.chain import chained, read_chain
from sim.foundation.problems import FolderError
from sim.results.study_log import STUDY_LOG, note_end, note_interrupted, note_start, read_commands
from sim.results.study_verification import study_findings
from sim.scenario import load_scenario
from sim.scenario.spec import expand
from sim.study.engines import InProcess
from sim.study.journal import RunLog
from sim.study.planning import plan_runs
from sim.study.runner import Progress, execute
from sim.study.runner import run_study as run_planned

SMALL = """
name = "small"
seeds = [0, 1]
[data]
source = "csv"
path = "clinics.csv"
label = "label"
clinic = "clinic"
features = ["x0", "x1", "x2", "x3"]
scaling = "none"
[model]
name = "logistic"
[evaluation]
reference = false
[train]
rounds = 1
batch-size = 8
learning-rate = 0.1
[privacy]
mechanism = "dp-sgd"
noise-multiplier = 1.0
delta = 1e-3
[[strategies]]
name = "fedavg"
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("log")
    run_study(write_scenario(folder, SMALL), folder / "out")
    return folder / "out" / "small"


@pytest.fixture
def study(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "small"))


def entries(study: Path) -> list[dict]:
    return read_chain((study / STUDY_LOG).read_bytes()).entries


def runs(study: Path) -> list[Path]:
    return sorted(path.parent for path in study.glob("*/run.json"))


def test_every_run_stands_in_the_log_with_its_head(study: Path) -> None:
    told = [(entry["event"], entry["run"]) for entry in entries(study)]
    ids = [run.name for run in runs(study)]
    assert sorted(told) == sorted((event, run_id) for event in ("start", "end") for run_id in ids)
    assert all(told.index(("start", run_id)) < told.index(("end", run_id)) for run_id in ids)
    for entry in entries(study):
        if entry["event"] == "end":
            record = json.loads((study / entry["run"] / "run.json").read_text(encoding="utf-8"))
            assert (entry["status"], entry["head"]) == ("ok", record["privacy"]["audit-log"]["head"])
    found = study_findings(study)
    assert (found.faults, found.notes, found.listed, found.checked) == ([], [], 2, 2)


def test_a_deleted_run_still_stands_in_it(study: Path) -> None:
    gone = runs(study)[0]
    shutil.rmtree(gone)
    missing, table = study_findings(study).faults
    assert f"run {gone.name} ended ok, its folder is missing" in missing
    assert table == f"{study / 'runs.parquet'}: run {gone.name}: has no folder here"


def test_a_run_that_was_brought_in_is_not_listed(study: Path, tmp_path: Path) -> None:
    spec = run_spec(write_csv(tmp_path / "patients.csv"), rounds=1, seed=9)
    [plan] = plan_runs([spec])
    execute(plan, tmp_path / "elsewhere", {})
    shutil.copytree(tmp_path / "elsewhere" / spec.run_id, study / spec.run_id)
    assert study_findings(study).faults == [f"{study / spec.run_id}: is not listed in {STUDY_LOG}"]


def test_one_run_s_folder_under_another_s_name(study: Path) -> None:
    one, other = runs(study)
    shutil.rmtree(one)
    shutil.copytree(other, one)
    found = "\n".join(study_findings(study).faults)
    assert f"{one}: its log's head is not the one that line " in found


def test_an_edited_table(study: Path) -> None:
    table = pd.read_parquet(study / "runs.parquet")
    table.loc[1, "epsilon_server"] = 0.5
    table.to_parquet(study / "runs.parquet", index=False)
    [fault] = study_findings(study).faults
    assert fault == f"{study / 'runs.parquet'}: run {table['run_id'][1]}, epsilon_server: is not what run.json says"


@pytest.mark.parametrize("change", ["status", "drop", "swap", "byte"])
def test_an_edited_study_log_is_named_by_its_line(study: Path, change: str) -> None:
    lines = (study / STUDY_LOG).read_bytes().splitlines(keepends=True)
    place = 1
    if change == "status":
        place = next(place for place, line in enumerate(lines) if b'"ok"' in line)
        lines[place] = lines[place].replace(b'"ok"', b'"failed"')
    elif change == "drop":
        del lines[1]
    elif change == "swap":
        lines[1], lines[2] = lines[2], lines[1]
    else:
        lines[1] = lines[1].replace(b"2", b"3", 1)
    (study / STUDY_LOG).write_bytes(b"".join(lines))
    [fault] = study_findings(study).faults
    assert fault.startswith(tuple(f"{study / STUDY_LOG}: line {number}: " for number in (place + 1, place + 2)))


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_a_torn_last_line_is_left_aside_and_mended(study: Path, kept: int) -> None:
    sound = (study / STUDY_LOG).read_bytes()
    torn = sound.splitlines()[-1][:kept]
    (study / STUDY_LOG).write_bytes(sound + torn)
    found = study_findings(study)
    assert found.faults == []
    assert found.notes == [
        f"{study / STUDY_LOG}: ends in {len(torn)} bytes of a line that a killed process began; left aside"
    ]
    note_start(study, "0" * 16)
    note_end(study / ("0" * 16), "interrupted")
    assert (study / STUDY_LOG).read_bytes().startswith(sound)
    assert entries(study)[4]["torn-bytes"] == len(torn)
    found = study_findings(study)
    assert found.faults == []
    assert f"line 5 took the place of {len(torn)} bytes of a torn line" in found.notes[0]


def test_a_damaged_last_line_is_told_and_not_built_upon(study: Path) -> None:
    before = (study / STUDY_LOG).read_bytes() + b"{}\n"
    (study / STUDY_LOG).write_bytes(before)
    with pytest.raises(FolderError, match="its last line is damaged"):
        note_start(study, "0" * 16)
    assert (study / STUDY_LOG).read_bytes() == before


def test_lines_longer_than_a_block_of_the_file(tmp_path: Path) -> None:
    for length in (10, 5_000, 20_000, 3, 4_096):
        note_end(tmp_path / "run", "interrupted", "x" * length)
    chain = read_chain((tmp_path / STUDY_LOG).read_bytes())
    assert (chain.fault, [len(entry["error"]) for entry in chain.entries]) == ("", [10, 5_000, 20_000, 3, 4_096])


MANY = """
import sys
from pathlib import Path
from sim.results.study_log import note_start
for number in range(50):
    note_start(Path(sys.argv[1]), f"{sys.argv[2]}{number}")
"""


def test_processes_take_turns(tmp_path: Path) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", MANY, str(tmp_path), name]) for name in "abc"]
    assert [process.wait() for process in processes] == [0, 0, 0]
    chain = read_chain((tmp_path / STUDY_LOG).read_bytes())
    assert (chain.fault, chain.torn) == ("", b"")
    assert sorted(entry["run"] for entry in chain.entries) == sorted(f"{n}{i}" for n in "abc" for i in range(50))


KILLED = """
import os, signal, sys
from pathlib import Path
from sim.results.study_log import note_start
note_start(Path(sys.argv[1]), sys.argv[2])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_is_interrupted_unless_its_folder_was_moved_in(study: Path) -> None:
    whole, lost = runs(study)[0].name, "0" * 16
    (study / whole).rename(study / "aside")
    for run_id in (whole, lost):
        ended = subprocess.run([sys.executable, "-c", KILLED, str(study), run_id], check=False)
        assert ended.returncode == -signal.SIGKILL
    # The second start of a run wrote a folder of its own before its process was killed.
    record = json.loads((study / "aside" / "run.json").read_text(encoding="utf-8"))
    record["row"]["status"] = "failed"
    (study / "aside" / "run.json").write_text(json.dumps(record), encoding="utf-8")
    (study / "aside").rename(study / whole)
    begun = [note for note in study_findings(study).notes if "began and has not ended" in note]
    assert len(begun) == 2
    note_interrupted(study)
    assert [(entry["run"], entry["status"]) for entry in entries(study)[-2:]] == [
        (whole, "failed"),
        (lost, "interrupted"),
    ]
    note_interrupted(study)
    assert len(entries(study)) == 8


def test_runs_of_other_machines_and_of_live_processes_are_not_ended(tmp_path: Path) -> None:
    note_start(tmp_path, "mine")
    lines = [
        *entries(tmp_path),
        {**entries(tmp_path)[0], "run": "theirs", "host": f"not-{socket.gethostname()}", "pid": 1},
    ]
    (tmp_path / STUDY_LOG).write_text(chained(lines)[0], encoding="utf-8")
    note_interrupted(tmp_path)
    assert len(entries(tmp_path)) == 2
    note_interrupted(tmp_path, {"mine", "theirs"})
    assert [entry["run"] for entry in entries(tmp_path)[2:]] == ["mine"]


class InterruptedEngine:
    """Trains one run, begins another, and hears Ctrl-C."""

    jobs = 1
    hosts = None

    def __init__(self, study: Path) -> None:
        self.study = study

    def run(self, train, groups):
        first, second = (plan for group in groups for plan in group)
        yield from train([first])
        RunLog(self.study, second.spec.run_id)
        raise KeyboardInterrupt


def test_an_interrupted_study_says_so_and_goes_on(tmp_path: Path) -> None:
    path = write_scenario(tmp_path, SMALL)
    plans = list(plan_runs(expand(load_scenario(path))))
    ids, silent = [plan.spec.run_id for plan in plans], Progress(lambda *_: None, lambda *_: None)
    study = tmp_path / "small"
    with pytest.raises(KeyboardInterrupt):
        run_planned(plans, ids, tmp_path, InterruptedEngine(study), silent)
    assert [entry["status"] for entry in entries(study) if entry["event"] == "end"] == ["ok", "interrupted"]
    found = study_findings(study)
    assert (found.faults, len(found.notes), found.checked) == ([], 1, 1)
    run_planned(plans, ids, tmp_path, InProcess(), silent)
    assert [entry["status"] for entry in entries(study) if entry["event"] == "end"] == ["ok", "interrupted", "ok"]
    found = study_findings(study)
    assert (found.faults, found.notes, found.checked) == ([], [], 2)


def test_a_failed_run_stands_in_it_with_its_error(tmp_path: Path) -> None:
    spec = run_spec(write_csv(tmp_path / "patients.csv"), learning_rate=1e6, rounds=20)
    [plan] = plan_runs([spec])
    execute(plan, tmp_path / "study", {})
    end = entries(tmp_path / "study")[-1]
    assert (end["status"], end["head"], end["error"].partition(":")[0]) == ("failed", None, "DivergedError")
    assert study_findings(tmp_path / "study").faults == []
    record = tmp_path / "study" / spec.run_id / "run.json"
    record.write_text(record.read_text(encoding="utf-8").replace("DivergedError", "BoredError"), encoding="utf-8")
    [fault] = study_findings(tmp_path / "study").faults
    assert "run.json is not the one that line 2 of" in fault


# The command and the signature


def write_keys(folder: Path) -> tuple[Path, Path]:
    key = ed25519.Ed25519PrivateKey.generate()
    private, public = folder / "key.pem", folder / "pub.pem"
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_the_command(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call_suture("verify", study) == 0
    assert "2 runs listed, 2 of them recounted, all agree" in capsys.readouterr().out
    shutil.rmtree(runs(study)[0])
    assert call_suture("verify", study) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 2)


def test_a_command_is_entered_and_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_scenario(tmp_path, SMALL.replace("[0, 1]", "[0]"))
    call_suture("run", path, "--out", tmp_path / "out", "--jobs", 1)
    study = tmp_path / "out" / "small"
    [told] = read_commands(study)
    assert told["command"] == f"suture run {path} --out {tmp_path / 'out'} --jobs 1"
    assert [entry["event"] for entry in entries(study)] == ["command", "start", "end"]
    capsys.readouterr()
    assert call_suture("verify", study) == 0


@pytest.mark.parametrize("whole", [True, False], ids=["study", "run"])
def test_signature(study: Path, tmp_path: Path, whole: bool, capsys: pytest.CaptureFixture[str]) -> None:
    private, public = write_keys(tmp_path)
    folder = study if whole else runs(study)[0]
    token = tmp_path / "token.tsr"
    token.write_bytes(b"\x30\x82 not looked at")
    assert call_suture("sign", folder, "--key", private, "--timestamp", token) == 0
    capsys.readouterr()
    assert call_suture("verify", folder, "--public-key", public) == 0
    out = capsys.readouterr().out
    kept = base64.b64encode(token.read_bytes()).decode()
    assert f"timestamp (base64, not interpreted): {kept}\n" in out
    assert call_suture("verify", study) == 0

    (tmp_path / "other").mkdir()
    _, stranger = write_keys(tmp_path / "other")
    assert call_suture("verify", folder, "--public-key", stranger) == 1
    path = folder / "signature.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    for field, value in (
        ("timestamp", "1999"),
        ("head", "0" * 64),
        ("lines", 1),
        ("signature", "AAAA"),
        ("signature", "?"),
    ):
        path.write_text(json.dumps({**told, field: value}), encoding="utf-8")
        capsys.readouterr()
        assert call_suture("verify", folder, "--public-key", public) == 1
        assert capsys.readouterr().err.startswith(f"{path}: ")


def test_a_log_that_was_written_anew_is_not_the_one_that_was_signed(study: Path, tmp_path: Path, capsys) -> None:
    """What the signature is for: whoever deletes a run and its lines, and chains the rest anew, has no such head."""
    private, public = write_keys(tmp_path)
    assert call_suture("sign", study, "--key", private, "--timestamp", "noon" * 99) == 0
    note_start(study, "0" * 16)
    note_end(study / ("0" * 16), "interrupted")
    capsys.readouterr()
    assert call_suture("verify", study, "--public-key", public) == 0
    assert "signed up to line 4 of 6; timestamp (text, not interpreted): noonnoon" in capsys.readouterr().out
    gone = runs(study)[0]
    shutil.rmtree(gone)
    (study / "runs.parquet").unlink()
    kept = [entry for entry in entries(study) if entry["run"] != gone.name]
    (study / STUDY_LOG).write_text(chained(kept)[0], encoding="utf-8")
    assert study_findings(study).faults == []
    assert call_suture("verify", study, "--public-key", public) == 1
    assert "line 4: is not the head that was signed" in capsys.readouterr().err


def test_keys_that_cannot_be_used(study: Path, tmp_path: Path, capsys) -> None:
    private, public = write_keys(tmp_path)
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    secret = serialization.BestAvailableEncryption(b"word")
    (tmp_path / "locked.pem").write_bytes(ed25519.Ed25519PrivateKey.generate().private_bytes(pem, pkcs8, secret))
    curve = ec.generate_private_key(ec.SECP256R1()).private_bytes(pem, pkcs8, serialization.NoEncryption())
    (tmp_path / "curve.pem").write_bytes(curve)
    (tmp_path / "junk.pem").write_bytes(b"\x00junk")
    for name, said in (
        ("locked.pem", "is encrypted"),
        ("curve.pem", "is no Ed25519 key"),
        ("junk.pem", "is no private key"),
        ("pub.pem", "is no private key"),
        ("nowhere.pem", "is no file"),
        (".", "is no file"),
    ):
        assert call_suture("sign", study, "--key", tmp_path / name) == 2
        err = capsys.readouterr().err
        assert (said in err, err.count("\n")) == (True, 1)
    assert not (study / "signature.json").exists()
    assert call_suture("verify", study, "--public-key", public) == 1
    assert "signature.json: is missing" in capsys.readouterr().err
    assert call_suture("verify", study, "--public-key", private) == 2
    assert call_suture("sign", tmp_path, "--key", private) == 2
