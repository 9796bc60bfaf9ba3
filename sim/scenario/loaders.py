"""Records that a function of the user's own returns, kept as a file while this process lives."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from functools import cache, lru_cache
from pathlib import Path

from sim.foundation.plugins import loaded
from sim.foundation.problems import ScenarioError, place_of, show
from sim.scenario.in_memory import InMemory, in_memory
from sim.scenario.lookup import SOURCES


@lru_cache(maxsize=4)
def records_of(name: str, options: str) -> tuple[InMemory, Path]:
    """Call a loader once, and return what it returns with the file that holds it.

    Parameters
    ----------
    name : str
        A registered name, or an import path.
    options : str
        Its arguments, as JSON.

    Raises
    ------
    ScenarioError
        With one line for each problem.
    """
    try:
        found = loaded(SOURCES, name)
    except ValueError as error:
        raise ScenarioError([f"scenario: data.path: {error}"]) from None
    try:
        data = found(**json.loads(options))
    except ScenarioError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, TypeError) and error.__traceback__ is not None and error.__traceback__.tb_next is None:
            fault = "cannot be called with data.options; give the arguments that it takes"
        else:
            code = getattr(found, "__code__", None)
            fault = f"failed: {place_of(error, code.co_filename if code else None)}; correct it"
        raise ScenarioError([f"scenario: data.path: loader {show(name)} {fault}"]) from None
    records = in_memory(data)
    return records, records.keep(_folder())


@cache
def _folder() -> Path:
    """Return a folder of this process, which nobody else can read and which is gone at its end unless it is killed."""
    folder = Path(tempfile.mkdtemp(prefix="suture-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
