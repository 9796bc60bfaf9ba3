"""Suture's simulator. ``from sim import run`` does what the command ``suture run`` does."""

import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suture_start import ForeignPackageError

if TYPE_CHECKING:
    from sim.api.running import run
    from sim.api.study import Study
    from sim.foundation.problems import ScenarioError
    from sim.scenario import Scenario

__all__ = ["Scenario", "ScenarioError", "Study", "run"]


def _refuse_intruders() -> None:
    """Make sure that the packages ``strategies`` and ``clients`` are Suture's: their names are common ones.

    Raises
    ------
    ForeignPackageError
        Names the package that stands in the way, and where it lies.
    """
    home = Path(__file__).resolve().parent.parent
    for name in ("strategies", "clients"):
        spec = find_spec(name)
        places = list(spec.submodule_search_locations or [str(spec.origin)]) if spec else []
        if [Path(str(place)).resolve() for place in places] != [home / name]:
            found = ", ".join(map(str, places)) or "nowhere"
            raise ForeignPackageError(
                f"Suture needs its own package {name!r} from {home}, but Python finds it at {found}; "
                "rename or move that package, or run Suture from another folder or environment"
            )


_refuse_intruders()
from sim.foundation.lazy import loading  # noqa: E402 - intruders are told of first

# Let MKL choose its way through a product by the matrices' shape alone, not by where in memory they begin: a lane gets
# the same bits wherever it stands. It is read before the first product, even if torch is imported already.
os.environ.setdefault("MKL_CBWR", "AUTO")


_HOMES = {
    "Scenario": "sim.scenario",
    "ScenarioError": "sim.foundation.problems",
    "Study": "sim.api.study",
    "run": "sim.api.running",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sim' has no attribute {name!r}")
    with loading():
        found = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return found
