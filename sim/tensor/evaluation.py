"""One evaluation rule for every strategy: the held-out records of every clinic, pooled and clinic by clinic.

The simulator looks; no clinic sends anything for it. Every number here is outside the privacy guarantee.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, pairwise
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sim.data.federation import Records
from sim.models import Network
from sim.models.dense import dense_layers
from sim.tensor.lanes import forward, records_at_once
from sim.tensor.metrics import EVERY_ROUND
from sim.tensor.program import Alone, Program, Work
from sim.tensor.scoring import ClassScorer, Scorer, Scores

Floats = NDArray[np.float64]
_SIDE_BY_SIDE = 128
"""How many clinics' own models are evaluated at a time."""
_MOST_RECORDS = 10_000
"""Of a model that is scored beside others; of more, arithmetic takes longer than Python around it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Metrics of one model, or of one model a clinic.

    Attributes
    ----------
    pooled : dict of str to float
        Over all held-out records, by metric.
    by_clinic : dict of str to ndarray
        The same for each clinic alone, ``[clinic]``, and the number of its pairs; AUC is NaN where it has none.
    predicted : ndarray
        ``[record, column]``, of the last model; empty of others.
    """

    pooled: dict[str, float]
    by_clinic: dict[str, Floats]
    predicted: NDArray[np.floating[Any]] = field(default_factory=lambda: np.empty((0, 0), dtype=np.float32))

    @classmethod
    def none(cls, clinics: int, metrics: Sequence[str] = EVERY_ROUND) -> Evaluation:
        """Return what stands for a round in which nothing was evaluated: no numbers."""
        return cls(pooled=dict.fromkeys(metrics, np.nan), by_clinic={n: np.full(clinics, np.nan) for n in metrics})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Evaluation):
            return NotImplemented
        own, others = ([*each.by_clinic.values(), np.array([*each.pooled.values()])] for each in (self, other))
        return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(own, others, strict=True))

    def worst_clinic(self, metric: str) -> int:
        """Return the clinic with the lowest score, of those that have one; -1 if none has."""
        values = self.by_clinic[metric]
        return -1 if np.isnan(values).all() else int(np.nanargmin(values))


@dataclass(kw_only=True, eq=False)
class RoundScores(Work):
    """The scores of one model after a round, from what it predicts.

    Attributes
    ----------
    scorer : Scorer
    predicted, seen : ndarray
        ``[record, column]``
    offsets : ndarray
        ``[clinic + 1]``
    server_round : int
    scores : Scores
        Once it is done.
    """

    scorer: Scorer
    predicted: Floats
    seen: Floats
    offsets: NDArray[np.int64]
    server_round: int
    scores: Scores = field(init=False)

    @property
    def key(self) -> Hashable:
        """See :class:`Work`."""
        if len(self.seen) > _MOST_RECORDS:
            return self
        return RoundScores, self.scorer, self.predicted.shape[1], self.offsets.tobytes(), self.server_round

    @property
    def order(self) -> tuple[int, int]:
        """See :class:`Work`: behind what is trained in the round."""
        return self.server_round, 1

    @classmethod
    def together(cls, works: Sequence[Self]) -> None:
        """See :class:`Work`."""
        first, predicted, seen = works[0], [work.predicted for work in works], [work.seen for work in works]
        found = first.scorer.scores_of_several(predicted, seen, first.offsets)
        for work, scores in zip(works, found, strict=True):
            work.scores = scores


