"""Every way to forge a run's folder that was tried, before and after the log is chained anew, and what names it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support import plan_of, run_spec, write_csv

from sim.foundation.chain import chained, file_hash, read_chain
from sim.foundation.problems import ScenarioError
from sim.privacy.ledger import Ledger
from sim.privacy.statement_text import STATEMENT_FILE, statement_text
from sim.results.audit_log import AUDIT_FILE, NOT_LISTED, release_entries, seal_entries
from sim.results.plain import from_plain
from sim.results.store import read_record
from sim.results.verification import run_faults
from sim.scenario.spec import digest_of
from sim.study.runner import execute

BOTH = {"mechanism": "dp-sgd+smashed-noise", "noise-multiplier": 1.5, "smashed-noise-multiplier": 6.0}
BOTH |= {"clip": 0.5, "delta": 1e-3, "labels": "public"}
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs that differ in their noise, both with a finite epsilon against everyone."""
    folder = tmp_path_factory.mktemp("study")
    csv = write_csv(folder / "patients.csv")
    made = []
    for noise in (1.5, 3.0):
        spec = run_spec(csv, "splitfed-v1", "vanilla", BOTH | {"noise-multiplier": noise}, rounds=2, participation=0.75)
        assert execute(plan_of(spec)[0], folder, {"suture": "0"})["status"] == "ok"
        made.append(folder / spec.run_id)
    return made


@pytest.fixture
def run(runs: list[Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs[0], tmp_path / runs[0].name))


def faults(run: Path) -> list[str]:
    try:
        read_record(run)
    except ScenarioError as damage:
        return list(damage.problems)
    return run_faults(run, json.loads((run / "run.json").read_text(encoding="utf-8")))


