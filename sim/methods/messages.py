"""The messages between server and clinics, typed: what an instruction asks, and what a reply holds.

Every tensor has a leading lane axis, a lane for each of ``clinics``. Parameters are ``[1, *shape]`` on the way down,
the same for every clinic, and ``[lane, *shape]`` on the way up. Rows are ``[lane, batch, *feature]``, padded with zeros
behind those that are real, ``rows`` of each lane. How a message looks on the wire is the business of ``sim.flower``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, ClassVar, Final, Self

from sim.foundation.problems import SutureError

if TYPE_CHECKING:
    from torch import Tensor

    from sim.models import Parameters


class Kind(StrEnum):
    """What may cross, by the names under which traffic, clock and ledger know it."""

    MODEL = "model"
    OPTIMIZER = "optimizer"
    SMASHED = "smashed"
    LABELS = "labels"
    BODY_OUTPUT = "body-output"
    TAIL_GRADIENT = "tail-gradient"
    CUT_GRADIENT = "cut-gradient"
    NORMS = "norms"
    CLIP_FACTORS = "clip-factors"
    RECORDS = "records"
    MASKED = "masked-update"
    UPDATE = "compressed-update"


CUT_KINDS: Final = frozenset({Kind.SMASHED, Kind.BODY_OUTPUT, Kind.TAIL_GRADIENT, Kind.CUT_GRADIENT})
"""Rows of real numbers at a cut, of which noise or ``train.smashed-dtype`` may leave 16 or 8 bits."""
ROW_KINDS: Final = CUT_KINDS | {Kind.LABELS, Kind.NORMS, Kind.CLIP_FACTORS, Kind.RECORDS}
PARAMETER_KINDS: Final = frozenset({Kind.MODEL, Kind.MASKED, Kind.UPDATE, Kind.OPTIMIZER})


class UnseenError(SutureError):
    """A method asks for one clinic's parameters where the server has sums alone."""

    def __init__(self) -> None:
        super().__init__(
            "privacy.secure-aggregation: this strategy looks at what single clinics trained, and the server has their "
            "sum alone; drop it, or take fedavg"
        )


INSTRUCTIONS: Final[dict[str, type[Instruction]]] = {}
"""By action; each enters itself."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Instruction:
    """What the server asks of some clinics.

    Attributes
    ----------
    clinics : list of int
        In lane order.
    """

    action: ClassVar[str]
    clinics: list[int]

    def __init_subclass__(cls, action: str = "") -> None:
        if action:
            cls.action = action
            INSTRUCTIONS[action] = cls

    @classmethod
    @cache
    def kinds(cls) -> dict[str, Kind]:
        """Return the kinds of arrays that it may bring, by the fields that hold them."""
        return {each.name: each.metadata["kind"] for each in fields(cls) if "kind" in each.metadata}

    def of_lanes(self, lanes: Sequence[int]) -> Self:
        """Return what it asks of the clinics of some lanes."""
        return replace(self, clinics=[self.clinics[lane] for lane in lanes])


@dataclass(frozen=True, kw_only=True, eq=False)
class Hello(Instruction, action="query.hello"):
    """Say which clinics you host; it names none itself."""

    clinics: list[int] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, eq=False)
class Upload(Instruction, action="train.records"):
    """Send every training record once; where a head is brought, the rows behind it."""

    head: Parameters | None = field(default=None, metadata={"kind": Kind.MODEL})


@dataclass(frozen=True, kw_only=True, eq=False)
class Train(Instruction, action="train"):
    """Train the whole model for a round on each clinic's own records.

    Attributes
    ----------
    proximal_mu : float, optional
        Of FedProx's pull towards the model that is brought.
    clipping_norm : float, optional
        To which the clinic clips what it changed; strategies of Flower's send it.
    """

    server_round: int
    proximal_mu: float | None = None
    clipping_norm: float | None = None
    model: Parameters = field(metadata={"kind": Kind.MODEL})


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainAlone(Instruction, action="train.alone"):
    """Train each clinic's own model for another round; nothing comes back."""

    server_round: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Begin(Instruction, action="train.begin"):
    """Open a turn with the clinics' parts, and send the first batch's smashed data.

    Attributes
    ----------
    turn : str
        Tells the turns apart that are open at one node at the same time.
    first, steps : int
        The turn's first batch and their number.
    """

    server_round: int
    turn: str
    first: int
    steps: int
    model: Parameters | None = field(default=None, metadata={"kind": Kind.MODEL})
    optimizer: Parameters | None = field(default=None, metadata={"kind": Kind.OPTIMIZER})


@dataclass(frozen=True, kw_only=True, eq=False)
class Open(Begin, action="train.open"):
    """Open a turn in the server's own process, where its batches need no message; nothing comes back."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Close(Instruction, action="train.close"):
    """End a turn that was opened so, and send the clinics' parts, where they cross."""

    turn: str


