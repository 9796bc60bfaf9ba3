"""What a mechanism is, by where it acts: on gradients, on rows at the cut, on labels, or on clinics' updates.

A mechanism is one file with a ``MECHANISM``, registered as an entry point of the group ``suture.mechanisms``. The rest
of the program knows the four places and no mechanism by its name. A run has at most one mechanism a place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sim.foundation.plugins import loaded
from sim.privacy.events import DpEvent, dp
from sim.scenario.lookup import MECHANISMS, Place
from sim.scenario.privacy import Privacy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from sim.privacy.mechanisms.noises import RowNoise


class Mechanism(ABC):
    """What every mechanism states."""

    name: ClassVar[str]
    place: ClassVar[Place]  # Where it acts
    unit: ClassVar[Literal["record", "clinic"]] = "record"  # What it protects
    pure: ClassVar[bool] = False  # Whether its epsilon needs no delta
    keys: ClassVar[frozenset[str]]  # The keys of [privacy] that it gives an effect, by field
    sentence: ClassVar[str]  # What is protected, how and against whom

    def problem(self, key: str, value: Any, given: Mapping[str, Any]) -> str:
        """Say what is wrong with a key of ``[privacy]``, given those before it by field; empty if nothing is."""
        return ""

    def refusal(self, method: Any, cut: str | None, sent: Sequence[str]) -> str:
        """Say why a method (its facts) that sends these kinds of rows has no use for it; empty if it has."""
        return ""

    def described(self, event: DpEvent) -> tuple[str, str, float | None, float] | None:
        """Return name, kind of noise, sampling rate and noise of an event; None for one that has no noise."""
        match event:
            case dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(sigma)):
                return "Gaussian noise on Poisson samples", "standard deviation over the sensitivity", rate, sigma
            case dp.GaussianDpEvent(sigma):
                return "Gaussian noise", "standard deviation over the sensitivity", None, sigma
            case dp.LaplaceDpEvent(scale):
                return "Laplace noise", "scale over the sensitivity", None, scale
            case dp.RandomizedResponseDpEvent(p, _):
                return "randomised response", "probability of a random answer", None, p
        return None


class OnGradients(Mechanism):
    """Acts on the gradients of every part that trains."""

    place = "gradients"

    @abstractmethod
    def part_clip(self, privacy: Privacy, parts: int, *, joint: bool) -> float:
        """Return the bound of one record's gradient in each of so many parts."""

    @abstractmethod
    def noise_of_a_step(self, part_clip: float, noise_std: float, parts: int) -> float:
        """Return the noise multiplier of a step whose parts are clipped and noised apart; 0 without noise."""

    @abstractmethod
    def event(self, rate: float, noise: float, steps: int) -> DpEvent:
        """Describe steps on batches that each record joins with this probability."""

    @abstractmethod
    def in_known_batches(self, noise: float, exposures: int) -> DpEvent:
        """Describe steps for who sees the record in so many batches, where a replaced record moves the sum by 2 C."""

    @abstractmethod
    def noise_for(self, target: float, delta: float, rate: float, steps: int) -> float:
        """Return the noise multiplier that meets a target; raises ``ValueError`` if none does."""

    @abstractmethod
    def add_noise(
        self,
        sums: Sequence[Tensor],
        std: Sequence[float],
        normaliser: Sequence[float],
        key: Any,
        purpose: str,
        clinics: Sequence[int],
        server_round: int,
        step: int,
    ) -> None:
        """Noise clipped sums in place."""


