"""One part of the network in training at one place, over lanes; the whole model, a head, a body or a tail alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sim.methods.job import Job
from sim.methods.mechanisms import DpSgd
from sim.methods.node_group import NodeGroup
from sim.models import Parameters, Part
from sim.tensor.clipping import Sums, add_noise
from sim.tensor.lane_rules import BatchStatistics, DropoutMasks
from sim.tensor.lanes import by_class, records_at_once
from sim.tensor.passes import Pass, pass_of

_NOTHING = torch.empty(0)

BLOCK = 128
"""Most lanes that train through all their steps before the next ones begin: their parameters stay in the cache."""


def expand(parameters: Mapping[str, Tensor], lanes: int) -> Parameters:
    """Give each lane its own copy of shared parameters ``[1, *shape]``, or take over ``[lane, *shape]`` as a copy."""
    return {name: value.expand(lanes, *value.shape[1:]).clone() for name, value in parameters.items()}


class Trainer:
    """Parameters and optimiser state of one part, lane by lane, with the two halves of a training step.

    Parameters
    ----------
    job : Job
    part : Part
    clinics : sequence of int
        The clinic of each lane, in lane order.
    parameters : mapping of str to Tensor
        ``[lane, *shape]``; taken over and changed in place.
    state : mapping of str to Tensor, optional
        Optimiser state to carry on from; fresh where it is not given.
    noised_steps : Tensor, optional
        ``[lane]`` how many gradients of this part were clipped and noised so far; counted on in place.
    """

    def __init__(
        self,
        job: Job,
        part: Part,
        clinics: Sequence[int],
        parameters: Mapping[str, Tensor],
        state: Mapping[str, Tensor] | None = None,
        noised_steps: Tensor | None = None,
    ) -> None:
        self.job = job
        self.part = part
        self.clinics = list(clinics)
        self.parameters = dict(parameters)
        fresh = torch.zeros(len(self.clinics), dtype=torch.int64)
        self.noised_steps = fresh if noised_steps is None else noised_steps
        self._anchor: Parameters = {}
        self._mu = 0.0
        self._trained = part.trained(self.parameters)
        self.state = job.optimizer.initial_state(self._trained) if state is None else dict(state)
        self._some: Parameters = {}
        self._at_work = 0
        self._pass: Pass
        self._batch: tuple[int, ...] = ()
        self._held: Sums | None = None
        self._norms: BatchStatistics | None = None

    def lanes(self, first: int, last: int) -> Trainer:
        """Return a trainer of some of the lanes that shares this one's memory."""
        some = slice(first, last)
        part = Trainer(
            self.job,
            self.part,
            self.clinics[some],
            {name: value[some] for name, value in self.parameters.items()},
            {name: value[some] for name, value in self.state.items()},
            self.noised_steps[some],
        )
        part.pull_towards(self._anchor, self._mu)
        return part

    def pull_towards(self, anchor: Mapping[str, Tensor], mu: float) -> None:
        """Add mu/2 |w - anchor|^2 to every lane's loss (FedProx, Li et al. 2020); ``anchor`` is ``[1, *shape]``."""
        self._anchor, self._mu = dict(anchor), mu

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
            ``[lane]`` real rows of each batch; needed by a part that holds BatchNorm.
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
            self._some = {name: value[:lanes] for name, value in self.parameters.items()}
            self._pass = pass_of(self.part, x.dim() - 2, per_sample=self.job.dp is not None, alone=lanes == 1)
        if self.part.drops and moment is None:
            raise ValueError(f"the {self.part.name} holds dropout, and this strategy does not say when it trains")
        masks = DropoutMasks(self.job.seed, self.clinics[:lanes], *moment) if self.part.drops and moment else None
        if self.part.statistics:
            if len(rows) != lanes:
                raise ValueError(
                    f"the {self.part.name} holds BatchNorm, and this strategy does not say which rows count"
                )
            self._norms = BatchStatistics(torch.tensor(rows))
        return self._pass.forward(
            self._some, x, want_input_gradient=want_input_gradient, masks=masks, norms=self._norms
        )

    def loss(self, y: Tensor, weights: Tensor) -> None:
        """Turn the outputs into the weighted loss, which ``backward`` then starts from; both are ``[lane, batch]``."""
        factors = self.job.class_weights
        self._pass.loss(y, weights if factors is None else by_class(weights, y, factors))

    def backward(
        self, server_round: int, step: int, normaliser: NDArray[np.int64], cotangent: Tensor | None = None
    ) -> Tensor:
        """Form the gradient (clipped and noised under DP-SGD) and take one optimiser step; a frozen part takes none.

        Parameters
        ----------
        server_round, step : int
            Name the noise streams.
        normaliser : ndarray
            ``[lane]`` what the loss's weights were divided by.
        cotangent : Tensor, optional
            Gradient in the part's outputs, where they were not turned into the loss here.

        Returns
        -------
        Tensor
            Gradient in the part's inputs, computed before the step; empty if it was not asked for.
        """
        lanes = len(normaliser)
        dp = self.job.dp
        if self.part.name in self.job.frozen:
            input_gradient = self._pass.backward(cotangent, None, _NOTHING)[1]
            return _NOTHING if input_gradient is None else input_gradient
        if dp is None:
            grads, input_gradient = self._pass.backward(cotangent, None, _NOTHING)
        else:
            grads, input_gradient = self._pass.backward(cotangent, dp.part_clip, self._tensor(normaliser))
            self._add_noise(grads, dp, server_round, step, normaliser)
        self._step(grads, lanes)
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
        if self.part.name in self.job.frozen:
            return torch.zeros(self._batch), self.backward(0, 0, normaliser, cotangent)
        squared, self._held, input_gradient = self._pass.per_sample(cotangent)
        return squared * self._tensor(normaliser)[:, None] ** 2, _NOTHING if input_gradient is None else input_gradient

    def release(self, server_round: int, step: int, normaliser: NDArray[np.int64], factors: Tensor) -> None:
        """Scale the per-sample gradients that are held, ``factors`` is ``[lane, batch]``, noise their sum and step."""
        dp = self.job.dp
        if self._held is not None and dp is not None:
            grads = list(self._held(factors).values())
            self._held = None
            self._add_noise(grads, dp, server_round, step, normaliser)
            self._step(grads, len(normaliser))

    def _tensor(self, normaliser: NDArray[np.int64]) -> Tensor:
        return torch.tensor(normaliser, dtype=next(iter(self.parameters.values())).dtype)

    def _add_noise(
        self, grads: list[Tensor], dp: DpSgd, server_round: int, step: int, normaliser: NDArray[np.int64]
    ) -> None:
        lanes = len(normaliser)
        clinics = self.clinics[:lanes]
        std = [dp.noise_std[k] for k in clinics]
        purpose = f"noise.{self.part.name}"
        add_noise(grads, std, normaliser.tolist(), self.job.key, purpose, clinics, server_round, step)
        self.noised_steps[:lanes] += 1

    def _step(self, grads: list[Tensor], lanes: int) -> None:
        if self._mu:
            pull = (value[:lanes] - self._anchor[name] for name, value in self._trained.items())
            grads = [grad.add(away, alpha=self._mu) for grad, away in zip(grads, pull, strict=True)]
        self.job.optimizer.step(self._trained, grads, self.state, lanes)
        if self._norms is not None:
            for name, pieces in self._norms.updated.items():
                self.parameters[name][:lanes] = torch.cat(pieces)
            self._norms = None


