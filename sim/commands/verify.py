"""``suture verify`` and ``suture sign``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sim.commands.common import AnyFolder
from sim.foundation.problems import ScenarioError, SutureError


def verify(
    folder: AnyFolder,
    public_key: Annotated[
        Path | None,
        typer.Option("--public-key", metavar="PUB.pem", help="Also verify the signature with this Ed25519 key."),
    ] = None,
) -> None:
    """Verify a run or a study: the chain of its log, the hash of every file, and every epsilon, recomputed."""
    from sim.results.signature import signature_faults
    from sim.results.study_log import STUDY_LOG

    faults, said = _of_study(folder) if (folder / STUDY_LOG).is_file() else _of_run(folder)
    if public_key is not None:
        wrong, signed = signature_faults(folder, public_key)
        faults, said = faults + wrong, [*said, signed] if signed else said
    if faults:
        raise SutureError("\n".join(faults))
    print("\n".join(said))


def _of_run(folder: Path) -> tuple[list[str], list[str]]:
    from sim.results.audit_log import AUDIT_FILE, SIGNATURE_FILE
    from sim.results.reading import file_bytes, read_json
    from sim.results.store import RUN_FILE, read_record
    from sim.results.verification import run_faults

    record = read_record(folder)
    stated = record.get("privacy", {}).get("audit-log") if isinstance(record.get("privacy"), dict) else None
    if not isinstance(stated, dict) or "lines" not in stated:
        raise ScenarioError(f"{folder}: this run did not finish and has no audit log; choose a finished run")
    if file_bytes(folder, AUDIT_FILE) is None:
        raise SutureError(f"{folder / AUDIT_FILE}: is missing")
    said = [
        f"{folder / AUDIT_FILE}: {stated['lines']} lines, chain sound; log, ledger and plan agree; every file is "
        "as it was written, and every epsilon is what settings and counts give"
    ]
    if (folder / SIGNATURE_FILE).exists():
        said.append(f"{folder / SIGNATURE_FILE}: is checked with --public-key PUB.pem")
    return run_faults(folder, read_json(folder, RUN_FILE)), said


def _of_study(folder: Path) -> tuple[list[str], list[str]]:

    from sim.results.study_log import STUDY_LOG
    from sim.results.study_verification import study_findings

    found = study_findings(folder)
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    told = f"{found.lines} lines, chain sound; {found.listed} runs listed, {found.checked} of them recounted, all agree"
    return found.faults, [f"{folder / STUDY_LOG}: {told}"]


def sign(
    folder: AnyFolder,
    key: Annotated[Path, typer.Option("--key", metavar="KEY.pem", help="An unencrypted Ed25519 private key.")],
    timestamp: Annotated[
        str | None,
        typer.Option("--timestamp", metavar="TEXT|FILE", help="Stored and signed with the head; not interpreted."),
    ] = None,
) -> None:
    """Sign the head of a study's or a run's log."""
    from sim.results.signature import sign as sign_head

    path = sign_head(folder, key, timestamp)
    print(f"{path}: written; suture verify {folder} --public-key PUB.pem checks it")
