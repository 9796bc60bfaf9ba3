"""Reads a scenario file as TOML."""

import tomllib
from pathlib import Path
from typing import Any, Final

from sim.foundation.files import status
from sim.foundation.problems import ScenarioError
from sim.scenario.shape import DEEPEST

_MOST_BYTES: Final = 4_000_000
"""Of a scenario file."""


def read_toml(path: Path, label: str) -> dict[str, Any]:
    """Return what a scenario file holds; ``ScenarioError`` in one line that begins with the label if it is none."""
    if path.is_dir():
        raise ScenarioError([f"{label}: is a folder; give a scenario file, NAME.toml"])
    try:
        status(path, _MOST_BYTES)
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ScenarioError([f"{label}: cannot be read ({error.strerror}); check the path"]) from None
    except UnicodeDecodeError:
        raise ScenarioError([f"{label}: is not UTF-8 text; save it as UTF-8"]) from None
    except ValueError as error:
        raise ScenarioError([f"{label}: {error}"]) from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        what, _, where = str(error).rstrip(")").partition(" (at ")
        raise ScenarioError([f"{label}: {where}: {what}; write it as TOML"]) from None
    except RecursionError:
        raise ScenarioError(
            [f"{label}: lists or tables stand more than {DEEPEST} deep in each other; no key has so many"]
        ) from None
    except ValueError:  # Python reads no number of more than some thousands of digits
        raise ScenarioError([f"{label}: has a whole number of thousands of digits; give a smaller one"]) from None
