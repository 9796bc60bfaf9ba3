"""The loss of one record by its label, and that loss's gradient in the network's outputs; a batch's is the sum."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sim.foundation.lazy import Lazy
from sim.scenario.outcomes import STEPS

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import functional
else:
    torch, functional = Lazy("torch"), Lazy("torch.nn.functional")

_VECTORS = 64
"""How many values a processor takes at once, or a multiple of it."""


class Loss(ABC):
    """What is minimised. No record's loss depends on another record, so that one record's gradient can be clipped."""

    @abstractmethod
    def sum(self, outputs: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sum of the records' losses over all lanes, which autograd can differentiate.

        Parameters
        ----------
        outputs : Tensor
            ``[lane, batch, output]``
        y : Tensor
            ``[lane, batch]`` whole numbers.
        weights : Tensor
            ``[lane, batch]``; 1 / batch size for a record, 0 for padding.
        """

    @abstractmethod
    def gradient(self, outputs: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Return the gradient of that sum in the outputs, of the same bits whatever stands beside a record."""

    @abstractmethod
    def constant(self, y: Tensor, outputs: int) -> Tensor:
        """Return the outputs ``[output]`` that answer every record alike, as well as these labels ``[record]`` tell."""


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Of classes: one output is a binary logit, more are softmax logits.

    Attributes
    ----------
    class_weights : tuple of float
        Public factor on each class's loss; empty for none.
    """

    class_weights: tuple[float, ...] = ()

    def _weighted(self, y: Tensor, weights: Tensor) -> Tensor:
        if not self.class_weights:
            return weights
        return by_class(weights, y, torch.tensor(self.class_weights, dtype=weights.dtype))

    def sum(self, outputs: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """See :class:`Loss`."""
        return loss_sum(outputs, y, self._weighted(y, weights))

    def gradient(self, outputs: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """See :class:`Loss`: weight times (probability - label)."""
        weights = self._weighted(y, weights).unsqueeze(-1)
        if outputs.shape[-1] == 1:
            return sigmoid(outputs).sub_(y.to(outputs.dtype).unsqueeze(-1)).mul_(weights)
        return torch.softmax(outputs, -1).scatter_(-1, y.long().unsqueeze(-1), -1.0, reduce="add").mul_(weights)

    def constant(self, y: Tensor, outputs: int) -> Tensor:
        """See :class:`Loss`: the log of each class's frequency, one record added to each."""
        counts = torch.bincount(y, minlength=max(2, outputs)).double() + 1
        logits = (counts / counts.sum()).log()
        return logits[1:] - logits[0] if outputs == 1 else logits


CROSS_ENTROPY = CrossEntropy()


@dataclass(frozen=True)
class Hazards(Loss):
    """Of times in intervals, with censoring: each output is the log-odds of the event in an interval reached.

    The negative log-likelihood of the intervals that a record is known to have reached (Gensheimer & Narasimhan, PeerJ
    7:e6257, 2019); the label is ``2 * interval + event``.
    """

    def steps(self, y: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return which steps a record has reached, and at which it stopped, ``[..., output]`` 0 or 1 each."""
        return _intervals(y, outputs)

    def sum(self, outputs: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """See :class:`Loss`."""
        reached, seen = self.steps(y, outputs)
        losses = functional.binary_cross_entropy_with_logits(outputs, seen, reduction="none")
        return ((losses * reached).sum(-1) * weights).sum()

    def gradient(self, outputs: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """See :class:`Loss`: weight times (hazard - event) in the intervals reached."""
        reached, seen = self.steps(y, outputs)
        return sigmoid(outputs).sub_(seen).mul_(reached).mul_(weights.unsqueeze(-1))

    def constant(self, y: Tensor, outputs: int) -> Tensor:
        """See :class:`Loss`: Kaplan and Meier's hazards; to each interval one record is added, of the mean hazard."""
        reached, seen = self.steps(y, torch.empty(len(y), outputs, dtype=torch.float64))
        mean = (seen.sum() + 0.5) / (reached.sum() + 1)
        return torch.logit((seen.sum(0) + mean) / (reached.sum(0) + 1))


@dataclass(frozen=True)
class Grades(Hazards):
    """Of ordered classes: for each but the highest an output, the log-odds of that grade given it or a higher one.

    The continuation-ratio, or sequential, model (Tutz, British Journal of Mathematical and Statistical Psychology 1991;
    for networks Shi, Cao & Raschka, Pattern Analysis and Applications 2023): probabilities of all grades follow, and
    never contradict their order. The label is the grade, from 0.
    """

    def steps(self, y: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Hazards`."""
        grade, places = y.long().unsqueeze(-1), torch.arange(outputs.shape[-1])
        return (places <= grade).to(outputs.dtype), (places == grade).to(outputs.dtype)


def _intervals(y: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return which intervals a record has reached, and in which its event was seen, ``[..., interval]`` 0 or 1 each."""
    interval, event = (y.long() // 2).unsqueeze(-1), (y.long() % 2).unsqueeze(-1)
    places = torch.arange(outputs.shape[-1])
    reached, seen = places < interval + event, (places == interval) & (event == 1)
    return reached.to(outputs.dtype), seen.to(outputs.dtype)


class AmountLoss(Loss):
    """Of amounts between -1 and 1, the ends of their public range; by what is left, the amount less the output."""

    @abstractmethod
    def of_rest(self, rest: Tensor) -> Tensor:
        """Return each record's loss."""

    @abstractmethod
    def slope(self, rest: Tensor) -> Tensor:
        """Return the derivative of each record's loss."""

    def sum(self, outputs: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """See :class:`Loss`."""
        return (self.of_rest(amounts(y, outputs.dtype) - outputs.squeeze(-1)) * weights).sum()

    def gradient(self, outputs: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """See :class:`Loss`."""
        return (self.slope(amounts(y, outputs.dtype) - outputs.squeeze(-1)) * -weights).unsqueeze(-1)


@dataclass(frozen=True)
class Squared(AmountLoss):
    """Half the square of what is left, so that the mean is predicted."""

    def of_rest(self, rest: Tensor) -> Tensor:
        """See :class:`AmountLoss`."""
        return rest.square() / 2

    def slope(self, rest: Tensor) -> Tensor:
        """See :class:`AmountLoss`."""
        return rest

    def constant(self, y: Tensor, outputs: int) -> Tensor:
        """See :class:`Loss`: the mean."""
        return amounts(y, torch.float64).mean()[None]


@dataclass(frozen=True)
class Huber(Squared):
    """Half the square up to `delta`, and linear beyond (Huber, Annals of Mathematical Statistics 35:73, 1964).

    Attributes
    ----------
    delta : float
        In half ranges.
    """

    delta: float

    def of_rest(self, rest: Tensor) -> Tensor:
        """See :class:`AmountLoss`."""
        near = rest.clamp(-self.delta, self.delta)
        return near * (rest - near / 2)

    def slope(self, rest: Tensor) -> Tensor:
        """See :class:`AmountLoss`."""
        return rest.clamp(-self.delta, self.delta)


@dataclass(frozen=True)
class Quantile(AmountLoss):
    """The check function of a quantile, which is then predicted (Koenker & Bassett, Econometrica 46:33, 1978)."""

    share: float

    def of_rest(self, rest: Tensor) -> Tensor:
        """See :class:`AmountLoss`."""
        return torch.maximum(self.share * rest, (self.share - 1) * rest)

    def slope(self, rest: Tensor) -> Tensor:
        """See :class:`AmountLoss`."""
        return self.share * (rest > 0) - (1 - self.share) * (rest < 0).to(rest.dtype)

    def constant(self, y: Tensor, outputs: int) -> Tensor:
        """See :class:`Loss`: the quantile."""
        return torch.quantile(amounts(y, torch.float64), self.share)[None]


def sigmoid(logits: Tensor) -> Tensor:
    """Return the sigmoid, a multiple of the processor's vectors at a time: what is left over would get other bits."""
    values = logits.numel()
    padded = functional.pad(logits.reshape(-1), (0, -values % _VECTORS))
    return torch.sigmoid(padded)[:values].view(logits.shape)


def amounts(y: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return amounts between -1 and 1, the ends of their public range, from their labels; of 32 bits by default."""
    return y.to(dtype or torch.float32) * (2 / STEPS) - 1


def by_class(weights: Tensor, y: Tensor, class_weights: Tensor) -> Tensor:
    """Multiply each record's weight in the loss, ``[lane, batch]``, by its class's public factor, ``[class]``."""
    return weights * class_weights[y.long()]


def loss_sum(logits: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sum of the records' losses over all lanes.

    Parameters
    ----------
    logits : Tensor
        ``[lane, batch, output]``; one output is a binary logit, more are softmax logits.
    y : Tensor
        ``[lane, batch]`` integer labels.
    weights : Tensor
        ``[lane, batch]``; 1 / batch size for a record, 0 for padding.

    Returns
    -------
    Tensor
        A scalar; its gradient in one lane's parameters is that lane's mean gradient.
    """
    if logits.shape[-1] == 1:
        return functional.binary_cross_entropy_with_logits(
            logits.squeeze(-1), y.to(logits.dtype), weight=weights, reduction="sum"
        )
    losses = functional.cross_entropy(logits.flatten(0, -2), y.flatten().long(), reduction="none")
    return torch.dot(losses, weights.flatten())
