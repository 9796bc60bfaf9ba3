"""The audit log: what crossed, for whom and with which mechanism, in lines of JSON that are chained by their hashes.

A line a round and clinic holds the bytes by direction and kind that were counted while learning and the noised steps by
part; messages of the same kind in a round are one figure, since a thousand clinics' single batches would be millions of
lines. Then a line a release holds its event over the whole run, ``"none"`` where nothing was noised. Each line has the
hash of the one before it, and ``run.json`` names the last, so that a changed, dropped, moved or cut-off line shows.
No patient's value is in it. The chain shows damage and careless edits; who can rewrite the whole folder can forge it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

AUDIT_FILE = "audit-log.jsonl"
START = "0" * 64

Counted = Mapping[Any, NDArray[np.int64]]


class Trail:
    """Collects what was counted, round by round, from counters that only grow."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self._traffic: dict[Any, NDArray[np.int64]] = {}
        self._noised: dict[Any, NDArray[np.int64]] = {}

    def close_round(self, server_round: int, traffic: Counted, noised: Counted) -> None:
        """Enter what was counted since the last call.

        Parameters
        ----------
        server_round : int
        traffic : mapping
            Bytes so far by ``(direction, kind)``, ``[clinic]`` each.
        noised : mapping
            Noised steps so far by part, ``[clinic]`` each.
        """
        new_bytes, new_steps = _growth(traffic, self._traffic), _growth(noised, self._noised)
        by_clinic: dict[int, dict[str, Any]] = {}
        for (direction, kind), counts in sorted(new_bytes.items()):
            for clinic in np.flatnonzero(counts).tolist():
                line = by_clinic.setdefault(clinic, {"up": {}, "down": {}, "noised-steps": {}})
                line[direction][kind] = int(counts[clinic])
        for part, counts in sorted(new_steps.items()):
            for clinic in np.flatnonzero(counts).tolist():
                line = by_clinic.setdefault(clinic, {"up": {}, "down": {}, "noised-steps": {}})
                line["noised-steps"][part] = int(counts[clinic])
        self.entries += [{"round": server_round, "clinic": k, **by_clinic[k]} for k in sorted(by_clinic)]


def _growth(now: Counted, before: dict[Any, NDArray[np.int64]]) -> dict[Any, NDArray[np.int64]]:
    new = {key: counts - before.get(key, 0) for key, counts in now.items()}
    before.update({key: counts.copy() for key, counts in now.items()})
    return new


def release_entries(ledger: str) -> list[dict[str, Any]]:
    """Return one entry a release of a ledger, as ``Ledger.to_json`` wrote it."""
    return [
        {"release": row["what"], **{key: value for key, value in row.items() if key not in ("what", "event")}}
        | {"event": "none" if row["event"] == {"class": "NonPrivateDpEvent"} else row["event"]}
        for row in json.loads(ledger)
    ]


def chained(entries: Iterable[Mapping[str, Any]]) -> tuple[str, str]:
    """Write entries as chained lines.

    Returns
    -------
    tuple of str
        The text of the file, and the hash of its last line.
    """
    head, lines = START, []
    for number, entry in enumerate(entries, 1):
        line = _line(number, head, entry)
        lines.append(line)
        head = _hash(line)
    return "".join(f"{line}\n" for line in lines), head


def _line(number: int, previous: str, entry: Mapping[str, Any]) -> str:
    return json.dumps({"line": number, "previous": previous, **entry}, separators=(",", ":"), allow_nan=False)


def _hash(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()


def first_fault(log: bytes, record: Mapping[str, Any]) -> str | None:
    """Say what is wrong with an audit log first, or None.

    Parameters
    ----------
    log : bytes
        The file.
    record : mapping
        ``run.json``, which holds the chain's head, the plan and the ledger.

    Returns
    -------
    str or None
        The line and its fault: a broken chain, or figures that are not the plan's or the ledger's.
    """
    stated = record["privacy"]["audit-log"]
    lines = log.split(b"\n")
    head, entries = START, []
    for number, line in enumerate(lines[:-1], 1):
        try:
            entry = json.loads(line)
            previous, whole = entry["previous"], _line(number, entry["previous"], _payload(entry)).encode() == line
        except (ValueError, KeyError, TypeError):
            return f"line {number}: is no line of an audit log"
        if previous != head:
            return f"line {number}: does not follow from the line before it"
        if not whole:
            return f"line {number}: is not as it was written"
        head = _hash(line.decode())
        entries.append(_payload(entry))
        if number == stated["lines"] and head != stated["head"]:
            return f"line {number}: is not the last line that run.json names"
    if lines[-1] or len(entries) != stated["lines"]:
        return f"line {len(entries) + 1}: the log has {stated['lines']} lines by run.json, but ends elsewhere"
    return _disagreement(entries, record)


def _payload(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in ("line", "previous")}


def _disagreement(entries: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> str | None:
    """Hold bytes and noised steps against the plan and releases against the ledger; name the line where it shows."""
    planned = {key: Counter(dict(enumerate(counts))) for key, counts in record["plan"]["counts"].items()}
    last: dict[tuple[str, int], int] = {}
    found: dict[str, Counter[int]] = {key: Counter() for key in planned}
    for number, entry in enumerate(entries, 1):
        if "round" not in entry:
            continue
        clinic = entry["clinic"]
        for group in ("up", "down", "noised-steps"):
            for kind, count in entry[group].items():
                key = f"{group} {kind}"
                last[key, clinic] = number
                found.setdefault(key, Counter())[clinic] += count
                if found[key][clinic] > planned.get(key, Counter())[clinic]:
                    return f"line {number}: clinic {clinic}, {key}: more than planned"
    for key, counts in planned.items():
        for clinic, count in counts.items():
            if found[key][clinic] != count:
                where = last.get((key, clinic), len(entries))
                return f"line {where}: clinic {clinic}, {key}: {found[key][clinic]} in all, {count} planned"
    releases = release_entries(record["privacy"]["releases"])
    logged = [(number, entry) for number, entry in enumerate(entries, 1) if "release" in entry]
    for (number, entry), release in zip(logged, releases, strict=False):
        if entry != release:
            return f"line {number}: is not the ledger's release of {release['release']}, clinic {release['clinic']}"
    return None if len(logged) == len(releases) else f"line {len(entries)}: {len(releases)} releases are in the ledger"
