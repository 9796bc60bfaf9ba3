"""What a method exchanges with each cut: traffic, time and the ledger's releases follow from it.

Kinds of payload, per clinic. Row-wise kinds cross once a batch, one row a record; parameters cross at the beginning and
the end of a clinic's turn (its round, or each of its batches where clinics alternate by mini-batch).

==================  =========  ================================================================
kind                direction  what
==================  =========  ================================================================
model               both       the parts of the network that are the clinic's in this method
masked-update       up         under secure aggregation, in place of the model: four bytes a number
compressed-update   up         in place of the model where updates are rounded, or their largest numbers are sent
secure-aggregation  both       its keys, shares and lists, with what their messages cost
alignment           both       private set intersection's keys, where parties do not know all patients
optimizer           both       their optimiser's state, where it is handed on with them
smashed             up         the head's outputs at the cut layer; two bytes a number where they are noised
labels              up         vanilla only, one byte a record
body-output         down       U-shaped only, the body's outputs at the second cut
tail-gradient       up         U-shaped only, the loss's gradient in the body's outputs; noised as smashed rows are
cut-gradient        down       the loss's gradient in the smashed data
norms               up         joint clipping only, squared norms of records' gradients at the clinic, four bytes
clip-factors        down       joint clipping only, by how much each record's gradient is scaled, four bytes
records             up         centralised only, once: the training records themselves, or a party's columns of them
==================  =========  ================================================================

In vertical split learning every party sends and gets these rows of the same patients; those that have to do with labels
cross to and from the label's holder alone. Where rows are released once, the head goes down once, and smashed rows and
labels come up once, before training. What a clinic keeps as its own (``local``'s model, parts of V3, heads of parties
unless they are averaged over regions, BatchNorm's local statistics) is in no message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sim.methods.messages import Kind
from sim.methods.method import Method, Movement
from sim.privacy.ledger import ADVERSARIES, Adversary
from sim.scenario.edges import MULTI_HOP

Direction = Literal["up", "down"]
Traffic = dict[tuple[Direction, str], NDArray[np.int64]]
Kinds = tuple[Kind, ...]

HEADER_BYTES = 512
"""Stated cost of one message beyond its arrays' payload: Flower's metadata, record structure and transport framing."""
HEADERS = "headers"
SECURE = "secure-aggregation"
ALIGNMENT = "alignment"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The exchange of a method with one cut.

    Attributes
    ----------
    topology : {"whole", "vanilla", "u-shaped", "multi-hop", "multi-hop-u-shaped"}
        Where the network is cut.
    clinic_parts, edge_parts, server_parts : tuple of str
        The parts that train at the clinic, at its edge server, and at the server, which is the cloud where there are
        edge servers.
    movement : {"averaged", "handed-on", "own", "none"}
        What becomes of the clinic's parts, as :class:`sim.methods.method.Method` says.
    batch_up, batch_down : tuple of tuple of str
        Messages of one batch, in order; each is a tuple of the kinds it carries.
    averaged_before : bool
        Whether edge servers have averaged parameters before they send them up: one set for all their clinics.
    counted_before : tuple of str
        Parts of which all that trains, and is noised, is in front of the edge servers, and counted there.
    once_up : tuple of str
        Kinds that cross once, before training.
    sees_raw : dict of str to tuple of str
        By adversary, the un-noised releases in its view, whatever the noise in the gradients.
    sees_model : tuple of str
        The adversaries who see parameters trained on the clinic's records.
    """

    topology: str
    clinic_parts: tuple[str, ...]
    edge_parts: tuple[str, ...] = ()
    server_parts: tuple[str, ...]
    movement: Movement
    batch_up: tuple[Kinds, ...] = ()
    batch_down: tuple[Kinds, ...] = ()
    averaged_before: bool = False
    counted_before: tuple[str, ...] = ()
    once_up: Kinds = ()
    sees_raw: dict[Adversary, Kinds]
    sees_model: tuple[Adversary, ...]

    @property
    def parts(self) -> tuple[str, ...]:
        """Every part that trains, each clipped and noised on its own under DP-SGD."""
        return self.clinic_parts + self.edge_parts + self.server_parts

    @property
    def rows_sent(self) -> Kinds:
        """The kinds of rows that clinics send: to the server, or to their edge servers where there are any."""
        return self.sees_raw.get("edge", self.sees_raw.get("server", ()))

    @property
    def crosses(self) -> bool:
        """Whether the clinic's parts cross at the beginning and the end of its turn."""
        return self.movement in ("averaged", "handed-on")

    def exchanging_norms(self) -> Protocol:
        """Return the exchange with joint clipping: after each batch's gradients, norms up and clip factors down."""
        added: Mapping[Adversary, Kind] = {"server": Kind.NORMS, "peer-clinic": Kind.CLIP_FACTORS}
        return replace(
            self,
            batch_up=(*self.batch_up, (Kind.NORMS,)),
            batch_down=(*self.batch_down, (Kind.CLIP_FACTORS,)),
            sees_raw={adversary: (*kinds, added[adversary]) for adversary, kinds in self.sees_raw.items()},
        )


_AT_CLINIC: dict[str | None, tuple[str, ...]] = {
    None: ("model",),
    "vanilla": ("head",),
    "u-shaped": ("head", "tail"),
    "multi-hop": ("head",),
    "multi-hop-u-shaped": ("head", "tail"),
}


def protocol_of(method: Method, cut: str | None) -> Protocol:
    """Derive a method's exchange from its facts and the cut."""
    clinic_parts, server_parts = _AT_CLINIC[cut], () if cut is None else ("body",)
    up: tuple[Kinds, ...] = ()
    down: tuple[Kinds, ...] = ()
    if method.pooled:
        if cut is None:
            clinic_parts, server_parts = (), ("model",)
    elif cut in ("vanilla", "multi-hop"):
        up, down = ((Kind.SMASHED, Kind.LABELS),), ((Kind.CUT_GRADIENT,),)
    elif cut in ("u-shaped", "multi-hop-u-shaped"):
        up = (Kind.SMASHED,), (Kind.TAIL_GRADIENT,)
        down = (Kind.BODY_OUTPUT,), (Kind.CUT_GRADIENT,)
    raw = method.once_up + tuple(kind for kinds in up for kind in kinds)
    sees_raw: dict[Adversary, Kinds] = {"server": raw} if raw else {}
    sees_model: tuple[Adversary, ...] = ("model-user",) if method.alone else ADVERSARIES
    if method.joins:  # what a party gets of a patient is formed from the other parties' columns of that one
        sees_raw["peer-clinic"] = tuple(kind for kinds in down for kind in kinds)
        sees_model = ("model-user", "server")
    edge_parts: tuple[str, ...] = ()
    if method.edge_round is not None:  # the edge servers have the body, and the cloud gets averages alone
        edge_parts, server_parts, sees_raw = server_parts, (), {"edge": raw}
    elif cut in MULTI_HOP:
        edge_parts, sees_raw = ("middle",), {"edge": raw, "server": raw}
    return Protocol(
        topology=cut or "whole",
        clinic_parts=clinic_parts,
        edge_parts=edge_parts,
        server_parts=server_parts,
        movement=method.clinic_parts,
        batch_up=up,
        batch_down=down,
        once_up=method.once_up,
        sees_raw=sees_raw,
        sees_model=(*sees_model, "edge") if edge_parts else sees_model,
    )
