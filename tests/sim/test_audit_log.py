"""The audit log against the run it is of, and every way to damage it."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from support import DP_SGD, call_suture, plan_of, run_spec, write_csv

from sim.foundation.chain import chained
from sim.results.audit_log import AUDIT_FILE, Trail, first_fault
from sim.study.runner import execute


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    spec = run_spec(write_csv(folder / "patients.csv"), "splitfed-v1", "vanilla", DP_SGD, rounds=2)
    plan, _ = plan_of(spec)
    assert execute(plan, folder, {})["status"] == "ok"
    return folder / spec.run_id


@pytest.fixture(scope="module")
def log(run: Path) -> bytes:
    return (run / AUDIT_FILE).read_bytes()


@pytest.fixture(scope="module")
def record(run: Path) -> dict:
    return json.loads((run / "run.json").read_text(encoding="utf-8"))


def test_sound_log(log: bytes, record: dict) -> None:
    assert first_fault(log, record) is None
    rounds = [entry for entry in map(json.loads, log.splitlines()) if "round" in entry]
    assert len(rounds) == 2 * 4
    for k, clinic in enumerate(record["plan"]["clinics"]):
        mine = [entry for entry in rounds if entry["clinic"] == k]
        assert sum(sum(entry["up"].values()) for entry in mine) == clinic["bytes_up"]
        assert sum(sum(entry["down"].values()) for entry in mine) == clinic["bytes_down"]
        assert sum(entry["noised-steps"]["body"] for entry in mine) == clinic["steps"]


def test_any_flipped_byte_is_named_with_its_line(log: bytes, record: dict) -> None:
    for place in range(0, len(log), 41):
        broken = bytes([*log[:place], log[place] ^ 1, *log[place + 1 :]])
        line = log[:place].count(b"\n") + 1
        fault = first_fault(broken, record)
        assert fault is not None
        # A flip inside a valid value shows where the next line does not follow from it.
        assert fault.startswith((f"line {line}:", f"line {line + 1}:"))


@pytest.mark.parametrize("number", [1, 4, -1])
def test_dropped_repeated_and_moved_lines_are_named(log: bytes, record: dict, number: int) -> None:
    lines = log.splitlines(keepends=True)
    at = number % len(lines)
    for broken in (
        lines[:at] + lines[at + 1 :],
        lines[: at + 1] + lines[at:],
        [*lines[: at - 1], lines[at], lines[at - 1], *lines[at + 1 :]],
    ):
        fault = first_fault(b"".join(broken), record)
        assert fault is not None
        assert int(fault.split()[1].rstrip(":")) in (at, at + 1, at + 2)


@pytest.mark.parametrize("kept", [0, 3, -1])
def test_truncation_is_detected(log: bytes, record: dict, kept: int) -> None:
    lines = log.splitlines(keepends=True)
    assert "but ends elsewhere" in str(first_fault(b"".join(lines[:kept]), record))
    assert first_fault(log[:-1], record) is not None
    assert first_fault(log + b"{}", record) is not None


@pytest.mark.parametrize("change", ["bytes", "noise", "release", "missing"])
def test_a_chain_written_anew_still_has_to_agree_with_plan_and_ledger(log: bytes, record: dict, change: str) -> None:
    entries = [{k: v for k, v in json.loads(x).items() if k not in ("line", "previous")} for x in log.splitlines()]
    if change == "bytes":
        entries[5]["up"]["smashed"] -= 4
    elif change == "noise":
        entries[5]["noised-steps"]["head"] -= 1
    elif change == "release":
        next(e for e in entries if e.get("event") == "none")["event"] = {"class": "NoOpDpEvent"}
    else:
        del entries[max(i for i, entry in enumerate(entries) if "release" in entry)]
    text, head = chained(entries)
    forged = {**record, "privacy": {**record["privacy"], "audit-log": {"lines": len(entries), "head": head}}}
    fault = first_fault(text.encode(), forged)
    assert fault is not None
    assert {"bytes": "up smashed", "noise": "noised-steps head", "release": "ledger's release", "missing": "releases"}[
        change
    ] in fault


def test_verify(run: Path, log: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call_suture("verify", run) == 0
    assert "agree" in capsys.readouterr().out
    try:
        (run / AUDIT_FILE).write_bytes(log[:-9])
        assert call_suture("verify", run) == 1
        assert capsys.readouterr().err.count("\n") == 1
    finally:
        (run / AUDIT_FILE).write_bytes(log)
    assert call_suture("verify", tmp_path) == 2


def test_epsilon_of_a_saved_run(run: Path, record: dict, capsys: pytest.CaptureFixture[str]) -> None:
    assert call_suture("epsilon", run) == 0
    by_pld = capsys.readouterr().out
    worst = max(clinic["epsilon"]["model-user"] for clinic in record["plan"]["clinics"])
    assert "k0" in by_pld
    assert f"{worst:.3g}" in by_pld
    assert call_suture("epsilon", run, "--accountant", "rdp", "--delta", "1e-5") == 0
    assert capsys.readouterr().out != by_pld
    for wrong in (["--accountant", "gdp"], ["--delta", "2"]):
        assert call_suture("epsilon", run, *wrong) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert call_suture("epsilon", run.parent) == 2


def test_of_a_round_no_more_is_kept_than_its_clinics_need():
    trail, clinics, rounds = Trail(), 10_000, 40
    traffic = {(way, "model"): np.zeros(clinics, dtype=np.int64) for way in ("up", "down")}
    tracemalloc.start()
    for server_round in range(rounds):
        for counts in traffic.values():
            counts[server_round] += 8
        trail.close_round(server_round + 1, traffic, {}, {})
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 5 * 8 * clinics, "what was counted up to the last round, and little of each"
    assert [(entry["round"], entry["clinic"]) for entry in trail.entries] == [(k + 1, k) for k in range(rounds)]
