"""All mutants."""

from .of_claims import HELD, LEDGER, WHAT_LEAVES
from .of_clips import CLIPS
from .of_defences import UNPROMISED
from .of_doors import DOORS
from .of_edges import OF_EDGES
from .of_intervals import INTERVALS
from .of_lanes import SHARED
from .of_noise import DRAWS, GRIDS, KEYS
from .of_outcomes import OUTCOMES
from .of_parties import OF_PARTIES
from .of_splits import SPLITS
from .of_sums import SUMS

MUTANTS = (
    *KEYS,
    *DRAWS,
    *GRIDS,
    *CLIPS,
    *WHAT_LEAVES,
    *LEDGER,
    *HELD,
    *SHARED,
    *SPLITS,
    *OF_PARTIES,
    *OF_EDGES,
    *SUMS,
    *INTERVALS,
    *UNPROMISED,
    *DOORS,
    *OUTCOMES,
)
