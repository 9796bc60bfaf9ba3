"""What an attack is: it plays one adversary, looks at what that adversary sees of a run, and measures what it learns.

An attack that fails proves nothing; one that succeeds shows what is lost at least.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from sim.data.federation import Federation
from sim.foundation.plugins import loaded, registered
from sim.foundation.problems import SutureError
from sim.methods.job import Job
from sim.methods.messages import Instruction, Reply
from sim.models import Parameters
from sim.plan.plan import Plan
from sim.privacy.ledger import Adversary
from sim.results.columns import COLUMNS, UNITS, unit_of

__all__ = ["Attack", "AttackError", "Finding", "Observer", "attack_of", "attacks_on"]

ATTACKS: Final = "suture.attacks"


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
        The larger, the more the adversary learns.
    chance : float
        What guessing would give; NaN where nothing is guessed.
    low, high : float
        Confidence interval; NaN without one.
    clinic : str
        The clinic whose records alone it is about; empty for all.
    """

    measure: str
    value: float
    chance: float = math.nan
    low: float = math.nan
    high: float = math.nan
    clinic: str = ""

    @property
    def unit(self) -> str:
        """The unit of the value."""
        unit = unit_of(self.measure)
        if unit is None:
            raise AttackError(f'measure "{self.measure}" has no unit; let it end in one of {", ".join(UNITS)}')
        return unit


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
    def findings(self, model: Parameters) -> Iterable[Finding]:
        """Say what was found, after the last round.

        Parameters
        ----------
        model : dict of str to Tensor
            The final model with all its parts, from which what the adversary receives may be made.
        """


@dataclass(frozen=True, kw_only=True, eq=False)
class Attack:
    """An attack as the study's runner knows it.

    Attributes
    ----------
    name : str
    sentence : str
        The attack in words, as the privacy statement has it.
    adversary : {"model-user", "peer-clinic", "server"}
    uses : str
        The records that its findings are an exact statistic of, in words.
    begin : callable
        Makes the observer of one run from its plan and its records.
    applies : callable
        Whether there is something to attack in a job.
    columns : mapping of str to str
        By measure, its column in ``runs.parquet`` and, for findings by clinic, in ``clinics.parquet``; it ends in the
        measure's unit.
    """

    name: str
    sentence: str
    adversary: Adversary
    uses: str
    begin: Callable[[Plan, Federation], Observer]
    applies: Callable[[Job], bool] = lambda job: True
    columns: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
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


def attacks_on(further: Iterable[str] = ()) -> list[Attack]:
    """Return all registered attacks, and further ones by import path."""
    return [attack_of(name) for name in dict.fromkeys((*registered(ATTACKS), *further))]
