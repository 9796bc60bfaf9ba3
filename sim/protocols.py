"""What each strategy exchanges, stated once: traffic, time and the ledger's releases follow from it.

Kinds of payload, per clinic. Model parameters cross once a round in each direction; row-wise kinds cross once a batch,
one row a record.

==================  =========  ================================================================
kind                direction  what
==================  =========  ================================================================
model               both       the parts of the network that are the clinic's in this strategy
smashed             up         the head's outputs at the cut layer
labels              up         vanilla only, one byte a record
body-output         down       U-shaped only, the body's outputs at the second cut
tail-gradient       up         U-shaped only, the loss's gradient in the body's outputs
cut-gradient        down       the loss's gradient in the smashed data
records             up         centralised only, once: the training records themselves
==================  =========  ================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sim.privacy.ledger import ADVERSARIES, Adversary

Direction = Literal["up", "down"]
Traffic = dict[tuple[Direction, str], NDArray[np.int64]]

HEADER_BYTES = 512
"""Stated cost of one message beyond its arrays' payload: Flower's metadata, record structure and transport framing."""
HEADERS = "headers"
MODEL_KIND = "model"
ROW_KINDS = frozenset({"smashed", "labels", "body-output", "tail-gradient", "cut-gradient", "records"})


@dataclass(frozen=True)
class Protocol:
    """One strategy's exchange.

    Attributes
    ----------
    topology : {"whole", "vanilla", "u-shaped"}
        Where the network is cut.
    clinic_parts : tuple of str
        The parts that train at the clinic.
    server_parts : tuple of str
        The parts that train at the server.
    model_crosses : bool
        Whether the clinic's parts cross in both directions in every round.
    batch_up, batch_down : tuple of tuple of str
        Messages of one batch, in order; each is a tuple of the kinds it carries.
    once_up : tuple of str
        Kinds that cross once, before training.
    carries_optimizer : bool
        Whether the optimiser's state lives on between rounds.
    sees_raw : dict of str to tuple of str
        By adversary, the un-noised releases in its view, whatever the noise in the gradients.
    sees_model : tuple of str
        The adversaries who see parameters trained on the clinic's records.
    """

    topology: str
    clinic_parts: tuple[str, ...]
    server_parts: tuple[str, ...]
    model_crosses: bool
    batch_up: tuple[tuple[str, ...], ...]
    batch_down: tuple[tuple[str, ...], ...]
    once_up: tuple[str, ...]
    carries_optimizer: bool
    sees_raw: dict[Adversary, tuple[str, ...]]
    sees_model: tuple[Adversary, ...]

    @property
    def parts(self) -> tuple[str, ...]:
        """Every part that trains, each clipped and noised on its own under DP-SGD."""
        return self.clinic_parts + self.server_parts


EVERYONE = ADVERSARIES

FEDERATED = Protocol("whole", ("model",), (), True, (), (), (), False, {}, EVERYONE)

PROTOCOLS: dict[tuple[str, str | None], Protocol] = {
    ("centralised", None): Protocol(
        "whole", (), ("model",), False, (), (), ("records", "labels"), True,
        {"server": ("records", "labels")}, EVERYONE,
    ),
    ("local", None): Protocol("whole", ("model",), (), False, (), (), (), True, {}, ("model-user",)),
    ("fedavg", None): FEDERATED,
    ("splitfed-v1", "vanilla"): Protocol(
        "vanilla", ("head",), ("body",), True, (("smashed", "labels"),), (("cut-gradient",),), (), False,
        {"server": ("smashed", "labels")}, EVERYONE,
    ),
    ("splitfed-v1", "u-shaped"): Protocol(
        "u-shaped", ("head", "tail"), ("body",), True, (("smashed",), ("tail-gradient",)),
        (("body-output",), ("cut-gradient",)), (), False, {"server": ("smashed", "tail-gradient")}, EVERYONE,
    ),
}  # fmt: skip


def protocol_of(strategy: str, cut: str | None) -> Protocol:
    """Return a strategy's protocol; one named by import path is federated learning, with its own aggregation."""
    return PROTOCOLS.get((strategy, cut), FEDERATED)
