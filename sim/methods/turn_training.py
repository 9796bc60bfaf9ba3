"""A turn's batches where head, body and tail are in one process: what their messages would do, without the messages."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from sim.methods.crossing import GRADIENT_OF, unpacked
from sim.methods.feed import Batch, Feed, padded
from sim.methods.forms import label_dtype, sendable
from sim.methods.job import Job
from sim.methods.messages import CUT_KINDS, Kind
from sim.methods.node_group import NodeGroup
from sim.methods.row_noise import arrived_rows, leaving_rows, rows_as_sent, sends_noisy_rows
from sim.methods.trainer import Trainer, train_lanes
from sim.tensor.clipping import joint_factors
from sim.tensor.lanes import one_by_one
from sim.tensor.program import Work


@dataclass(frozen=True, kw_only=True, eq=False)
class TurnTraining(Work):
    """Consecutive batches of a turn, for one or more clinics in parallel lanes.

    Attributes
    ----------
    group : NodeGroup
        Holds the records of the turn's clinics.
    clinics : list of int
        In lane order.
    trainers : dict of str to Trainer
        ``head``, ``body`` and, U-shaped, ``tail``; changed in place.
    first, last : int
        The batches: the first, and the one after the last.
    row_bytes : dict of Kind to int
        Filled: what one record's row of each kind takes as it crosses.
    """

    job: Job
    group: NodeGroup
    clinics: list[int]
    trainers: dict[str, Trainer]
    server_round: int
    first: int
    last: int
    row_bytes: dict[Kind, int] = field(default_factory=dict)

    @property
    def key(self) -> Hashable:
        """See :class:`Work`; noise on rows is drawn run by run."""
        job = self.job
        if not job.dense or job.rows is not None or sends_noisy_rows(job):
            return self
        settings = job.protocol.topology, job.joint, job.cut, job.shielded
        moment = self.server_round, self.first, self.last - self.first == 1, self.trainers["head"].nopeek
        return TurnTraining, settings, moment, *(trainer.alike for trainer in self.trainers.values())

    @property
    def order(self) -> tuple[int, int]:
        """See :class:`Work`."""
        return self.server_round, 0

    @classmethod
    def together(cls, works: Sequence[Self]) -> None:
        """See :class:`Work`."""
        work = works[0]
        feeds = [each._feed() for each in works]
        if len(works) == 1:
            work._train(work.trainers, feeds[0])
            return
        feed, places = Feed.joined(feeds)
        of_all = {part: [each.trainers[part] for each in works] for part in work.trainers}
        joined = {part: Trainer.joined(trainers, places) for part, trainers in of_all.items()}
        work._train(joined, feed)
        for part, trainers in of_all.items():
            joined[part].hand_out(trainers, places)
        for each in works[1:]:
            each.row_bytes.update(work.row_bytes)

    def bytes_of(self, kind: Kind) -> int:
        """Return what one record's row of a kind takes as it crosses; 0 where no row has."""
        return label_dtype(self.job).itemsize if kind == Kind.LABELS else self.row_bytes.get(kind, 0)

    def _feed(self) -> Feed:
        return Feed.of_turn(self.job, self.group, self.clinics, self.server_round, slice(self.first, self.last))

    def _train(self, trainers: dict[str, Trainer], feed: Feed) -> None:
        if (chain := self._chained(trainers)) is not None:
            train_lanes(chain, feed, self.server_round, self.first)
            return
        if len(self.clinics) > 1 and one_by_one(self.job.network.whole):
            feed = replace(feed, width=self.job.width(feed.rows))  # each lane as wide as it is alone
            for lane, clinic in enumerate(self.clinics):
                alone = {part: trainer.some(slice(lane, lane + 1)) for part, trainer in trainers.items()}
                replace(self, clinics=[clinic])._train(alone, feed.lanes(lane, lane + 1))
            return
        for s in range(len(feed.active)):
            for batch in feed.step(s):
                own = {part: trainer.of_batch(batch.lanes) for part, trainer in trainers.items()}
                self._step(own, batch, self.first + s)
                for part, trainer in trainers.items():
                    trainer.put_back(batch.lanes, own[part])

    def _chained(self, trainers: dict[str, Trainer]) -> Trainer | None:
        """Return the parts as one trainer with their memory, where nothing happens to what crosses between them."""
        job = self.job
        changed = job.shielded or not job.cut.exact or trainers["head"].nopeek or sends_noisy_rows(job)
        if not job.dense or job.frozen or changed:
            return None
        chain = Trainer.chained([trainers[part.name] for part in job.parts], job.network.whole)
        if chain is not None:
            outputs = [4 * list(trainers[part.name].parameters.values())[-1].shape[-1] for part in job.parts]
            self.row_bytes.update(dict.fromkeys((Kind.SMASHED, Kind.CUT_GRADIENT), outputs[0]))
            self.row_bytes.update(dict.fromkeys((Kind.BODY_OUTPUT, Kind.TAIL_GRADIENT), outputs[1]))
        return chain

    def _step(self, trainers: dict[str, Trainer], batch: Batch, step: int) -> None:
        """Train every part on one batch."""
        job, rows, normaliser = self.job, batch.rows.tolist(), batch.normaliser
        head, body, tail = trainers["head"], trainers["body"], trainers.get("tail")
        moment = self.server_round, step
        clinics = np.array(self.clinics)[batch.lanes].tolist()
        sent = rows_as_sent(job, head.forward(batch.x, rows=rows, moment=moment), rows, clinics, moment)
        smashed = self._up(Kind.SMASHED, sent, batch, moment)
        outputs = body.forward(smashed, rows=rows, want_input_gradient=True, moment=moment)
        squared = torch.zeros(())
        cotangent = None
        if tail is None:
            body.loss(batch.y, batch.weights)
        else:
            arrived = self._down(Kind.BODY_OUTPUT, outputs)
            tail.forward(arrived, rows=rows, want_input_gradient=True, moment=moment)
            tail.loss(batch.y, batch.weights)
            if job.joint:
                squared, gradient = tail.hold(normaliser)
            else:
                gradient = tail.backward(*moment, normaliser)
            cotangent = self._up(Kind.TAIL_GRADIENT, gradient, batch, moment, outputs)
        if not job.joint:
            gradient = self._down(Kind.CUT_GRADIENT, body.backward(*moment, normaliser, cotangent), sent)
            head.backward(*moment, normaliser, gradient)
            return
        at_server, gradient = body.hold(normaliser, cotangent)
        at_head, _ = head.hold(normaliser, self._down(Kind.CUT_GRADIENT, gradient, sent))
        at_clinic = self._sent(Kind.NORMS, at_head + squared if tail is not None else at_head)
        clip = torch.tensor([lane.clip or 0.0 for lane in body.lanes[: len(rows)]])[:, None]
        factors = self._sent(Kind.CLIP_FACTORS, joint_factors(at_server + at_clinic, clip))
        for part in trainers.values():
            part.release(*moment, normaliser, factors)

    def _up(self, kind: Kind, rows: Tensor, batch: Batch, moment: tuple[int, int], of: Tensor | None = None) -> Tensor:
        """Return rows as the server has them that leave the clinics."""
        job = self.job
        if job.rows is None:
            return self._down(kind, rows, of)
        clinics = np.array(self.clinics)[batch.lanes].tolist()
        by_lane = batch.normaliser if kind == Kind.TAIL_GRADIENT else None
        sent = leaving_rows(job, kind, rows, batch.rows.tolist(), clinics, moment, by_lane)
        self._note(kind, sent)
        return padded(arrived_rows(job, kind, sent, clinics, by_lane), rows.shape[1])

    def _down(self, kind: Kind, rows: Tensor, of: Tensor | None = None) -> Tensor:
        """Return rows as the other side has them; of a gradient those values alone that were sent `of` the rows."""
        job, cut = self.job, self.job.cut
        if kind not in CUT_KINDS or cut.exact:
            return self._sent(kind, rows)
        at = None if of is None or not cut.sparse else cut.places(sendable(job, GRADIENT_OF[kind], of))
        sent = cut.packed(sendable(job, kind, rows), at)
        self._note(kind, sent)
        return unpacked(job, kind, sent, at)

    def _sent(self, kind: Kind, rows: Tensor) -> Tensor:
        rows = sendable(self.job, kind, rows)
        self._note(kind, rows)
        return rows

    def _note(self, kind: Kind, sent: Tensor) -> None:
        if kind not in self.row_bytes and sent.shape[1]:
            self.row_bytes[kind] = sent.element_size() * sent[0, 0].numel()