class Evaluator:
    """Evaluates models on the held-out records, which it keeps as tensors.

    Parameters
    ----------
    network : Network
    test : Records
    unseen : bool
        Whether they are of clinics that do not train, and so have no model of their own.
    scorer : Scorer, optional
    program : Program, optional
        Scores what is predicted.
    """

    def __init__(
        self,
        network: Network,
        test: Records,
        *,
        unseen: bool = False,
        scorer: Scorer | None = None,
        program: Program | None = None,
    ) -> None:
        self._network = network
        self._program = program or Alone()
        self._scorer = scorer or ClassScorer()
        self._unseen = unseen
        self._test = test
        self._x = torch.tensor(test.x)[None]

    def evaluate(self, parameters: Mapping[str, Tensor], *, last: bool = False, server_round: int = 0) -> Evaluation:
        """Evaluate a model by its predictions to the precision in which they are kept.

        Parameters
        ----------
        parameters : mapping of str to Tensor
            ``[1, *shape]`` for a global model, ``[clinic, *shape]`` where every clinic has its own.
        last : bool
            Whether to compute the metrics of the last round too, and to keep the predictions.
        server_round : int
            After which it is.

        Returns
        -------
        Evaluation

        Raises
        ------
        FloatingPointError
            If an output is not finite.
        """
        kept = self.predictions(parameters).astype(self._scorer.kept_as)
        if not np.isfinite(kept).all():
            raise FloatingPointError("the model's outputs are not finite")
        seen, offsets = self._scorer.seen(self._test), self._test.offsets
        predicted = kept.astype(np.float64)
        if last:
            by_clinic, pooled = self._scorer.scores(predicted, seen, offsets, last=True)
            return Evaluation(pooled=pooled, by_clinic=by_clinic, predicted=kept)
        work = RoundScores(
            scorer=self._scorer, predicted=predicted, seen=seen, offsets=offsets, server_round=server_round
        )
        self._program.do(work)
        by_clinic, pooled = work.scores
        return Evaluation(pooled=pooled, by_clinic=by_clinic)

    @torch.no_grad()
    def predictions(self, parameters: Mapping[str, Tensor]) -> Floats:
        """Return ``[record, column]`` predictions under the global model or each record's clinic's own.

        Of classes they are probabilities. Of clinics that do not train, under each training clinic's own in turn, and
        of these the mean.
        """
        models = next(iter(parameters.values())).shape[0]
        if models > 1 and self._unseen:
            each = ({name: value[k : k + 1] for name, value in parameters.items()} for k in range(models))
            total = sum(self._scorer.predicted(self._logits(one, self._x)) for one in each)
            return np.asarray(total / models)
        if models == 1:
            logits = self._logits(parameters, self._x)
        elif len(self._network.input_shape) == 1 and dense_layers(self._network.whole) is not None:
            logits = self._logits_side_by_side(parameters)
        else:
            bounds = pairwise(self._test.offsets.tolist())
            own = ({n: v[k : k + 1] for n, v in parameters.items()} for k in count())
            logits = torch.cat(
                [self._logits(model, self._x[:, a:b]) for model, (a, b) in zip(own, bounds, strict=False)]
            )
        return self._scorer.predicted(logits)

    def _logits_side_by_side(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return ``[record, output]`` of each clinic's own model, of many clinics of about one size at a time."""
        offsets = self._test.offsets
        sizes = np.diff(offsets)
        logits = torch.empty(self._x.shape[1], self._network.outputs)
        by_size = np.argsort(sizes, kind="stable")
        for first in range(0, len(sizes), _SIDE_BY_SIDE):
            clinics = by_size[first : first + _SIDE_BY_SIDE]
            inside = np.arange(max(1, int(sizes[clinics].max()))) < sizes[clinics, None]
            records = torch.from_numpy(np.concatenate([np.arange(offsets[k], offsets[k + 1]) for k in clinics]))
            place = torch.from_numpy(inside)
            x = self._x.new_zeros(*inside.shape, *self._x.shape[2:])
            x[place] = self._x[0, records]
            own = {name: value[clinics] for name, value in parameters.items()}
            logits[records] = forward(self._network.whole, own, x)[place]
        return logits

    def _logits(self, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Return ``[record, output]`` of one lane, from as many records at once as the part runs well on."""
        rows = max(1, min(records_at_once(self._network.whole, self._network.input_shape), x.shape[1]))
        return torch.cat([forward(self._network.whole, parameters, piece)[0] for piece in torch.split(x, rows, 1)])
