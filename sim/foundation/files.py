"""Files that a scenario names: what is opened at all, and how much fits in this machine's memory."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

_KINDS: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def absolute(folder: Path, name: str | Path) -> Path:
    """Return the whole path of a file; ``ValueError`` if it cannot be the name of one.

    Links stay, so that a loop of them is told when the file is to be read.
    """
    if "\0" in str(name):
        raise ValueError("has a NUL character; give the path of a file")
    return Path(os.path.abspath(folder / name))  # noqa: PTH100 - resolve() raises on a loop of links


def status(path: Path, most: int | None = None) -> os.stat_result:
    """Look at a file before it is opened: only an ordinary one ends.

    It has at most so many bytes, or fits in memory. ``ValueError`` with what is wrong with it and how to mend it, to
    stand behind its name.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        raise ValueError("does not exist; check the path") from None
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror}); check the path") from None
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"is {_KINDS.get(stat.S_IFMT(found.st_mode), 'no file')}; give an ordinary file")
    if most is not None and found.st_size > most:
        raise ValueError(f"has {gigabytes(found.st_size)}, and at most {gigabytes(most)} are read; give a smaller file")
    if most is None and (fault := scarce(found.st_size)):
        raise ValueError(f"takes {fault}; give a smaller file")
    return found


def scarce(needed: float) -> str:
    """Say how many bytes that is if this machine has less memory, to stand behind a verb; empty where they fit."""
    there = memory_bytes()
    return f"{gigabytes(needed)} of memory, and this machine has {gigabytes(there)}" if needed > there else ""


def memory_bytes() -> int:
    """Return the memory of this machine, or of the container if it is given less."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            there = min(there, int(Path(limit).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return there


def gigabytes(size: float) -> str:
    """Return a number of bytes in GB, or in MB where that reads better."""
    amount, unit = (size / 1e9, "GB") if size >= 1e9 else (size / 1e6, "MB")
    return f"{amount:,.0f} {unit}" if amount >= 100 else f"{amount:.3g} {unit}"
