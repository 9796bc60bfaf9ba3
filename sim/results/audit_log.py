"""The audit log: what crossed, for whom and with which mechanism, in lines of JSON that are chained by their hashes.

A line a round and clinic, or edge server, holds the bytes by direction and kind that were counted while learning and
the noised steps by part; messages of the same kind in a round are one figure, since a thousand clinics' single batches
would be millions of lines. Then a line a release holds its event over the whole run, ``"none"`` where nothing was
noised. The last lines hold the hashes of every file of the folder, of ``run.json`` itself, of settings and data, and
the versions of the code. Each line has the hash of the one before it, and ``run.json`` names the last, so that a
changed, dropped, moved or cut-off line shows. No patient's value is in it. Who can rewrite the whole folder can write a
new chain: that shows where the head is kept elsewhere or signed (:mod:`sim.results.signature`), and an epsilon that
settings and counts do not give shows in any case (:mod:`sim.privacy.recount`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.foundation.chain import canonical_hash, file_hash, read_chain

AUDIT_FILE, SIGNATURE_FILE = "audit-log.jsonl", "signature.json"
NOT_LISTED = frozenset({AUDIT_FILE, SIGNATURE_FILE, "run.json"})
"""Files of a run's folder whose hashes do not stand in its log as a file's."""

_GROUPS = {"clinic": ("up", "down", "noised-steps"), "edge": ("up", "down")}
Counted = Mapping[Any, NDArray[np.int64]]


class Trail:
    """Collects what was counted, round by round, from counters that only grow."""

    def __init__(self) -> None:
        self._rounds: list[tuple[int, dict[str, _Round]]] = []
        self._traffic: dict[Any, NDArray[np.int64]] = {}
        self._noised: dict[Any, NDArray[np.int64]] = {}
        self._above: dict[Any, NDArray[np.int64]] = {}

    def close_round(self, server_round: int, traffic: Counted, noised: Counted, above: Counted) -> None:
        """Note what was counted since the last call.

        Parameters
        ----------
        traffic : mapping
            Bytes so far by ``(direction, kind)``, ``[clinic]`` each.
        noised : mapping
            Noised steps so far by part, ``[clinic]`` each.
        above : mapping
            Bytes so far between edge servers and cloud, ``[edge]`` each.
        """
        steps = {("noised-steps", part): counts for part, counts in sorted(_growth(noised, self._noised).items())}
        crossed = dict(sorted(_growth(traffic, self._traffic).items()))
        between = dict(sorted(_growth(above, self._above).items()))
        self._rounds.append((server_round, {"clinic": _Round.of(crossed | steps), "edge": _Round.of(between)}))

    @property
    def entries(self) -> list[dict[str, Any]]:
        """One entry a round and clinic, or edge server, for which something was counted."""
        return [
            {"round": server_round, who: place, **line}
            for server_round, counted in self._rounds
            for who, of_round in counted.items()
            for place, line in of_round.lines(_GROUPS[who])
        ]


class _Round(NamedTuple):
    """What a round counted: kinds, the places that have something, and ``[kind, place]`` their counts."""

    kinds: tuple[tuple[str, str], ...]
    places: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, counted: Mapping[tuple[str, str], NDArray[np.int64]]) -> _Round:
        of_all = np.array([*counted.values()]) if counted else np.zeros((0, 0), dtype=np.int64)
        places = np.flatnonzero(of_all.any(0))
        return cls(tuple(counted), places, of_all[:, places])

    def lines(self, groups: Sequence[str]) -> Iterator[tuple[int, dict[str, dict[str, int]]]]:
        for place, own in zip(self.places.tolist(), self.counts.T.tolist(), strict=True):
            line: dict[str, dict[str, int]] = {group: {} for group in groups}
            for (group, kind), count in zip(self.kinds, own, strict=True):
                if count:
                    line[group][kind] = count
            yield place, line


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


def seal_entries(hashes: Mapping[str, str], record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the last entries of a run's log: what its folder holds, and what made it.

    One a file, then one with the hashes of ``run.json`` (without the place where it names this log), of the settings
    and of the data, and with the versions of the code.

    Parameters
    ----------
    hashes : mapping of str to str
        SHA-256 of every other file of the folder but ``run.json``, by name.
    record : mapping
        What becomes of ``run.json``, in plain values.
    """
    seal = {
        "record-sha256": record_hash(record),
        "settings-sha256": canonical_hash(record.get("spec")),
        "data-sha256": record.get("data-sha256"),
        "code": record.get("provenance"),
    }
    return [*({"file": name, "sha256": value} for name, value in sorted(hashes.items())), {"seal": seal}]