def trainer_for(
    job: Job,
    part: Part,
    clinics: Sequence[int],
    parameters: Mapping[str, Tensor],
    state: Mapping[str, Tensor] | None = None,
    noised: Tensor | None = None,
) -> Trainer:
    """Return a trainer of a part for some clinics of a job; parameters and state are taken over."""
    return Trainer(job, part, clinics, parameters, state, noised)


def train_whole(trainer: Trainer, group: NodeGroup, job: Job, server_round: int) -> None:
    """Train the whole model for one round on each lane's own records: local SGD, one lane a clinic.

    Parameters
    ----------
    trainer : Trainer
        Of the whole model; changed in place.
    group : NodeGroup
        Holds the records of the trainer's clinics.
    server_round : int
    """
    drawn = job.batches(server_round, trainer.clinics)
    at_once = records_at_once(trainer.part, trainer.job.network.input_shape)
    size = max(1, min(BLOCK, round(at_once / trainer.job.sampling.batch_size)))
    for first in range(0, len(trainer.clinics), size):
        block = trainer.lanes(first, min(first + size, len(trainer.clinics)))
        batches = drawn.lanes(first, first + size)
        for s in range(len(batches.active)):
            index, weights, lanes = batches.step(s)
            x, y = group.batch(block.clinics[:lanes], index)
            block.forward(x, rows=batches.rows[s, :lanes].tolist(), moment=(server_round, s))
            block.loss(y, torch.from_numpy(weights))
            block.backward(server_round, s, batches.normaliser[s, :lanes])
