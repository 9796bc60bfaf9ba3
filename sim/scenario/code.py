"""Code of others that a run is made of, as a digest: a module and what it imports of its own package or folder.

Nothing is imported for it. What is installed beside Suture is known by its version, and left out.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

NOT_THEIRS: Final = ("flwr", "sim", "strategies", "clients")
"""Packages whose code comes with Suture or with Flower."""
_INSTALLED: Final = {"site-packages", "dist-packages"}


def code_digest(module: str) -> str | None:
    """Return the SHA-256 of a module's file or, where it imports others of its own, of all of them; None without."""
    own, found, waiting = _place(module), dict[str, str](), [module]
    while waiting:
        name = waiting.pop()
        if name in found or (file := _module_file(name)) is None:
            continue
        stat = file.stat()
        found[name], imported = _read(file, name, stat.st_mtime_ns, stat.st_size)
        waiting += [each for each in imported if _belongs(each, module, own)]
    if len(found) < 2:
        return found.get(module)
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()


def _belongs(name: str, module: str, own: Path | None) -> bool:
    """Whether a module is of the same package, or beside it in a folder of somebody's own."""
    top = name.partition(".")[0]
    if top == module.partition(".")[0]:
        return True
    beside = own is not None and _INSTALLED.isdisjoint(own.parts) and _place(top) == own
    return beside and top not in NOT_THEIRS


def _place(module: str) -> Path | None:
    """Return the folder that holds a module's topmost package."""
    roots = _roots(module.partition(".")[0])
    return roots[0].parent if roots else None


def _roots(top: str) -> list[Path]:
    """Return a topmost module's file, or the folders of a package."""
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        return [Path(place) for place in spec.submodule_search_locations]
    return [Path(spec.origin)] if spec.origin is not None else []


def _module_file(module: str) -> Path | None:
    """Return where a module lies; parents are looked at as folders, so that none of their code runs."""
    top, *rest = module.split(".")
    for root in _roots(top):
        if root.suffix == ".py":
            return None if rest else root
        inside = root.joinpath(*rest)
        places = (inside.with_suffix(".py"), inside / "__init__.py") if rest else (inside / "__init__.py",)
        if file := next((place for place in places if place.is_file()), None):
            return file
    return None


@lru_cache(maxsize=256)
def _read(file: Path, module: str, modified_ns: int, size: int) -> tuple[str, tuple[str, ...]]:
    """Return the SHA-256 of a file, and which modules it may import."""
    content = file.read_bytes()
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    try:
        names = tuple(dict.fromkeys(_imported(ast.parse(content), package)))
    except (SyntaxError, ValueError):
        names = ()
    return hashlib.sha256(content).hexdigest(), names


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
    """Yield what may be modules among the names of a file's imports, with the packages that hold them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))
