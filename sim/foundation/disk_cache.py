"""What is the same for every study and slow to make, kept in the user's cache folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def cache_folder() -> Path:
    """Return ``$XDG_CACHE_HOME/suture``, else ``~/.cache/suture``; ``RuntimeError`` if the user has no home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "suture"


def kept_text(name: str, make: Callable[[], str]) -> str:
    """Return a text that is made once for all commands of a user, and anew wherever it cannot be kept.

    ``name`` is a file's, which says all that the text depends on.
    """
    with suppress(OSError, RuntimeError, UnicodeDecodeError):
        return (cache_folder() / name).read_text(encoding="utf-8")
    text = make()
    with suppress(OSError, RuntimeError):
        folder = cache_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = folder / f".{name}.{os.getpid()}"
        partial.write_text(text, encoding="utf-8")
        partial.replace(folder / name)
    return text
