"""Networks as ordered, named blocks; a cut is a boundary between two blocks.

One network serves every strategy: the whole model for federated learning, head and body for vanilla split learning,
head, body and tail for U-shaped split learning. Blocks are ordinary ``torch.nn.Module`` objects and serve as templates:
the engine keeps the parameters outside them, stacked over lanes (see ``sim.tensor.lanes``).
"""

from sim.models.build import build_network, needs_two_rows
from sim.models.clip import ClipRows, never_negative
from sim.models.closed_form import Passage, UnknownLayerError, passage
from sim.models.largest import KeepLargest
from sim.models.network import Block, Network, Parameters, Part, seeded
from sim.models.public_head import stored_values

__all__ = [
    "Block",
    "ClipRows",
    "KeepLargest",
    "Network",
    "Parameters",
    "Part",
    "Passage",
    "UnknownLayerError",
    "build_network",
    "needs_two_rows",
    "never_negative",
    "passage",
    "seeded",
    "stored_values",
]