@dataclass(frozen=True, kw_only=True, eq=False)
class OfBatch(Instruction):
    """Something for the batch in flight.

    Attributes
    ----------
    step : int
        The batch.
    rows : list of int
        ``[lane]`` its records.
    """

    turn: str
    step: int
    rows: list[int]

    def of_lanes(self, lanes: Sequence[int]) -> Self:
        """Return what it asks of the clinics of some lanes, as wide as the widest of them."""
        rows = [self.rows[lane] for lane in lanes]
        fields = [name for name, kind in self.kinds().items() if kind not in PARAMETER_KINDS]
        cut = {name: getattr(self, name)[lanes, : max(rows)] for name in fields}
        return replace(self, clinics=[self.clinics[lane] for lane in lanes], rows=rows, **cut)


@dataclass(frozen=True, kw_only=True, eq=False)
class Tail(OfBatch, action="train.tail"):
    """Train the tail on the body's outputs, and send the gradient in them."""

    body_output: Tensor = field(metadata={"kind": Kind.BODY_OUTPUT})


@dataclass(frozen=True, kw_only=True, eq=False)
class Step(OfBatch, action="train.step"):
    """Train the head with the cut gradient, and go on to the next batch; clipped jointly, send the gradients' norms."""

    cut_gradient: Tensor = field(metadata={"kind": Kind.CUT_GRADIENT})


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip(OfBatch, action="train.clip"):
    """Scale each record's gradient that is held, train with their sum, and go on to the next batch."""

    clip_factors: Tensor = field(metadata={"kind": Kind.CLIP_FACTORS})


@dataclass(frozen=True, kw_only=True, eq=False)
class EdgeRound(Instruction, action="train.edge"):
    """Do a round with your clinics, as their server; where a model is brought, from that one on. Nothing comes back."""

    server_round: int
    model: Parameters | None = field(default=None, metadata={"kind": Kind.MODEL})


@dataclass(frozen=True, kw_only=True, eq=False)
class Gather(Instruction, action="train.gather"):
    """Send the average of what your clinics have trained, as an edge server."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reply:
    """What a node, or all nodes together, answer.

    Attributes
    ----------
    clinics : list of int
        The clinic of each lane.
    rows : list of int
        ``[lane]`` real rows; empty where no rows are sent.
    payload : mapping of Kind to Tensor
        Rows, ``[lane, batch, *feature]``.
    parts : mapping of Kind to parameters
        ``[lane, *shape]`` by name.
    noised : mapping of str to list of int
        ``[lane]`` by part or kind of rows: how many gradients or batches were clipped and noised.
    metrics : mapping of str to float
        ``num-examples``, and what strategies of Flower's are told besides.
    """

    clinics: list[int]
    rows: list[int] = field(default_factory=list)
    payload: Mapping[Kind, Tensor] = field(default_factory=dict)
    parts: Mapping[Kind, Parameters] = field(default_factory=dict)
    noised: Mapping[str, list[int]] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def model(self) -> Parameters:
        """The trained parameters, ``[lane, *shape]``.

        Raises
        ------
        UnseenError
            Under secure aggregation: only their sum has come.
        """
        if Kind.MASKED in self.parts:
            raise UnseenError
        return self.parts[Kind.MODEL]

    @property
    def to_average(self) -> Parameters:
        """What :meth:`sim.methods.exchange.Exchange.average` takes: the parameters, or what secure aggregation adds."""
        return self.parts[Kind.MASKED if Kind.MASKED in self.parts else Kind.MODEL]

    def in_every_lane(self) -> Reply:
        """Return it with parameters that stand for all its clinics, ``[1, *shape]``, in the lane of each."""
        lanes = len(self.clinics)
        parts = {
            kind: {name: value.expand(lanes, *value.shape[1:]) for name, value in named.items()}
            for kind, named in self.parts.items()
        }
        return replace(self, parts=parts)

    def of_clinic(self, clinic: int) -> Reply:
        """Return what it holds of one clinic; nothing of one that is lost."""
        if clinic not in self.clinics:
            return Reply(clinics=[])
        lane = self.clinics.index(clinic)
        rows = self.rows[lane : lane + 1]
        return Reply(
            clinics=[clinic],
            rows=rows,
            payload={kind: value[lane : lane + 1, : rows[0]] for kind, value in self.payload.items()},
            parts={
                kind: {name: value[lane : lane + 1] for name, value in named.items()}
                for kind, named in self.parts.items()
                if kind != Kind.MASKED  # nothing in a sum is of one clinic
            },
            noised={what: steps[lane : lane + 1] for what, steps in self.noised.items()},
            metrics=self.metrics if len(self.clinics) == 1 else {},
        )
