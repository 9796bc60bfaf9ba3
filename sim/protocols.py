"""What each strategy exchanges, stated once: traffic, time and the ledger's releases follow from it.

Kinds of payload, per clinic. Row-wise kinds cross once a batch, one row a record; parameters cross at the beginning and
the end of a clinic's turn (its round, or each of its batches where clinics alternate by mini-batch).

==================  =========  ================================================================
kind                direction  what
==================  =========  ================================================================
model               both       the parts of the network that are the clinic's in this strategy
optimizer           both       their optimiser's state, where it is handed on with them
smashed             up         the head's outputs at the cut layer; two bytes a number where they are noised
labels              up         vanilla only, one byte a record
body-output         down       U-shaped only, the body's outputs at the second cut
tail-gradient       up         U-shaped only, the loss's gradient in the body's outputs; noised as smashed rows are
cut-gradient        down       the loss's gradient in the smashed data
norms               up         joint clipping only, squared norms of records' gradients at the clinic, four bytes
clip-factors        down       joint clipping only, by how much each record's gradient is scaled, four bytes
records             up         centralised only, once: the training records themselves
==================  =========  ================================================================

Under ``release-once`` the head goes down once, and smashed rows and labels come up once, before training. What a clinic
keeps as its own (``local``'s model, parts of V3, BatchNorm's local statistics) is in no message.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sim.privacy.ledger import ADVERSARIES, Adversary

Direction = Literal["up", "down"]
Traffic = dict[tuple[Direction, str], NDArray[np.int64]]
Movement = Literal["averaged", "handed-on", "own", "none"]
Kinds = tuple[str, ...]

HEADER_BYTES = 512
"""Stated cost of one message beyond its arrays' payload: Flower's metadata, record structure and transport framing."""
HEADERS = "headers"
MODEL_KIND, OPTIMIZER_KIND = "model", "optimizer"
CUT_KINDS = frozenset({"smashed", "body-output", "tail-gradient", "cut-gradient"})
"""Rows of real numbers at a cut, of which noise or ``train.smashed-dtype`` may leave 16 bits."""
ROW_KINDS = frozenset(
    {"smashed", "labels", "body-output", "tail-gradient", "cut-gradient", "norms", "clip-factors", "records"}
)


@dataclass(frozen=True)
class Protocol:
    """One strategy's exchange.

    Attributes
    ----------
    topology : {"whole", "vanilla", "u-shaped"}
        Where the network is cut.
    clinic_parts, server_parts : tuple of str
        The parts that train at the clinic and at the server.
    movement : {"averaged", "handed-on", "own", "none"}
        What becomes of the clinic's parts: averaged at the server after each round; handed on to the next clinic with
        their optimiser's state; kept by the clinic, which nobody else sees; or there are none, or none that train.
    batch_up, batch_down : tuple of tuple of str
        Messages of one batch, in order; each is a tuple of the kinds it carries.
    once_up : tuple of str
        Kinds that cross once, before training.
    sees_raw : dict of str to tuple of str
        By adversary, the un-noised releases in its view, whatever the noise in the gradients.
    sees_model : tuple of str
        The adversaries who see parameters trained on the clinic's records.
    """

    topology: str
    clinic_parts: tuple[str, ...]
    server_parts: tuple[str, ...]
    movement: Movement
    batch_up: tuple[Kinds, ...]
    batch_down: tuple[Kinds, ...]
    once_up: Kinds
    sees_raw: dict[Adversary, Kinds]
    sees_model: tuple[Adversary, ...]

    @property
    def parts(self) -> tuple[str, ...]:
        """Every part that trains, each clipped and noised on its own under DP-SGD."""
        return self.clinic_parts + self.server_parts

    @property
    def crosses(self) -> bool:
        """Whether the clinic's parts cross at the beginning and the end of its turn."""
        return self.movement in ("averaged", "handed-on")

    def exchanging_norms(self) -> Protocol:
        """Return the exchange with joint clipping: after each batch's gradients, norms up and clip factors down."""
        server = (*self.sees_raw["server"], "norms")
        return replace(
            self,
            batch_up=(*self.batch_up, ("norms",)),
            batch_down=(*self.batch_down, ("clip-factors",)),
            sees_raw={**self.sees_raw, "server": server},
        )


def _whole(movement: Movement, sees_model: tuple[Adversary, ...]) -> Protocol:
    return Protocol("whole", ("model",), (), movement, (), (), (), {}, sees_model)


def _vanilla(movement: Movement) -> Protocol:
    up = ("smashed", "labels")
    return Protocol(
        "vanilla", ("head",), ("body",), movement, (up,), (("cut-gradient",),), (), {"server": up}, ADVERSARIES
    )


def _u_shaped(movement: Movement) -> Protocol:
    up, down = (("smashed",), ("tail-gradient",)), (("body-output",), ("cut-gradient",))
    raw = ("smashed", "tail-gradient")
    return Protocol("u-shaped", ("head", "tail"), ("body",), movement, up, down, (), {"server": raw}, ADVERSARIES)


_RECORDS = ("records", "labels")
_SPLIT: dict[str, Movement] = {
    "split": "handed-on",
    "splitfed-v1": "averaged",
    "splitfed-v2": "averaged",
    "splitfed-v3": "own",
}
FEDERATED = _whole("averaged", ADVERSARIES)
PROTOCOLS: dict[tuple[str, str | None], Protocol] = {
    ("centralised", None): Protocol(
        "whole", (), ("model",), "none", (), (), _RECORDS, {"server": _RECORDS}, ADVERSARIES
    ),
    ("local", None): _whole("own", ("model-user",)),
    ("fedavg", None): FEDERATED,
    ("fedprox", None): FEDERATED,
    **{(name, "vanilla"): _vanilla(movement) for name, movement in _SPLIT.items()},
    **{(name, "u-shaped"): _u_shaped(movement) for name, movement in _SPLIT.items()},
}


RELEASE_ONCE = Protocol(
    "vanilla",
    ("head",),
    ("body",),
    "none",
    (),
    (),
    ("smashed", "labels"),
    {"server": ("smashed", "labels")},
    ADVERSARIES,
)


def protocol_of(strategy: str, cut: str | None, *, releases_once: bool = False) -> Protocol:
    """Return a strategy's protocol; one named by import path is federated learning, with its own aggregation.

    Where rows are released once, any cut strategy has the same: the server trains on the rows that it keeps.
    """
    return RELEASE_ONCE if releases_once else PROTOCOLS.get((strategy, cut), FEDERATED)