class OnRows(Mechanism):
    """Acts on each record's row at a cut."""

    place = "rows"
    keys = frozenset(
        {"clip", "labels", "noise_multiplier", "epsilon", "stop_at_epsilon", "tail_clip", "rows_noised_at"}
    )
    norm: ClassVar[Literal[1, 2]]  # Order of the norm that is clipped

    @abstractmethod
    def reach(self, *, never_negative: bool) -> float:
        """Return how far the row of another record can lie away, over the clip."""

    @abstractmethod
    def event(self, noise: float, exposures: int) -> DpEvent:
        """Describe a record's rows, noise over the reach, as often as it stands in a batch."""

    @abstractmethod
    def noise_for(self, target: float, delta: float, exposures: int, gradients: float, reach: Sequence[float]) -> float:
        """Return the noise over the clip that meets a target; 0 if what is spent already leaves nothing.

        ``exposures`` says how often the record stands in a batch, ``gradients`` is the noise multiplier of the
        gradients in these batches, 0 where they tell nothing of the record, and ``reach`` is by kind of rows.
        """

    @abstractmethod
    def draw(self, random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Draw noise of standard deviation, or scale, 1."""

    def acting(self, privacy: Privacy, *, never_negative: bool, with_tail: bool) -> RowNoise:
        """Return clip and reach of each kind of rows, without noise."""
        from sim.privacy.mechanisms.noises import RowNoise

        clip, reach = {"smashed": privacy.row_noise[2]}, {"smashed": self.reach(never_negative=never_negative)}
        if with_tail:
            clip["tail-gradient"], reach["tail-gradient"] = privacy.tail_clip, self.reach(never_negative=False)
        given, target, _ = privacy.row_noise
        return RowNoise(mechanism=self, clip=clip, reach=reach, silent=target is None and not given)

    def problem(self, key: str, value: Any, given: Mapping[str, Any]) -> str:
        """See :meth:`Mechanism.problem`: beside gradients rows have keys of their own."""
        beside = any(of(name).place == "gradients" for name in str(given.get("mechanism")).split("+"))
        other = given.get("smashed_noise_multiplier")
        if key == "epsilon_server" and beside and "smashed_noise_multiplier" in given:
            return "" if (value is None) != (other is None) else _EITHER
        return ""

    def refusal(self, method: Any, cut: str | None, sent: Sequence[str]) -> str:
        """See :meth:`Mechanism.refusal`."""
        return (
            "" if cut is not None else f"{self.name} needs a cut, and {method.name} sends no smashed data; take split"
        )


_EITHER = "give either this, for example 8, or smashed-noise-multiplier beside dp-sgd"


class OnLabels(Mechanism):
    """Acts on each record's label before it leaves."""

    place = "labels"

    @abstractmethod
    def uniform(self, target: float, classes: int) -> float:
        """Return the probability with which a label is answered by one drawn uniformly."""

    @abstractmethod
    def event(self, uniform: float, classes: int) -> DpEvent:
        """Describe the one answer of a record."""

    @abstractmethod
    def answers(
        self, labels: NDArray[np.int64], uniform: float, classes: int, key: str, clinic: int
    ) -> NDArray[np.int64]:
        """Answer for each of a clinic's records, ``[record]``."""


class OnUpdates(Mechanism):
    """Acts on the sum of clinics' updates, at a trusted server or in parts at the clinics."""

    place = "updates"
    unit = "clinic"

    @abstractmethod
    def event(self, noise: float, rounds: int) -> DpEvent:
        """Describe the rounds in which a clinic's update is in the sum."""

    @abstractmethod
    def noise_for(self, target: float, delta: float, rounds: int) -> float:
        """Return the noise multiplier that meets a target; raises ``ValueError`` if none does."""


def of(name: str) -> Mechanism:
    """Return a mechanism by its name."""
    found: Mechanism = loaded(MECHANISMS, name)
    return found


def acting(privacy: Privacy) -> Iterator[Mechanism]:
    """Yield a run's mechanisms."""
    yield from map(of, privacy.mechanisms)


def on_gradients(privacy: Privacy) -> OnGradients | None:
    """Return the mechanism that acts on gradients, if there is one."""
    return next((m for m in acting(privacy) if isinstance(m, OnGradients)), None)


def on_rows(privacy: Privacy) -> OnRows | None:
    """Return the mechanism that acts on rows, if there is one."""
    return next((m for m in acting(privacy) if isinstance(m, OnRows)), None)


def on_labels(privacy: Privacy) -> OnLabels | None:
    """Return the mechanism that acts on labels, if there is one."""
    return next((m for m in acting(privacy) if isinstance(m, OnLabels)), None)


def on_updates(privacy: Privacy) -> OnUpdates | None:
    """Return the mechanism that acts on updates, if there is one."""
    return next((m for m in acting(privacy) if isinstance(m, OnUpdates)), None)
