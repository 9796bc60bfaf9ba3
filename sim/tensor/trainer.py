"""One part of the network in training at one place, over lanes; the whole model, a head, a body or a tail alike."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sim.foundation.ahead import Draws
from sim.models import Parameters, Part
from sim.models.dense import dense_layers
from sim.tensor.clipping import Sums
from sim.tensor.lane import Lane
from sim.tensor.lane_rules import BatchStatistics, DropoutMasks
from sim.tensor.losses import CROSS_ENTROPY, Loss
from sim.tensor.nopeek import distance_correlation
from sim.tensor.optim import Optimizer, Rate, factors_of, lanes_of_rates, rates_step_as_one
from sim.tensor.passes import Pass, pass_of

_NOTHING = torch.empty(0)
Noise = Callable[
    [Sequence[Tensor], Sequence[float], Sequence[float], Sequence[str], str, Sequence[int], int, int], None
]
"""Noises clipped sums in place: ``sums, std, normaliser, keys, purpose, clinics, server_round, step``."""


def expand(parameters: Mapping[str, Tensor], lanes: int) -> Parameters:
    """Give each lane its own copy of shared parameters ``[1, *shape]``, or take over ``[lane, *shape]`` as a copy."""
    return {name: value.expand(lanes, *value.shape[1:]).clone() for name, value in parameters.items()}


class Trainer:
    """Parameters and optimiser state of one part, lane by lane, with the two halves of a training step.

    No lane's numbers depend on which others train beside it: lanes may be of several runs.

    Parameters
    ----------
    part : Part
    lanes : sequence of Lane
        Either all of them have a clip, or none has.
    parameters : mapping of str to Tensor
        ``[lane, *shape]``; taken over and changed in place.
    optimizer : Optimizer
    loss : Loss, optional
    frozen : bool
        Whether the part does not train.
    state : mapping of str to Tensor, optional
        Optimiser state to carry on from; fresh where it is not given.
    noise : callable, optional
        Noises the clipped sums of lanes with noise.
    noised_steps : Tensor, optional
        ``[lane]`` how many gradients of this part were clipped and noised so far; counted on in place.
    autocast : bool
        See :class:`sim.tensor.passes.AutogradPass`.

    Raises
    ------
    ValueError
        If some lanes have a clip and others have none, or nothing draws the noise that they are to get.
    """

    def __init__(
        self,
        part: Part,
        lanes: Sequence[Lane],
        parameters: Mapping[str, Tensor],
        optimizer: Optimizer,
        *,
        loss: Loss = CROSS_ENTROPY,
        frozen: bool = False,
        state: Mapping[str, Tensor] | None = None,
        noise: Noise | None = None,
        noised_steps: Tensor | None = None,
        autocast: bool = False,
    ) -> None:
        self.part = part
        self.parameters = dict(parameters)
        self.optimizer = optimizer
        self.frozen = frozen
        fresh = torch.zeros(len(lanes), dtype=torch.int64)
        self.noised_steps = fresh if noised_steps is None else noised_steps
        self.loss_of_record = loss
        self._noise, self._autocast, self._purpose = noise, autocast, f"noise.{part.name}"
        self._anchor: Parameters = {}
        self._trained = part.trained(self.parameters)
        self.state = optimizer.initial_state(self._trained) if state is None else dict(state)
        self._some: Parameters = {}
        self._pass: Pass
        self._clips: Tensor | None = None
        self._rates: dict[Rate, slice | Tensor] = {}
        self._differ_in_rate = False  # and in nothing else that steps depend on
        self._factors: tuple[int, list[Tensor]] | None = None  # of a round
        self._batch: tuple[int, ...] = ()
        self._held: Sums | None = None
        self._norms: BatchStatistics | None = None
        self._seen: tuple[Tensor, Tensor, Sequence[int]] | None = None
        self._take(lanes)

    def _take(self, lanes: Sequence[Lane]) -> None:
        private = {lane.clip is not None for lane in lanes}
        if len(private) > 1:
            raise ValueError("lanes with a clip and lanes without one cannot train together")
        if self._noise is None and any(lane.noise_std for lane in lanes):
            raise ValueError("these lanes are to be noised, and nothing is given that draws the noise")
        self.lanes = tuple(lanes)
        self.clinics = [lane.clinic for lane in lanes]
        self.private = True in private
        self.nopeek = any(lane.nopeek for lane in lanes)
        self._at_work = 0

    def some(self, lanes: slice | NDArray[np.int64]) -> Trainer:
        """Return a trainer of some of the lanes: of a slice it shares this one's memory, of others it has a copy."""
        chosen = self.lanes[lanes] if isinstance(lanes, slice) else [self.lanes[lane] for lane in lanes]
        return self._of(chosen, [_at(values, lanes) for values in self._values], self.noised_steps[lanes])

    def of_batch(self, lanes: slice | NDArray[np.int64]) -> Trainer:
        """Return the trainer that some of the lanes train in for one batch: this one for the first of them."""
        return self if isinstance(lanes, slice) else self.some(lanes)

    def put_back(self, lanes: slice | NDArray[np.int64], trained: Trainer) -> None:
        """Take over what the trainer of some lanes has become, unless it has this one's memory."""
        if isinstance(lanes, slice):
            return
        for own, values in zip(self._values[:2], trained._values, strict=False):
            for name, value in values.items():
                own[name][lanes] = value
        self.noised_steps[lanes] = trained.noised_steps

    @property
    def alike(self) -> Hashable:
        """What lanes must share to train in one trainer."""
        shapes = tuple((name, value.shape[1:], value.dtype, value.device) for name, value in self.parameters.items())
        settings = self.optimizer, self.loss_of_record, self.frozen, self.private, bool(self._anchor), self._noise
        return self.part.name, dense_layers(self.part), shapes, *settings

    @classmethod
    def joined(cls, trainers: Sequence[Trainer], places: Sequence[NDArray[np.int64]]) -> Trainer:
        """Return one trainer of all lanes of several, with copies of what they have.

        Parameters
        ----------
        trainers : sequence of Trainer
            All alike.
        places : sequence of ndarray
            Where each one's lanes are to stand.
        """
        order = torch.from_numpy(np.argsort(np.concatenate(places)))
        lanes = [lane for trainer in trainers for lane in trainer.lanes]
        values = [
            {name: torch.cat([each[name] for each in of_all])[order] for name in of_all[0]}
            for of_all in zip(*(trainer._values for trainer in trainers), strict=True)
        ]
        noised = torch.cat([trainer.noised_steps for trainer in trainers])[order]
        return trainers[0]._of([lanes[lane] for lane in order.tolist()], values, noised)

    @classmethod
    def chained(cls, trainers: Sequence[Trainer], whole: Part) -> Trainer | None:
        """Return one trainer of consecutive parts with their memory; None where they cannot step as one.

        Parameters
        ----------
        trainers : sequence of Trainer
            Of the parts of ``whole``, with the same lanes.
        whole : Part
        """
        first = trainers[0]
        if first.private or first.optimizer.name == "adam":  # which counts its steps part by part
            return None
        parameters, state = ({k: v for t in trainers for k, v in t._values[of].items()} for of in (0, 1))
        return cls(whole, first.lanes, parameters, first.optimizer, loss=first.loss_of_record, state=state)

    def hand_out(self, trainers: Sequence[Trainer], places: Sequence[NDArray[np.int64]]) -> None:
        """Give each of the trainers that were joined what its lanes have become."""
        place, sizes = torch.from_numpy(np.concatenate(places)), [len(own) for own in places]
        for own, of_all in zip(self._values[:2], zip(*(t._values[:2] for t in trainers), strict=True), strict=True):
            for name, value in own.items():
                torch._foreach_copy_([each[name] for each in of_all], list(torch.split(value[place], sizes)))
        noised = torch.split(self.noised_steps[place], sizes)
        torch._foreach_copy_([trainer.noised_steps for trainer in trainers], list(noised))

    @property
    def _values(self) -> tuple[Parameters, Parameters, Parameters]:
        return self.parameters, self.state, self._anchor

    def _of(self, lanes: Sequence[Lane], values: Sequence[Parameters], noised_steps: Tensor) -> Trainer:
        """Return a trainer like this one of other lanes, with their values."""
        parameters, state, anchor = values
        other = Trainer(
            self.part,
            lanes,
            parameters,
            self.optimizer,
            loss=self.loss_of_record,
            frozen=self.frozen,
            state=state,
            noise=self._noise,
            noised_steps=noised_steps,
            autocast=self._autocast,
        )
        other._anchor = anchor
        return other

    def pull_towards(self, anchor: Mapping[str, Tensor], mu: float | None = None) -> None:
        """Add mu/2 |w - anchor|^2 to every lane's loss (FedProx, Li et al. 2020).

        Parameters
        ----------
        anchor : mapping of str to Tensor
            ``[1, *shape]``, the same for all lanes, or ``[lane, *shape]``.
        mu : float, optional
            Of all lanes; if not given, each lane's own.
        """
        lanes = len(self.lanes)
        self._anchor = {name: anchor[name].expand(lanes, *anchor[name].shape[1:]) for name in self._trained}
        if mu is not None:
            self._take([replace(lane, rate=lane.rate._replace(pull=mu)) for lane in self.lanes])

    def forward(
        self,
        x: Tensor,
        *,
        rows: Sequence[int] = (),
        want_input_gradient: bool = False,
        moment: tuple[int, int] | None = None,
    ) -> Tensor:
        """Run the part on a batch and keep what the backward half needs.

        Parameters
        ----------
        x : Tensor
            ``[lane, batch, *feature]``, for the first lanes only where the others have finished.
        rows : sequence of int
            ``[lane]`` real rows of each batch; needed by a part that holds BatchNorm, and under NoPeek.
        want_input_gradient : bool
            Whether ``backward`` is to return the gradient in ``x`` (the cut gradient).
        moment : (int, int), optional
            Round and step, which name the streams of the dropout masks; needed by a part that holds dropout.

        Returns
        -------
        Tensor
            ``[lane, batch, *output]``

        Raises
        ------
        ValueError
            If the part holds dropout and the moment is not given, or BatchNorm and the rows are not.
        """
        lanes, self._batch = x.shape[0], tuple(x.shape[:2])
        if self._at_work != lanes:
            self._at_work = lanes
            self._some = self.parameters if lanes == len(self.lanes) else _at(self.parameters, slice(0, lanes))
            how = {"per_sample": self.private, "alone": lanes == 1, "autocast": self._autocast}
            self._pass = pass_of(self.part, x.dim() - 2, **how)
            at_work = self.lanes[:lanes]
            clips = [lane.clip for lane in at_work if lane.clip is not None]
            self._clips = self._tensor(clips)[:, None] if self.private else None
            self._rates, self._factors = lanes_of_rates([lane.rate for lane in at_work]), None
            plain = self.optimizer.name == "sgd" and not self.part.statistics
            plain &= not any(rate.pull or rate.decay for rate in self._rates)
            self._differ_in_rate = plain and len(self._rates) > 1 and rates_step_as_one()
        if self.part.drops and moment is None:
            raise ValueError(f"the {self.part.name} holds dropout, and this strategy does not say when it trains")
        masks = None
        if self.part.drops and moment:
            masks = DropoutMasks([lane.seed for lane in self.lanes[:lanes]], self.clinics[:lanes], *moment)
        if self.part.statistics:
            if len(rows) != lanes:
                raise ValueError(
                    f"the {self.part.name} holds BatchNorm, and this strategy does not say which rows count"
                )
            self._norms = BatchStatistics(torch.tensor(rows))
        outputs = self._pass.forward(
            self._some, x, want_input_gradient=want_input_gradient, masks=masks, norms=self._norms
        )
        self._seen = (x, outputs, rows) if self.nopeek else None
        return outputs

    def loss(self, y: Tensor, weights: Tensor) -> None:
        """Turn the outputs into the weighted loss, which ``backward`` then starts from; both are ``[lane, batch]``."""
        self._pass.loss(self.loss_of_record, y, weights)

    def backward(
        self, server_round: int, step: int, normaliser: NDArray[np.int64], cotangent: Tensor | None = None
    ) -> Tensor:
        """Form the gradient (clipped and noised under DP-SGD) and take one optimiser step; a frozen part takes none.

        Parameters
        ----------
        server_round, step : int
            Name the noise streams; the round decides about the rate.
        normaliser : ndarray
            ``[lane]`` what the loss's weights were divided by.
        cotangent : Tensor, optional
            Gradient in the part's outputs, where they were not turned into the loss here.

        Returns
        -------
        Tensor
            Gradient in the part's inputs, computed before the step; empty if it was not asked for.
        """
        if self._seen is not None and cotangent is not None:
            weights = self._tensor([lane.nopeek for lane in self.lanes[: len(normaliser)]])
            in_outputs = distance_correlation(*self._seen)[1]
            cotangent = cotangent + in_outputs * weights.view(-1, *[1] * (cotangent.dim() - 1))
        if self.frozen:
            input_gradient = self._pass.backward(cotangent, None, _NOTHING)[1]
            return _NOTHING if input_gradient is None else input_gradient
        if self.private:
            grads, input_gradient = self._pass.backward(cotangent, self._clips, self._tensor(normaliser))
            self._add_noise(grads, server_round, step, normaliser)
        else:
            grads, input_gradient = self._pass.backward(cotangent, None, _NOTHING)
        self._step(grads, len(normaliser), server_round)
        return _NOTHING if input_gradient is None else input_gradient

    def hold(self, normaliser: NDArray[np.int64], cotangent: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Form per-sample gradients for joint clipping and keep them until ``release``; a frozen part has none.

        Parameters
        ----------
        normaliser, cotangent
            As for ``backward``.

        Returns
        -------
        squared : Tensor
            ``[lane, batch]`` squared norm of each record's own gradient in this part.
        Tensor
            As ``backward`` returns.
        """
        if self.frozen:
            return torch.zeros(self._batch), self.backward(0, 0, normaliser, cotangent)
        squared, self._held, input_gradient = self._pass.per_sample(cotangent)
        return squared * self._tensor(normaliser)[:, None] ** 2, _NOTHING if input_gradient is None else input_gradient

    def release(self, server_round: int, step: int, normaliser: NDArray[np.int64], factors: Tensor) -> None:
        """Scale the per-sample gradients that are held, ``factors`` is ``[lane, batch]``, noise their sum and step."""
        if self._held is not None and self.private:
            grads = list(self._held(factors).values())
            self._held = None
            self._add_noise(grads, server_round, step, normaliser)
            self._step(grads, len(normaliser), server_round)

    def _tensor(self, values: Sequence[float] | NDArray[np.int64]) -> Tensor:
        return torch.tensor(values, dtype=next(iter(self.parameters.values())).dtype)

    def noise_of(self, steps: Iterable[tuple[int, int, int]]) -> Iterator[Draws]:
        """Name the draws of steps to come: of each its round, its number and how many lanes take it, from the first."""
        if self._noise is None or self.frozen:
            return
        numbers = sum(value[0].numel() for value in self._trained.values())
        for server_round, step, at_work in steps:
            noisy = [lane for lane in self.lanes[:at_work] if lane.noise_std]
            keys, clinics = tuple(lane.key for lane in noisy), tuple(lane.clinic for lane in noisy)
            yield Draws(keys, self._purpose, clinics, server_round, step, numbers)

    def _add_noise(self, grads: list[Tensor], server_round: int, step: int, normaliser: NDArray[np.int64]) -> None:
        at_work = len(normaliser)
        lanes = self.lanes[:at_work]
        std, keys = [lane.noise_std for lane in lanes], [lane.key for lane in lanes]
        if self._noise is not None:
            clinics = self.clinics[:at_work]
            self._noise(grads, std, normaliser.tolist(), keys, self._purpose, clinics, server_round, step)
        self.noised_steps[:at_work] += 1

    def _step(self, grads: list[Tensor], lanes: int, server_round: int) -> None:
        if self._differ_in_rate and self._trained:
            together = [value[:lanes] for value in self._trained.values()]
            if self._factors is None or self._factors[0] != server_round:
                rates = [lane.rate.at(server_round) for lane in self.lanes[:lanes]]
                self._factors = server_round, factors_of(rates, together)
            torch._foreach_addcmul_(together, grads, self._factors[1])
            return
        for rate, some in self._rates.items():
            alike = isinstance(some, slice) and some == slice(0, lanes)
            own = grads if alike else [grad[some] for grad in grads]
            whole = alike and lanes == len(self.lanes)
            values, state = (each if whole else _at(each, some) for each in (self._trained, self.state))
            if rate.pull:
                pull = (value - self._anchor[name][some] for name, value in values.items())
                own = [grad.add(away, alpha=rate.pull) for grad, away in zip(own, pull, strict=True)]
            self.optimizer.step(values, own, state, rate.at(server_round))
            if isinstance(some, Tensor):
                for all_lanes, moved in ((self._trained, values), (self.state, state)):
                    for name, value in moved.items():
                        all_lanes[name][some] = value
        if self._norms is not None:
            for name, pieces in self._norms.updated.items():
                self.parameters[name][:lanes] = torch.cat(pieces)
            self._norms = None


def _at(values: Mapping[str, Tensor], some: slice | Tensor | NDArray[np.int64]) -> Parameters:
    return {name: value[some] for name, value in values.items()}
