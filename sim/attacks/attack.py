"""What an attack is: it plays an adversary, takes what that adversary sees of a run, and measures what it learns.

An attack that fails proves nothing; one that succeeds shows what is lost at least. Some look on while a run is trained
(:class:`Observer`); others have the finished run in hand and train what they like (:class:`Target`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sim.data.federation import Federation
from sim.foundation.plugins import loaded, registered
from sim.foundation.problems import SutureError
from sim.methods.job import Job
from sim.methods.messages import Instruction, Reply
from sim.methods.method import Layout
from sim.models import Parameters
from sim.plan.plan import Plan
from sim.privacy.ledger import Adversary
from sim.results.columns import COLUMNS, UNITS, unit_of
from sim.scenario.lookup import ATTACKS

Scalars = Mapping[str, bool | int | float | str]


class AttackError(SutureError, ValueError):
    """An attack is not what it must be."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One number that an attack measured.

    Attributes
    ----------
    measure : str
        What was measured. Its last word is the unit, one of :data:`sim.results.columns.UNITS`: ``"auc"``,
        ``"worst_decile_r2"``.
    value : float
        The larger, the more the adversary learns; of an ``error`` the smaller.
    chance : float
        What guessing would give; NaN where nothing is guessed.
    low, high : float
        Confidence interval of 95 %; NaN without one.
    bound : float
        What no attack is expected to exceed, by the epsilon that is claimed; NaN where that bounds nothing.
    clinic : str
        The clinic whose records alone it is about; empty for all.
    adversary : {"model-user", "peer-clinic", "server"}, optional
        Who finds it; the attack's own adversary unless said.
    """

    measure: str
    value: float
    chance: float = math.nan
    low: float = math.nan
    high: float = math.nan
    bound: float = math.nan
    clinic: str = ""
    adversary: Adversary | None = None

    @property
    def unit(self) -> str:
        """The unit of the value."""
        unit = unit_of(self.measure)
        if unit is None:
            raise AttackError(f'measure "{self.measure}" has no unit; let it end in one of {", ".join(UNITS)}')
        return unit


@dataclass(frozen=True, eq=False)
class Exhibit:
    """Training records beside what an attack made of them, to be kept for the report: they publish patients' data.

    Attributes
    ----------
    originals, rebuilt : ndarray
        ``[record, *feature]``, of the same records.
    """

    originals: NDArray[np.float32]
    rebuilt: NDArray[np.float32]


class Observer(ABC):
    """An attack at work on one run; overrides what it wants to look at.

    What it is shown is not copied: it must not be changed, and is changed by others later on.
    """

    def round(self, server_round: int, model: Parameters) -> None:  # noqa: B027 - to look is optional
        """Look at the model before the first round and after each, as far as the adversary sees it.

        Parameters
        ----------
        server_round : int
        model : dict of str to Tensor
            ``[1, *shape]``, or ``[clinic, *shape]`` where every clinic has its own. The server sees what is not kept by
            the clinics, a peer clinic what the clinics are sent, the model user nothing before the end.
        """

    def message(self, instruction: Instruction, reply: Reply) -> None:  # noqa: B027 - to look is optional
        """Look at an instruction and its reply as they cross, noise included.

        The server sees those of all clinics of a node at once. For a peer clinic they come clinic by clinic, and
        what is found in the name of one must not rest on the messages of another. The model user sees none.
        """

    @abstractmethod
    def findings(self, model: Parameters) -> Iterable[Finding | Exhibit]:
        """Say what was found, after the last round, and show one exhibit at most.

        Parameters
        ----------
        model : dict of str to Tensor
            The final model with all its parts, from which what the adversary receives may be made.
        """


class Train(Protocol):
    """Trains the run's method anew."""

    def __call__(
        self,
        federations: Sequence[Federation],
        observers: Sequence[Observer] = (),
        seen_by: Adversary | None = None,
    ) -> list[Parameters]:
        """Train on each of several federations, as lanes of one program, and return the final models in that order.

        Parameters
        ----------
        federations : sequence of Federation
            Of the same clinics with as many training records each. The run's settings and seed hold for all: initial
            values are public. Noise and secret batches are drawn anew.
        observers : sequence of Observer, optional
            One a federation, shown what an adversary sees of its training; nothing is asked of its ``findings``.
        seen_by : {"model-user", "peer-clinic", "server"}, optional
            That adversary; the attack's own unless said.
        """
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """A finished run in an attacker's hands.

    Attributes
    ----------
    plan : Plan
    federation : Federation
        The run's records; what of them the adversary may know is the attack's to say.
    model : dict of str to Tensor
        The final one: ``[1, *shape]``, or ``[clinic, *shape]`` where every clinic has its own.
    options : mapping of str to scalar
        The attack's, each with a value.
    train : callable
        See :class:`Train`. Trained on ``federation`` itself, the run comes out again, bit for bit.
    shared : dict
        What attacks on this run keep for each other.
    """

    plan: Plan
    federation: Federation
    model: Parameters
    options: Scalars
    train: Train
    shared: dict[Hashable, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Attack:
    """An attack as the study's runner knows it: it either begins an observer, or is carried out on the finished run.

    Attributes
    ----------
    name : str
    sentence : str
        The attack in words, as the privacy statement has it.
    adversary : {"model-user", "peer-clinic", "server"}
    uses : str
        The records that its findings are an exact statistic of, in words.
    begin : callable, optional
        Makes the observer of one run from its plan, its records and, where it has any, the options.
    carry_out : callable, optional
        Attacks a finished run; returns its findings and one exhibit at most.
    applies : callable
        Whether there is something to attack in a job.
    layouts : tuple of {"horizontal", "vertical"}
        Whether it is on clinics with patients of their own, or on parties with columns of the same patients.
    of_classes : bool
        Whether it is about classes: of amounts and times there is then nothing to attack.
    on_every_run : bool
        Whether it is made within every run without being named in ``[[attacks]]``.
    options : mapping of str to scalar
        Its keys in ``[[attacks]] options``, with their defaults.
    columns : mapping of str to str
        Of one made on every run, by measure: its column in ``runs.parquet`` and, for findings by clinic, in
        ``clinics.parquet``; it ends in the measure's unit.
    """

    name: str
    sentence: str
    adversary: Adversary
    uses: str
    begin: Callable[..., Observer] | None = None
    carry_out: Callable[[Target], Iterable[Finding | Exhibit]] | None = None
    applies: Callable[[Job], bool] = lambda job: True
    layouts: tuple[Layout, ...] = ("horizontal",)
    of_classes: bool = True
    on_every_run: bool = False
    options: Scalars = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)

    def suits(self, job: Job) -> bool:
        """Return whether there is something to attack in a job; no edge server and no cloud is played yet."""
        if job.edges is not None and not (self.on_every_run and self.adversary == "model-user"):
            return False
        fits = ("vertical" if job.facts.vertical else "horizontal") in self.layouts
        return fits and (job.outcome.kind == "classes" or not self.of_classes) and self.applies(job)

    def observer(self, plan: Plan, federation: Federation, options: Scalars) -> Observer | None:
        """Return an observer of one run; None for an attack on the finished run."""
        if self.begin is None:
            return None
        stated = ({**self.options, **options},) if self.options else ()
        return self.begin(plan, federation, *stated)

    def __post_init__(self) -> None:
        if (self.begin is None) == (self.carry_out is None):
            raise AttackError(f"{self.name}: give either begin or carry_out")
        for measure, column in self.columns.items():
            if column in COLUMNS or unit_of(column) is None or unit_of(column) != unit_of(measure):
                raise AttackError(f'{self.name}: column "{column}" must be new and end in the unit of "{measure}"')


def attack_of(name: str) -> Attack:
    """Return an attack by its registered name or its import path.

    Raises
    ------
    AttackError
        In one line: if there is none.
    """
    try:
        found = loaded(ATTACKS, name)
    except ValueError as error:
        raise AttackError(f"attacks: {error}") from None
    if not isinstance(found, Attack):
        raise AttackError(f'attacks: "{name}" is no Attack; name the ATTACK of a module')
    return found


def attacks_on_every_run() -> list[Attack]:
    """Return the registered attacks that need not be named."""
    return [attack for attack in map(attack_of, registered(ATTACKS)) if attack.on_every_run]
