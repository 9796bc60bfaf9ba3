"""Two clinics with round numbers, for rounds worked out by hand.

A message's 512 bytes of headers take a second on A's line and two on B's, and so does each row; A's messages take a
second more. Computing a row's forward half takes A one second and B two. In `VANILLA` and `U_SHAPED` the server needs
three seconds a row.
"""

import numpy as np

from sim.plan.load import Leg
from sim.scenario.clinics import ClinicResources

A = ClinicResources(name="A", uplink_bits_per_s=4096, downlink_bits_per_s=4096, latency_s=1, compute_flop_per_s=1)
B = ClinicResources(name="B", uplink_bits_per_s=2048, downlink_bits_per_s=2048, latency_s=0, compute_flop_per_s=0.5)
ROW = 512
HEAD = 4 * ROW  # 6 s to or from A, 10 s to or from B
VANILLA = (Leg("clinic", 1), Leg("up", ROW), Leg("server", 3), Leg("down", ROW), Leg("clinic", 2))
U_SHAPED = (
    *(Leg("clinic", 1), Leg("up", ROW), Leg("server", 1)),
    *(Leg("down", ROW), Leg("clinic", 2), Leg("up", ROW), Leg("server", 2)),
    *(Leg("down", ROW), Leg("clinic", 2)),
)


def by_lane(table):
    """Return the rows of batches as a load has them, and the steps, of a table ``[step, lane]`` with 0 for none."""
    own = np.array(table, dtype=np.int64).T
    return own[own > 0], (own > 0).sum(1)
