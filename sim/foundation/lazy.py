"""Modules that take long to import, that many commands never need, and that are no garbage."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

_ALONE = {"dp_accounting": "dp_event"}
"""Packages that load all they have, with most of SciPy, and a module of theirs that needs none of it."""


@contextmanager
def loading() -> Iterator[None]:
    """Import or read without the garbage collector, which would look through all that is there again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def left_out() -> Iterator[None]:
    """Leave what is there already, modules above all, out of the garbage collector's rounds meanwhile."""
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class Lazy:
    """Stands for a module, which is imported when something of it is first asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        found = self._of_module_alone(attribute) or getattr(import_module(self._name), attribute)
        setattr(self, attribute, found)
        return found

    def _of_module_alone(self, attribute: str) -> Any:
        """Look first into the one module of a package that can be had without the package."""
        if self._name not in _ALONE or self._name in sys.modules:
            return None
        module = _loaded_alone(self._name, _ALONE[self._name])
        return module if attribute == _ALONE[self._name] else getattr(module, attribute, None)


def _loaded_alone(package: str, name: str) -> ModuleType:
    """Import a module without its package, which finds it in its place when it is imported itself."""
    full = f"{package}.{name}"
    if full not in sys.modules:
        around = find_spec(package)
        folders = around.submodule_search_locations if around else None
        spec = spec_from_file_location(full, Path(folders[0], f"{name}.py")) if folders else None
        if spec is None or spec.loader is None:
            return import_module(full)
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[full] = module
    return sys.modules[full]
