"""Where the command ``suture`` starts, and what looks after the name ``sim``, which a user's own file may have.

``suture_start.pth`` imports this module whenever Python starts: it stays tiny, and loads nothing else.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # without typing, which is slow to load
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

_FIRST_WORDS = b'"""Suture\'s simulator'


class ForeignPackageError(ImportError):
    """Another package or module stands where Python looks for one of Suture's."""


class _Watch:
    """Finds no module; refuses a ``sim`` that is not Suture's."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != "sim":
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name)
        if spec is None or spec.origin is None:  # absent, or a folder without code
            return None
        with open(spec.origin, "rb") as file:  # noqa: PTH123 (pathlib would be loaded at every start of Python)
            if file.read(len(_FIRST_WORDS)) == _FIRST_WORDS:
                return None
        place = spec.submodule_search_locations[0] if spec.submodule_search_locations else spec.origin
        raise ForeignPackageError(
            f"Suture needs its own package 'sim', but Python finds it at {place}; "
            "rename or move that package, or run Suture from another folder or environment"
        )


sys.meta_path.insert(0, _Watch)


def main() -> None:
    """Run the command ``suture``; a foreign package in Suture's place is one line, and exit code 2."""
    try:
        from sim.cli import main as command
    except ForeignPackageError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    command()
