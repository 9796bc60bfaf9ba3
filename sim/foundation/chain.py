"""Lines of JSON that are chained by their hashes: each holds the hash of the line before it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

START = "0" * 64
_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


@dataclass
class Chain:
    """A chain as it was read."""

    entries: list[dict[str, Any]] = field(default_factory=list)  # Without number and hash, up to the first fault
    heads: list[str] = field(default_factory=list)  # The hash of each of these lines
    fault: str = ""  # The first line that is not as it was written, and why; empty for a sound chain
    torn: bytes = b""  # What stands behind the last whole line

    @property
    def head(self) -> str:
        """The hash of the last line."""
        return self.heads[-1] if self.heads else START


def line_of(number: int, previous: str, entry: Mapping[str, Any]) -> str:
    """Write an entry as a line of a chain, without the line's end."""
    return _JSON.encode({"line": number, "previous": previous, **entry})


def hash_of(line: str) -> str:
    """Return the hash by which the next line names a line."""
    return hashlib.sha256(line.encode()).hexdigest()


def chained(entries: Iterable[Mapping[str, Any]]) -> tuple[str, str]:
    """Write entries as chained lines; return the text of the file, and the hash of its last line."""
    head, lines = START, []
    for number, entry in enumerate(entries, 1):
        line = line_of(number, head, entry)
        lines.append(line)
        head = hash_of(line)
    return "".join(f"{line}\n" for line in lines), head


def read_chain(log: bytes) -> Chain:
    """Read chained lines up to the first fault."""
    chain = Chain()
    *lines, chain.torn = log.split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            previous = entry.pop("previous")
            whole = entry.pop("line") == number and line_of(number, previous, entry).encode() == line
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            chain.fault = f"line {number}: is no line of a log"
            return chain
        if previous != chain.head:
            chain.fault = f"line {number}: does not follow from the line before it"
            return chain
        if not whole:
            chain.fault = f"line {number}: is not as it was written"
            return chain
        chain.heads.append(hash_of(line.decode()))
        chain.entries.append(entry)
    return chain


def canonical_hash(value: Any) -> str:
    """Return the SHA-256 of a plain value as JSON with sorted keys and without spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
