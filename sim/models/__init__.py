"""Networks as ordered, named blocks; a cut is a boundary between two blocks.

One network serves every strategy: the whole model for federated learning, head and body for vanilla split learning,
head, body and tail for U-shaped split learning. Blocks are made of layers in plain data, from which plans are made; a
user's own are ``torch.nn.Module`` objects. When something trains each block has a module as its template: the engine
keeps the parameters outside, stacked over lanes (see ``sim.tensor.lanes``).
"""

from sim.models.build import build_network
from sim.models.closed_form import Passage, UnknownLayerError, passage
from sim.models.network import Block, Network, Parameters, Part, seeded
from sim.models.public_head import stored_values
from sim.models.sign import never_negative

__all__ = [
    "Block",
    "Network",
    "Parameters",
    "Part",
    "Passage",
    "UnknownLayerError",
    "build_network",
    "never_negative",
    "passage",
    "seeded",
    "stored_values",
]
