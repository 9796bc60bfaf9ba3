"""``suture verify``."""

from __future__ import annotations

from sim.commands.common import RunFolder


def verify(
    folder: RunFolder,
) -> None:
    """Check a run's audit log: its chain, and that log, ledger and plan agree."""
    from sim.privacy.audit_log import AUDIT_FILE, first_fault
    from sim.problems import ScenarioError, SutureError
    from sim.study.reading import file_bytes
    from sim.study.store import read_record

    record, log = read_record(folder), folder / AUDIT_FILE
    if "audit-log" not in record["privacy"]:
        raise ScenarioError([f"{folder}: this run did not finish, so that it has no audit log; take one that did"])
    content = file_bytes(folder, AUDIT_FILE)
    if content is None:
        raise SutureError(f"{log}: is missing")
    fault = first_fault(content, record)
    if fault is not None:
        raise SutureError(f"{log}: {fault}")
    print(f"{log}: {record['privacy']['audit-log']['lines']} lines, chain sound; log, ledger and plan agree")
