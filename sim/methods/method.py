"""What a method is: its facts, from which plan, clock, ledger, refusals and labels follow, and its round.

A method is one file: a :class:`Method` and a function ``round(exchange, state) -> state`` that reads like the paper.
Built-ins are entry points of the group ``suture.methods``; one of a user's own is named by its import path,
``package.module:METHOD``; any Flower strategy by the dotted path of its class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from sim.foundation.plugins import loaded
from sim.methods.messages import Kind
from sim.scenario.lookup import METHODS, is_flower_path

if TYPE_CHECKING:
    from sim.methods.exchange import Exchange
    from sim.models import Parameters

Family = Literal["FL", "SL", "SplitFed", "baseline"]
Layout = Literal["horizontal", "vertical"]
Movement = Literal["averaged", "handed-on", "own", "none"]


@dataclass(frozen=True, kw_only=True)
class State:
    """What the server holds between rounds; a method with more to remember extends it.

    Attributes
    ----------
    model : dict of str to Tensor
        What the server has of the model: ``[1, *shape]``, and ``[clinic, *shape]`` where each clinic's body copy has
        something of its own. What the clinics keep to themselves is not in it.
    clip : float
        Of clinics' updates under clinic-level privacy; the next round's, where it adapts.
    """

    model: Parameters
    clip: float


Round = Callable[["Exchange", Any], State]


def _all_parts(server_round: int) -> tuple[str, ...]:
    return ("model", "head", "body", "tail")


@dataclass(frozen=True, kw_only=True)
class Method:
    """The facts of a method, each stated once.

    Attributes
    ----------
    name : str
        As a scenario names it.
    label : str
        As people read it.
    citation : str
        The paper.
    family : {"FL", "SL", "SplitFed", "baseline"}
    cuts : tuple of str
        Where it may cut the network, ``"vanilla"``, ``"u-shaped"`` and ``"multi-hop"``, with edge servers between
        clinics and cloud; empty where the whole model is at one place.
    clinic_parts : {"averaged", "handed-on", "own", "none"}
        What becomes of the parts that train at the clinics: averaged at the server after a round; handed on to the next
        clinic with their optimiser's state; kept by the clinic, which nobody else sees; or nothing trains there.
    body : {"shared", "copies", "joint", "joint-copies"} or None
        Whether the server has one body that serves all batches one after another, or one copy a clinic in parallel, or
        one behind the join of the rows of a region's parties, a body of its own or a copy; None where it has none.
    layouts : tuple of {"horizontal", "vertical"}
        Whether it is for clinics with patients of their own, or for parties with columns of the same patients.
    once_up : tuple of Kind
        Payload that every clinic sends once, before training, in place of batches.
    averages : callable
        The parts that the server averages at the end of a round, by the round's number; of them those that are averaged
        at all count. A part that is not averaged in a round goes on from where it was.
    takes : tuple of str
        Which of the keys ``order``, ``alternate`` and ``proximal-mu`` it has.
    trains : bool
        Whether anything is trained; otherwise each clinic counts its classes, and no batch is computed.
    personal : {"model", "last-block"} or None
        What each clinic trains further after the last round, on its own records and for its own use, see
        :func:`sim.methods.personal.personalised`; of methods whose whole model is averaged.
    options : mapping of str to scalar
        Keys of its own in ``[[strategies]] options``, with their defaults.
    begin : callable, optional
        Makes the first round's state from the exchange and a plain :class:`State`; without it that is taken.
    edge_round : callable, optional
        What each edge server does in a round as the server of its clinics, where that is not the cloud's to do.
    round : callable or None
        One round, from state to state; None for a strategy of Flower's, which brings its own.
    """

    name: str
    label: str
    citation: str = ""
    family: Family
    clinic_parts: Movement
    round: Round | None
    begin: Round | None = None
    edge_round: Round | None = None
    cuts: tuple[str, ...] = ()
    layouts: tuple[Layout, ...] = ("horizontal",)
    body: Literal["shared", "copies", "joint", "joint-copies"] | None = None
    once_up: tuple[Kind, ...] = ()
    averages: Callable[[int], tuple[str, ...]] = _all_parts
    takes: tuple[str, ...] = ()
    trains: bool = True
    personal: Literal["model", "last-block"] | None = None
    options: Mapping[str, bool | int | float | str] = field(default_factory=dict)

    @property
    def sequential(self) -> bool:
        """Whether one body serves the clinics' batches one after another."""
        return bool(self.cuts) and self.body == "shared" and not self.once_up

    @property
    def pooled(self) -> bool:
        """Whether the server trains on what every clinic has sent it once."""
        return bool(self.once_up)

    @property
    def alone(self) -> bool:
        """Whether every clinic trains by itself, and nothing crosses."""
        return not self.cuts and self.clinic_parts == "own"

    @property
    def joins(self) -> bool:
        """Whether the server joins the rows of a region's parties."""
        return self.body in ("joint", "joint-copies")

    @property
    def imported(self) -> bool:
        """Whether it is a strategy of Flower's."""
        return self.round is None

    @property
    def averages_updates(self) -> bool:
        """Whether each round forms a sum of clinics' updates, and of nothing else that they train."""
        apart = self.sequential or self.pooled or self.alone or self.joins
        return not apart and self.averages is _all_parts


@cache
def method_of(name: str) -> Method:
    """Return a method by its registered name, its import path, or the dotted path of a Flower strategy.

    Raises
    ------
    ValueError
        In one line: if there is no such method, or what stands at the path is none.
    """
    if is_flower_path(name):
        return Method(
            name=name,
            label=name.rpartition(".")[2],
            family="FL",
            clinic_parts="averaged",
            round=None,
        )
    found = loaded(METHODS, name)
    if not isinstance(found, Method):
        raise ValueError(f'"{name}" is no Method; name the METHOD of a module')  # noqa: TRY004 - as others of one line
    return found