def record_hash(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what ``run.json`` holds, without the place where it names its audit log."""
    privacy = {key: value for key, value in record.get("privacy", {}).items() if key != "audit-log"}
    return canonical_hash({**record, "privacy": privacy})


def seal_faults(entries: Sequence[Mapping[str, Any]], folder: Path, record: Mapping[str, Any]) -> list[str]:
    """Hold a run's folder against the last lines of its log.

    A line for each file that differs, is missing or is not listed.

    Parameters
    ----------
    entries : sequence of mapping
        The log's, in order.
    record : mapping
        Its ``run.json``, as it was read.
    """
    listed = {entry["file"]: entry["sha256"] for entry in entries if "file" in entry}
    seals = [entry["seal"] for entry in entries if "seal" in entry]
    if len(seals) != 1:
        return [f"{folder / AUDIT_FILE}: holds no hash of run.json in its last line"]
    wanted = seal_entries({}, record)[-1]["seal"]
    faults = [
        f"{folder / 'run.json'}: {what} not as {AUDIT_FILE} has it"
        for key, what in _SEALED.items()
        if seals[0].get(key) != wanted[key]
    ]
    there = {path.name: path for path in folder.iterdir() if path.name not in NOT_LISTED}
    for name in sorted(listed.keys() | there.keys()):
        path = folder / name
        if name not in there:
            faults.append(f"{path}: is missing; {AUDIT_FILE} lists it")
        elif name not in listed:
            faults.append(f"{path}: is none of the run's files by {AUDIT_FILE}")
        elif path.is_symlink() or not path.is_file():
            faults.append(f"{path}: is no ordinary file")
        elif file_hash(path) != listed[name]:
            faults.append(f"{path}: is not as it was written: its SHA-256 is another than in {AUDIT_FILE}")
    return faults


_SEALED = {
    "record-sha256": "is",
    "settings-sha256": "spec: the settings are",
    "data-sha256": "data-sha256: the data's digest is",
    "code": "provenance: the code's versions are",
}


def first_fault(log: bytes, record: Mapping[str, Any]) -> str | None:
    """Say what is wrong with an audit log first, or None.

    The line and its fault: a broken chain, or figures that are not the plan's or the ledger's.

    Parameters
    ----------
    record : mapping
        ``run.json``, which holds the chain's head, the plan and the ledger.
    """
    stated, chain = record["privacy"]["audit-log"], read_chain(log)
    lines = len(chain.entries)
    if lines >= stated["lines"] and (not stated["lines"] or chain.heads[stated["lines"] - 1] != stated["head"]):
        return f"line {stated['lines']}: is not the last line that run.json names"
    if chain.fault:
        return chain.fault
    if chain.torn or lines != stated["lines"]:
        return f"line {lines + 1}: the log has {stated['lines']} lines by run.json, but ends elsewhere"
    return _disagreement(chain.entries, record)


def _disagreement(entries: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> str | None:
    """Hold bytes and noised steps against the plan and releases against the ledger; name the line where it shows."""
    planned = {
        (who, key): Counter(dict(enumerate(counts)))
        for who, where in (("clinic", "counts"), ("edge", "edge-counts"))
        for key, counts in record["plan"].get(where, {}).items()
    }
    last: dict[tuple[tuple[str, str], int], int] = {}
    found: dict[tuple[str, str], Counter[int]] = {key: Counter() for key in planned}
    for number, entry in enumerate(entries, 1):
        if "round" not in entry:
            continue
        who = "edge" if "edge" in entry else "clinic"
        place = entry[who]
        for group in _GROUPS[who]:
            for kind, count in entry[group].items():
                key = who, f"{group} {kind}"
                last[key, place] = number
                found.setdefault(key, Counter())[place] += count
                if found[key][place] > planned.get(key, Counter())[place]:
                    return f"line {number}: {who} {place}, {key[1]}: more than planned"
    for key, counts in planned.items():
        for place, count in counts.items():
            if found[key][place] != count:
                where = last.get((key, place), len(entries))
                return f"line {where}: {key[0]} {place}, {key[1]}: {found[key][place]} in all, {count} planned"
    releases = release_entries(record["privacy"]["releases"])
    logged = [(number, entry) for number, entry in enumerate(entries, 1) if "release" in entry]
    for (number, entry), release in zip(logged, releases, strict=False):
        if entry != release:
            return f"line {number}: is not the ledger's release of {release['release']}, clinic {release['clinic']}"
    return None if len(logged) == len(releases) else f"line {len(entries)}: {len(releases)} releases are in the ledger"
