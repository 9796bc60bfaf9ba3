"""What all our strategies share: addressing cohorts of clinics, and putting their replies back into one lane order."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from sim.flower.internals import held
from sim.flower.messages import (
    ConfigValue,
    array_kinds,
    array_record,
    config_of,
    content,
    tensors,
    tensors_in,
)
from sim.methods.job import Job
from sim.methods.protocol import ROW_KINDS
from sim.methods.trainer import Trainer, expand, trainer_for
from sim.models import Parameters
from sim.tensor.lanes import weighted_average
from strategies.clinic_level import adapted_clip, noised_mean, updates_of
from strategies.replies import ExchangeError, Replies, hosted_clinics

__all__ = ["CohortStrategy", "ExchangeError", "Gathered", "hosts"]


@dataclass(frozen=True)
class Gathered:
    """Replies of all nodes, joined along the clinic axis in lane order.

    Attributes
    ----------
    clinics : list of int
        The clinic of each lane.
    rows : list of int
        Real rows in each lane; empty for replies that carry no rows.
    arrays : dict of str to dict of str to Tensor
        By kind and name, ``[lane, ...]``.
    """

    clinics: list[int]
    rows: list[int]
    arrays: dict[str, dict[str, Tensor]]


class CohortStrategy(Strategy):
    """A Flower strategy over cohorts of clinics.

    Messages are few: one a node, whatever the number of its clinics. Evaluation is left to the simulator, which applies
    one rule to every strategy (``evaluate_fn`` of ``Strategy.start``).

    Parameters
    ----------
    job : Job
        What server and clinics agreed on.

    Attributes
    ----------
    server_noised_steps : dict of str to Tensor
        By server part, ``[clinic]``: how many of its gradients were clipped and noised; ``update`` and ``clip-count``
        count rounds.
    before : dict of str to Tensor
        ``[1, *shape]`` parameters with which the round began, where they are averaged at its end.
    own : dict of str to Tensor
        ``[clinic, *shape]`` what each clinic's copy of the body has of its own, at the server.
    clip : float
        Of clinics' updates under clinic-level privacy; the next round's, where it adapts.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.server_noised_steps: dict[str, Tensor] = {}
        self.before: Parameters = {}
        self.own: Parameters = {}
        self.clip = job.spec.privacy.clip
        self._home: dict[int, int] = {}
        self._replies = Replies(job)

    def home(self, grid: Grid) -> dict[int, int]:
        """Return the node that hosts each clinic, asked for once."""
        if not self._home:
            self._home = hosts(grid, len(self.job.sizes))
        return self._home

    def instructions(
        self,
        grid: Grid,
        message_type: str,
        clinics: Sequence[int],
        arrays: Mapping[str, Mapping[str, Tensor]],
        config: Mapping[str, ConfigValue],
        rows: Sequence[int] = (),
    ) -> list[Message]:
        """Build one message for every node that hosts a clinic in the list.

        Parameters
        ----------
        grid : Grid
        message_type : str
        clinics : sequence of int
            In lane order.
        arrays : mapping
            By kind and name. Row-wise kinds are ``[lane, batch, ...]`` and are shared out to the nodes by lane; others
            are the same for all.
        config : mapping
        rows : sequence of int
            Real rows in each lane, for row-wise kinds.
        """
        home = self.home(grid)
        lanes_of: dict[int, list[int]] = {}
        for lane, clinic in enumerate(clinics):
            lanes_of.setdefault(home[clinic], []).append(lane)
        messages = []
        for node_id, lanes in sorted(lanes_of.items()):
            own: dict[str, ConfigValue] = {"clinics": [clinics[lane] for lane in lanes], **config}
            own_rows = [rows[lane] for lane in lanes] if rows else []
            if own_rows:
                own["rows"] = own_rows
            payload = {
                kind: _share(named, lanes, own_rows) if kind in ROW_KINDS and len(lanes_of) > 1 else named
                for kind, named in arrays.items()
            }
            messages.append(Message(content(payload, own), node_id, message_type))
            self._replies.expect(node_id, message_type, own)
        return messages

    def exchange(
        self,
        grid: Grid,
        message_type: str,
        clinics: Sequence[int],
        arrays: Mapping[str, Mapping[str, Tensor]],
        config: Mapping[str, ConfigValue],
        rows: Sequence[int] = (),
    ) -> Gathered:
        """Send to the nodes of these clinics and gather the replies; parameters as for ``instructions``."""
        messages = self.instructions(grid, message_type, clinics, arrays, config, rows)
        return self.gather(grid.send_and_receive(messages))

    def received(self, replies: Iterable[Message]) -> list[Message]:
        """Return the replies to all instructions that were built since, sorted by node.

        Raises
        ------
        ExchangeError
            If one is missing, an error, or no answer to what was asked.
        """
        return self._replies.received(replies)

    def gather(self, replies: Iterable[Message], before: Sequence[Message] = ()) -> Gathered:
        """Receive replies, and join them, and those received before, along the clinic axis; raises as ``received``."""
        return self.joined([*before, *self.received(replies)])

    def joined(self, received: Iterable[Message]) -> Gathered:
        """Join replies along the clinic axis, in lane order; a node whose clinics are all lost sends nothing."""
        sound = [reply for reply in received if array_kinds(reply)]
        stated = [held(config_of(reply)) for reply in sound]
        found: list[int] = [k for own in stated for k in own["clinics"]]
        rows: list[int] = [r for own in stated for r in own.get("rows", ())]
        clinics = self.job.in_lane_order(found)
        order = None if clinics == found else torch.tensor([found.index(k) for k in clinics])
        arrays: dict[str, dict[str, Tensor]] = {}
        for kind in array_kinds(sound[0]) if sound else ():
            parts = [tensors(reply, kind) for reply in sound]
            arrays[kind] = {name: _joined([part[name] for part in parts], order) for name in parts[0]}
        if order is not None and rows:
            rows = [rows[i] for i in order.tolist()]
        return Gathered(clinics, rows, arrays)

    def weights(self, clinics: Sequence[int]) -> list[float]:
        """Return n_k / n over these clinics, in their order."""
        total = sum(self.job.sizes[k] for k in clinics)
        return [self.job.sizes[k] / total for k in clinics]

    def average(
        self, stacked: Mapping[str, Tensor], clinics: Sequence[int], before: Mapping[str, Tensor], server_round: int
    ) -> Parameters:
        """Average these clinics' parameters ``[lane, *shape]``, but for the frozen parts, which are the same in all.

        What each clinic has of its own is left out. Weights are n_k / n. Under clinic-level privacy the clipped updates
        from ``before``, ``[1, *shape]``, count alike.
        """
        fixed = {name for part in self.job.frozen for name in self.job.part(part).shapes()}
        trained = {name: value for name, value in stacked.items() if name not in fixed | self.job.apart}
        if self.job.spec.privacy.unit == "clinic":
            averaged = self._moved_by_noised_updates(trained, clinics, before, server_round)
        else:
            averaged = weighted_average(trained, self.weights(clinics))
        return averaged | {name: stacked[name][:1] for name in fixed & stacked.keys()}

    def _moved_by_noised_updates(
        self, trained: Mapping[str, Tensor], clinics: Sequence[int], before: Mapping[str, Tensor], server_round: int
    ) -> Parameters:
        job = self.job
        multiplier, clip, adaptive = job.update_noise or 0.0, self.clip, job.adaptive
        updates, norms = updates_of(before, trained)
        if adaptive is not None:
            self.clip = adapted_clip(clip, norms, job.wanted, adaptive, multiplier > 0, job.key, server_round)
            self._count_release("clip-count", clinics)
            multiplier = adaptive.update_noise(multiplier)
        mean = noised_mean(updates, norms, job.wanted, clip, multiplier, job.key, server_round)
        self._count_release("update", clinics)
        return {name: before[name] + move for name, move in mean.items()}

    def _count_release(self, what: str, clinics: Sequence[int]) -> None:
        fresh = torch.zeros(len(self.job.sizes), dtype=torch.int64)
        self.server_noised_steps.setdefault(what, fresh)[list(clinics)] += 1

    def clinic_parts_of(self, parameters: Mapping[str, Tensor]) -> Parameters:
        """Return the parameters of the parts that train at the clinics."""
        names = (name for part in self.job.protocol.clinic_parts for name in self.job.part(part).shapes())
        return {name: parameters[name] for name in names if name not in self.job.apart}

    def body_of(self, parameters: Mapping[str, Tensor]) -> Parameters:
        """Return the parameters of the body."""
        return self.job.part("body").select(parameters)

    def common(self, arrays: ArrayRecord) -> Parameters:
        """Return the parameters ``[1, *shape]`` that the clinics have in common."""
        parameters = tensors_in(arrays)
        if self.job.apart and not self.own:
            here = {name for part in self.job.protocol.server_parts for name in self.job.part(part).shapes()}
            own = {name: value for name, value in parameters.items() if name in self.job.apart & here}
            self.own = expand(own, len(self.job.sizes))
        return {name: value[:1] for name, value in parameters.items() if name not in self.job.apart}

    def keep_own(self, clinics: Sequence[int], values: Mapping[str, Tensor]) -> None:
        """Keep what these clinics' body copies have of their own, ``[lane, *shape]``, among other values."""
        for name in self.own.keys() & values.keys():
            self.own[name] = self.own[name].clone()
            self.own[name][list(clinics)] = values[name]

    def model(self, parameters: Mapping[str, Tensor]) -> ArrayRecord:
        """Return what the server holds of the model, in the network's order: nothing that is the clinics' own.

        ``[1, *shape]``, and ``[clinic, *shape]`` where body copies have something of their own.
        """
        held = {**parameters, **self.own}
        return array_record({name: held[name] for name in self.job.network.whole.shapes() if name in held})

    def body_copies(self, clinics: Sequence[int], parameters: Mapping[str, Tensor]) -> Trainer:
        """Return one copy of the body a clinic."""
        own = {name: value[list(clinics)] for name, value in self.own.items()}
        body = self.body_of({**expand(parameters, len(clinics)), **own})
        return trainer_for(self.job, self.job.part("body"), clinics, body)

    def body_serving(self, clinic: int, body: Trainer | None, parameters: Mapping[str, Tensor]) -> Trainer:
        """Return the one body, made ready for a clinic's batches; its parameters and optimiser state live on."""
        if body is None:
            return trainer_for(self.job, self.job.part("body"), [clinic], expand(self.body_of(parameters), 1))
        return trainer_for(self.job, body.part, [clinic], body.parameters, body.state)

    def count_noise(self, trainer: Trainer) -> None:
        """Add a server part's noised steps to the count, clinic by clinic."""
        if self.job.dp is not None:
            fresh = torch.zeros(len(self.job.sizes), dtype=torch.int64)
            self.server_noised_steps.setdefault(trainer.part.name, fresh)[trainer.clinics] += trainer.noised_steps

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask for nothing: the simulator evaluates."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return nothing: the simulator evaluates."""
        return None

    def summary(self) -> None:
        """Log nothing: the plan says what will happen."""

    @abstractmethod
    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Do a round up to its last exchange and return that exchange's messages."""

    @abstractmethod
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Take the last replies and return the model: ``[1, ...]``, or ``[clinic, ...]`` where each has its own."""


def hosts(grid: Grid, clinics: int) -> dict[int, int]:
    """Ask the nodes which clinics they host, and return each clinic's node.

    Raises
    ------
    ExchangeError
        If the nodes do not host every clinic exactly once.
    """
    nodes = list(grid.get_node_ids())
    ask = [Message(content({}, {}), node_id, "query.hello") for node_id in nodes]
    return hosted_clinics(grid.send_and_receive(ask), nodes, clinics)


def _share(named: Mapping[str, Tensor], lanes: list[int], rows: list[int]) -> dict[str, Tensor]:
    """Return some lanes' rows, as wide as the widest of these lanes."""
    width = max(rows)
    return {name: value[torch.tensor(lanes), :width] for name, value in named.items()}


def _joined(pieces: list[Tensor], order: Tensor | None) -> Tensor:
    if len(pieces) > 1 and pieces[0].dim() > 1:
        width = max(piece.shape[1] for piece in pieces)
        if any(piece.shape[1] != width for piece in pieces):
            pieces = [_widened(piece, width) for piece in pieces]
    whole = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    return whole if order is None else whole[order]


def _widened(piece: Tensor, width: int) -> Tensor:
    wide = piece.new_zeros(piece.shape[0], width, *piece.shape[2:])
    wide[:, : piece.shape[1]] = piece
    return wide