def edit(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    change(record)
    (run / "run.json").write_text(json.dumps(record, indent=1), encoding="utf-8")


def chain_anew(run: Path, *, write_statement: bool = True) -> None:
    """Write statement and log anew from what the folder holds now, as somebody would who owns it."""

    def chain(record: dict[str, Any]) -> None:
        if write_statement:
            text = statement_text(from_plain(record["privacy"]["statement"]))
            (run / STATEMENT_FILE).write_text(text, encoding="utf-8", newline="\n")
        entries = read_chain((run / AUDIT_FILE).read_bytes()).entries
        counted = [entry for entry in entries if "round" in entry]
        hashes = {path.name: file_hash(path) for path in run.iterdir() if path.name not in NOT_LISTED}
        released = release_entries(record["privacy"]["releases"])
        text, head = chained([*counted, *released, *seal_entries(hashes, record)])
        (run / AUDIT_FILE).write_text(text, encoding="utf-8", newline="\n")
        record["privacy"]["audit-log"] = {"lines": text.count("\n"), "head": head}

    edit(run, chain)


def test_a_run_that_nobody_touched_is_sound_and_stays_so_when_chained_anew(run: Path) -> None:
    assert faults(run) == []
    before = (run / AUDIT_FILE).read_bytes()
    chain_anew(run)
    assert faults(run) == []
    assert (run / AUDIT_FILE).read_bytes() == before


def scale(holder: dict[str, Any], key: str, factor: float = 0.9) -> None:
    holder[key] *= factor


def in_table(name: str, column: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        table = pd.read_parquet(run / name)
        table.loc[table.index[-1], column] *= 0.9
        table.to_parquet(run / name, index=False)

    return change


def in_record(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return lambda run: edit(run, change)


def of_releases(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[Path], None]:
    def within(record: dict[str, Any]) -> None:
        rows = json.loads(record["privacy"]["releases"])
        change(rows)
        record["privacy"]["releases"] = json.dumps(rows)

    return in_record(within)


def noisier(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row["what"] == "smashed":
            row["event"] = json.loads(json.dumps(row["event"]).replace('"noise_multiplier": ', '"noise_multiplier": 1'))


def name_of(record: dict[str, Any]) -> str:
    known = record["data-sha256"], record["public-head"], record["code-sha256"]
    return digest_of(record["spec"], *known, record["results-version"])[:16]


def other_name(record: dict[str, Any]) -> None:
    """Give the run the name that its changed settings have."""
    name = name_of(record)
    record["row"]["run_id"] = record["plan"]["run_id"] = record["privacy"]["statement"]["run"] = name


def louder(record: dict[str, Any]) -> None:
    record["spec"]["privacy"]["noise-multiplier"] = 15.0
    other_name(record)


def everywhere(record: dict[str, Any]) -> None:
    """Halve each epsilon against the server that run.json holds, in the same way."""
    for holder in (record["row"], record["plan"]):
        scale(holder, "epsilon_server", 0.5)
    for clinic in record["plan"]["clinics"]:
        scale(clinic["epsilon"], "server", 0.5)
    scale(record["privacy"]["statement"]["adversaries"][2], "epsilon", 0.5)


EDITS: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "row": (in_record(lambda r: scale(r["row"], "epsilon_server")), ("run.json: row.epsilon_server: ",)),
    "row, replace-one": (
        in_record(lambda r: scale(r["row"], "epsilon_peer_replace")),
        ("run.json: row.epsilon_peer_replace: ",),
    ),
    "statement, replace-one": (
        in_record(lambda r: scale(r["privacy"]["statement"]["adversaries"][1], "replace-epsilon")),
        ("run.json: privacy.statement.adversaries.1.replace-epsilon: ",),
    ),
    "plan": (in_record(lambda r: scale(r["plan"], "epsilon_peer")), ("run.json: plan.epsilon_peer: ",)),
    "clinic": (
        in_record(lambda r: scale(r["plan"]["clinics"][2]["epsilon"], "model-user")),
        ("run.json: plan.clinics.2.epsilon.model-user: ",),
    ),
    "statement": (
        in_record(lambda r: scale(r["privacy"]["statement"]["adversaries"][0], "epsilon")),
        ("run.json: privacy.statement.adversaries.0.epsilon: ",),
    ),
    "advantage": (
        in_record(lambda r: scale(r["privacy"]["statement"]["adversaries"][0], "advantage")),
        ("run.json: privacy.statement.adversaries.0.advantage: ",),
    ),
    "every epsilon of run.json": (
        in_record(everywhere),
        (
            "run.json: row.epsilon_server: ",
            "run.json: plan.epsilon_server: ",
            "run.json: plan.clinics.3.epsilon.server: ",
            "run.json: privacy.statement.adversaries.2.epsilon: ",
        ),
    ),
    "delta": (
        in_record(lambda r: scale(r["privacy"]["statement"], "delta", 0.1)),
        ("run.json: privacy.statement.delta: ",),
    ),
    "method": (in_record(lambda r: r["row"].update(method="local")), ("run.json: row.method: ",)),
    "clinics.parquet": (in_table("clinics.parquet", "epsilon_server"), ("clinics.parquet: epsilon_server, row 3: ",)),
    "rounds.parquet": (in_table("rounds.parquet", "epsilon_peer"), ("rounds.parquet: epsilon_peer: ",)),
    "ledger": (of_releases(noisier), ("run.json: privacy.releases: clinic 0, server: ",)),
    "releases left out": (
        of_releases(lambda rows: rows.pop()),
        ("run.json: privacy.releases: clinic 3, server: ",),
    ),
    "noise multiplier": (
        in_record(lambda r: scale(r["plan"]["drawn"]["noise-multipliers"], 1, 2.0)),
        ("run.json: plan.drawn.noise-multipliers.1: ", "run.json: plan.clinics.1.noise_multiplier: "),
    ),
    "noise multiplier as planned": (
        in_record(lambda r: scale(r["plan"]["clinics"][1], "noise_multiplier", 2.0)),
        ("run.json: plan.clinics.1.noise_multiplier: ",),
    ),
    "noise on rows": (
        in_record(lambda r: scale(r["plan"]["drawn"]["release-noise"], 1, 2.0)),
        ("run.json: plan.drawn.release-noise.1: ",),
    ),
    "fewer steps": (
        in_record(lambda r: r["plan"]["drawn"]["steps"].__setitem__(3, 1)),
        ("run.json: plan.drawn.steps.3: ", "run.json: plan.counts.noised-steps "),
    ),
    "lower rate": (
        in_record(lambda r: scale(r["plan"]["drawn"]["rates"], 3)),
        ("run.json: plan.drawn.rates.3: ",),
    ),
    "settings": (in_record(lambda r: scale(r["spec"]["privacy"], "clip", 0.5)), ("settings and data are those of ",)),
    "settings and name": (
        in_record(louder),
        ("run.json: plan.drawn.noise-multipliers.0: ", "run.json: privacy.statement.settings.noise-multiplier: "),
    ),
    "data": (in_record(lambda r: r.update({"data-sha256": "0" * 64})), ("settings and data are those of ",)),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_shows_in_the_chain_and_when_chained_anew_in_the_recount(run: Path, name: str) -> None:
    change, wanted = EDITS[name]
    change(run)
    found = faults(run)
    edited = name if name.endswith(".parquet") else "run.json"
    assert any(
        f"{edited}: is not as" in line or "the ledger's release" in line or "releases are in" in line for line in found
    )
    chain_anew(run)
    found = faults(run)
    assert not any("audit-log" in line for line in found)
    for part in wanted:
        assert any(part in line for line in found), (part, found)
    assert all(line.startswith(str(run)) and "\n" not in line for line in found)


def test_an_epsilon_edited_in_the_statement_s_text(run: Path) -> None:
    path = run / STATEMENT_FILE
    text = path.read_text(encoding="utf-8")
    shown = next(line for line in text.splitlines() if line.startswith("- **server**"))
    [number] = [word for word in shown.split() if word.replace(".", "").isdigit()][:1]
    path.write_text(text.replace(number, "0.1"), encoding="utf-8", newline="\n")
    hashed, said = faults(run)
    assert (f"{path}: is not as it was written" in hashed, f"{path}: line" in said) == (True, True)
    chain_anew(run, write_statement=False)
    assert faults(run) == [said]


def test_another_run_s_weights_and_files_that_come_and_go(runs: list[Path], run: Path) -> None:
    shutil.copy(runs[1] / WEIGHTS, run / WEIGHTS)
    assert faults(run) == [f"{run / WEIGHTS}: is not as it was written: its SHA-256 is another than in {AUDIT_FILE}"]
    (run / WEIGHTS).unlink()
    (run / "model_best.safetensors").symlink_to(runs[0] / WEIGHTS)
    missing, new = sorted(faults(run))
    assert missing == f"{run / WEIGHTS}: is missing; {AUDIT_FILE} lists it"
    assert new == f"{run / 'model_best.safetensors'}: is none of the run's files by {AUDIT_FILE}"


def test_a_metric_that_was_made_better(run: Path) -> None:
    edit(run, lambda record: record["row"].update(auc=0.999))
    altered, counted = faults(run)
    assert altered == f"{run / 'run.json'}: is not as {AUDIT_FILE} has it"
    assert counted.startswith(f"{run / 'run.json'}: row.auc: 0.999 is claimed, the predictions give 0.")


@pytest.mark.parametrize("first", [0, 7, -2])
def test_swapped_log_lines(run: Path, first: int) -> None:
    lines = (run / AUDIT_FILE).read_bytes().splitlines(keepends=True)
    lines[first], lines[first + 1] = lines[first + 1], lines[first]
    (run / AUDIT_FILE).write_bytes(b"".join(lines))
    [fault] = faults(run)
    assert fault.startswith(f"{run / AUDIT_FILE}: line {first % len(lines) + 1}: ")


@pytest.mark.parametrize("file", ["run.json", "log"])
def test_a_log_without_its_last_lines(run: Path, file: str) -> None:
    lines = (run / AUDIT_FILE).read_bytes().splitlines(keepends=True)[:-1]
    (run / AUDIT_FILE).write_bytes(b"".join(lines))
    if file == "run.json":
        head = read_chain(b"".join(lines)).head
        edit(run, lambda record: record["privacy"].update({"audit-log": {"lines": len(lines), "head": head}}))
    [fault] = faults(run)
    assert ("holds no hash of run.json" if file == "run.json" else "but ends elsewhere") in fault


def test_the_ledger_and_every_claim_forged_in_one_piece_is_not_what_the_settings_give(run: Path) -> None:
    """Whoever halves the steps in the ledger and takes its epsilon for all claims has still to change the counts."""

    def forge(record: dict[str, Any]) -> None:
        rows = json.loads(record["privacy"]["releases"])
        for row in rows:
            if row["event"]["class"] == "SelfComposedDpEvent":
                row["event"]["count"] = max(2, row["event"]["count"] // 2)
        record["privacy"]["releases"] = json.dumps(rows)
        ledger = Ledger.from_json(record["privacy"]["releases"])
        for k, clinic in enumerate(record["plan"]["clinics"]):
            clinic["epsilon"] = {a: ledger.epsilon(a, k, 1e-3) for a in clinic["epsilon"]}
        for a, column in (
            ("model-user", "epsilon_model_user"),
            ("peer-clinic", "epsilon_peer"),
            ("server", "epsilon_server"),
        ):
            worst = max(clinic["epsilon"][a] for clinic in record["plan"]["clinics"])
            record["row"][column] = record["plan"][column] = worst

    edit(run, forge)
    chain_anew(run)
    found = faults(run)
    for place in ("privacy.releases: clinic 3, server", "row.epsilon_server", "plan.clinics.3.epsilon.server"):
        assert any(f"run.json: {place}" in line for line in found)


@pytest.mark.parametrize(
    ("method", "cut", "privacy", "freeze"),
    [
        ("local", None, {"mechanism": "dp-sgd", "epsilon": 3.0, "delta": 1e-3}, []),
        ("splitfed-v1", "vanilla", {"mechanism": "dp-sgd", "epsilon": 3.0, "delta": 1e-3}, []),
        (
            "split",
            "vanilla",
            {"mechanism": "laplace+label-rr", "noise-multiplier": 9.0, "label-epsilon": 2.0},
            ["head"],
        ),
        (
            "release-once",
            "vanilla",
            {"mechanism": "smashed-noise", "epsilon": 4.0, "labels": "public", "delta": 1e-3},
            [],
        ),
        ("splitfed-v3", "vanilla", {"mechanism": "clinic-level", "noise-multiplier": 2.0, "delta": 1e-3}, []),
        ("fedavg", None, {"mechanism": "none"}, []),
    ],
)
def test_runs_of_every_unit_are_sound(
    tmp_path: Path, method: str, cut: str | None, privacy: dict[str, Any], freeze: list[str]
) -> None:
    spec = run_spec(write_csv(tmp_path / "patients.csv"), method, cut, privacy, {"freeze": freeze}, rounds=10)
    assert execute(plan_of(spec)[0], tmp_path, {})["status"] == "ok"
    assert faults(tmp_path / spec.run_id) == []


@pytest.mark.parametrize("stays", [1, 2])
def test_the_epsilon_of_a_patient(tmp_path: Path, stays: int) -> None:
    csv = write_csv(tmp_path / "clinics.csv", sizes=(40, 60))
    lines = csv.read_text(encoding="utf-8").splitlines()
    rows = [f"{line},p{i // 2 if stays == 1 else i % 40}" for i, line in enumerate(lines[1:])]
    csv.write_text("\n".join([f"{lines[0]},who", *rows]) + "\n", encoding="utf-8")
    spec = run_spec(csv, privacy={"mechanism": "dp-sgd", "noise-multiplier": 1.0, "delta": 1e-3}, rounds=1)
    features = tuple(name for name in spec.data.features if name != "who")
    data = spec.data.model_copy(update={"features": features, "patient": "who", "max_records_per_patient": 2})
    spec = spec.model_copy(update={"data": data})
    assert execute(plan_of(spec)[0], tmp_path, {})["status"] == "ok"
    run = tmp_path / spec.run_id
    assert faults(run) == []
    edit(run, lambda record: scale(record["privacy"]["statement"]["patients"]["epsilon"], "server", 0.5))
    chain_anew(run)
    [fault] = faults(run)
    assert fault.startswith(f"{run / 'run.json'}: privacy.statement.patients.epsilon.server: ")


@pytest.mark.parametrize("name", [AUDIT_FILE, STATEMENT_FILE, "rounds.parquet", WEIGHTS])
@pytest.mark.parametrize("kind", ["pipe", "link", "folder", "junk"])
def test_what_is_no_file_of_a_run_is_named_and_not_read(run: Path, tmp_path: Path, name: str, kind: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes((run / name).read_bytes())
    (run / name).unlink()
    if kind == "pipe":
        os.mkfifo(run / name)
    elif kind == "link":
        (run / name).symlink_to(secret)
    elif kind == "folder":
        (run / name).mkdir()
    else:
        (run / name).write_bytes(b"\x00\xff junk \n" * 9)
    found = faults(run)
    assert found
    assert all(line.startswith(f"{run / name}: ") for line in found)


def test_a_record_without_any_one_of_its_keys_is_one_line_or_several(run: Path) -> None:
    whole = json.loads((run / "run.json").read_text(encoding="utf-8"))
    for table, key in [
        *((None, key) for key in ("spec", "plan", "privacy", "data-sha256", "public-head")),
        *(("plan", key) for key in ("drawn", "counts", "clinics", "epsilon_server")),
        *(("privacy", key) for key in ("releases", "statement")),
    ]:
        for value in ("missing", None, 7, "text", [], {}):
            record = json.loads(json.dumps(whole))
            holder = record if table is None else record[table]
            if value == "missing":
                del holder[key]
            else:
                holder[key] = value
            (run / "run.json").write_text(json.dumps(record), encoding="utf-8")
            found = run_faults(run, record)
            assert found, (table, key, value)
            assert all(line.startswith(str(run)) and "\n" not in line for line in found)
