"""dp-accounting, in whose events releases are described: imported when something of it is used, as it takes long."""

from typing import TYPE_CHECKING, Any

from sim.foundation.lazy import Lazy

if TYPE_CHECKING:
    from dp_accounting import DpEvent as DpEvent
else:
    DpEvent = Any

dp: Any = Lazy("dp_accounting")
