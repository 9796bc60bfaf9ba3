"""Deliberately slow twins of the strategies: plain PyTorch modules, ``torch.optim`` and loops over clinics and batches.

From the simulator they take only what a run is: the initial parameters, who takes part, and which records stand in a
batch. Under DP-SGD every record's gradient is formed by itself, clipped part by part, summed, and noised.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sim.data.federation import Federation
from sim.foundation.normals import fill_normals
from sim.methods import job
from sim.methods.sampling import Sampling, draw_batches, participants
from sim.models import build_network
from sim.scenario.spec import RunSpec

State = dict[str, Tensor]
AWAY = -1


def likelihood(logits: Tensor, y: Tensor) -> Tensor:
    """Return the negative log-likelihood of times in intervals: each is survived, until the event is seen in one."""
    hazards, total = torch.sigmoid(logits), torch.zeros((), dtype=logits.dtype)
    for own, label in zip(hazards, y.tolist(), strict=True):
        interval, event = divmod(label, 2)
        total = total - torch.log(1 - own[:interval]).sum() - (torch.log(own[interval]) if event else 0.0)
    return total


@dataclass
class Twin:
    """A run seen by plain PyTorch: clinic by clinic, one ``nn.Sequential``.

    ``lost`` holds, by round and clinic, after how many batches a clinic is lost, or ``AWAY``; ``stopped``, after how
    many it ends its round early and hands on what it has.
    """

    spec: RunSpec
    federation: Federation
    noise_multipliers: tuple[float, ...] = ()
    lost: dict[tuple[int, int], int] = field(default_factory=dict)
    stopped: dict[tuple[int, int], int] = field(default_factory=dict)
    digest: str = ""

    def average(self, models: "list[tuple[int, State]]") -> "State":
        return weighted_average(models)

    @property
    def key(self) -> str:
        """What keys the run's noise; of the planned run, where the twin's spec is another one."""
        return job.run_key(self.digest or self.spec.digest, self.federation.facts)

    def there(self, server_round: int, everyone: bool = False) -> list[int]:
        share = 1.0 if everyone else self.spec.train.participation
        drawn = participants(self.spec.seed, server_round, len(self.records), share)
        return [int(k) for k in drawn if self.lost.get((server_round, int(k))) != AWAY]

    def returning(self, server_round: int) -> list[int]:
        return [k for k in self.there(server_round) if (server_round, k) not in self.lost]

    @property
    def records(self) -> list[tuple[Tensor, Tensor]]:
        train = self.federation.train
        return [(torch.tensor(train.x[a:b]), torch.tensor(train.y[a:b])) for a, b in pairwise(train.offsets)]

    @property
    def amounts(self) -> bool:
        return self.spec.data.outcome_of_a_record.kind == "amount"

    def of_amounts(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the loss of amounts as PyTorch has it; the quantile's by cases."""
        train, (low, high) = self.spec.train, self.spec.data.outcome_of_a_record.span
        amount = y.to(logits.dtype) / 2**24 * 2 - 1
        if train.loss == "huber":
            return functional.huber_loss(
                logits[:, 0], amount, reduction="sum", delta=train.huber_delta / (high - low) * 2
            )
        if train.loss == "quantile":
            rest = amount - logits[:, 0]
            return torch.where(rest > 0, train.quantile * rest, (train.quantile - 1) * rest).sum()
        return functional.mse_loss(logits[:, 0], amount, reduction="sum") / 2

    @property
    def grades(self) -> bool:
        return self.spec.data.outcome_of_a_record.kind == "ordinal"

    @property
    def edges(self) -> tuple[float, ...]:
        return self.spec.data.outcome_of_a_record.edges

    @property
    def outputs(self) -> int:
        if self.edges:
            return len(self.edges)
        if self.amounts:
            return 1
        classes = len(self.federation.classes)
        if self.grades:
            return classes - 1
        return 1 if classes == 2 and self.spec.model.head == "binary" else classes

    def initial(self) -> State:
        shape = self.federation.train.x.shape[1:]
        outcome = self.spec.data.outcome_of_a_record
        network = build_network(self.spec.model, shape, len(self.federation.classes), outcome)
        return {name: value[0] for name, value in network.initial_parameters(self.spec.seed).items()}

    def module(self, state: State) -> nn.Sequential:
        widths = [self.federation.train.x.shape[1], *self.spec.model.hidden]
        blocks = OrderedDict(
            (f"hidden{i}", nn.Sequential(nn.Linear(a, b), nn.ReLU())) for i, (a, b) in enumerate(pairwise(widths), 1)
        )
        blocks["output"] = nn.Linear(widths[-1], self.outputs)
        if self.spec.train.smashed_top_k < 1 and self.spec.strategy.cut is not None:
            cut = self.spec.model.cut
            ends = [cut] if self.spec.strategy.cut == "vanilla" else [each % len(blocks) for each in cut]
            for end in ends:
                blocks[f"hidden{end}"].append(Largest(math.ceil(self.spec.train.smashed_top_k * widths[end])))
        module = nn.Sequential(blocks)
        module.load_state_dict(state)
        return module

    def parts(self, module: nn.Sequential) -> dict[str, nn.Sequential]:
        """Cut the module as the strategy says; the parts share its parameters."""
        cut, n = self.spec.model.cut, len(module)
        if self.spec.strategy.cut is None:
            return {"model": module}
        if self.spec.strategy.cut == "vanilla":
            return {"head": module[:cut], "body": module[cut:]}
        first, last = (c % n for c in cut)
        return {"head": module[:first], "body": module[first:last], "tail": module[last:]}

    def optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        train = self.spec.train
        if train.optimizer == "adam":
            made = torch.optim.Adam(module.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay)
        else:
            momentum, decay = train.momentum if train.optimizer == "momentum" else 0.0, train.weight_decay
            made = torch.optim.SGD(module.parameters(), lr=train.learning_rate, momentum=momentum, weight_decay=decay)

        def at_the_rounds_rate(optimizer, *_):
            optimizer.param_groups[0]["lr"] = self.rates[self.server_round - 1]

        if train.schedule != "constant":
            made.register_step_pre_hook(at_the_rounds_rate)
        return made

    @property
    def rates(self) -> list[float]:
        """Return the rate of each round, as a scheduler of ``torch.optim.lr_scheduler`` that steps once a round."""
        train = self.spec.train
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=train.learning_rate)
        if train.schedule == "cosine":
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=train.rounds)
        else:
            rising = max(1, train.rounds // 10)
            scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / (rising + 1), total_iters=rising)
        rates = []
        for _ in range(train.rounds):
            rates += scheduler.get_last_lr()
            optimizer.step()
            scheduler.step()
        return rates

    def batches(self, server_round: int, clinic: int, size: int) -> list[np.ndarray]:
        """Return the positions of each batch's records, without padding; the round has come."""
        self.server_round = server_round
        train = self.spec.train
        sampling = Sampling(self.spec.privacy.mechanism == "dp-sgd", train.batch_size, train.local_epochs)
        key = self.key if sampling.poisson else self.spec.seed
        drawn = draw_batches(sampling, key, server_round, [clinic], [size])
        return [drawn.index[s, 0, : drawn.rows[s, 0]] for s in range(len(drawn.rows))]

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the sum of the records' losses."""
        if self.edges:
            return likelihood(logits, y)
        if self.amounts:
            return self.of_amounts(logits, y)
        if self.grades:
            return -torch.log(grade_probabilities(logits)[torch.arange(len(y)), y]).sum()
        if self.outputs == 1:
            return functional.binary_cross_entropy_with_logits(logits[:, 0], y.to(logits.dtype), reduction="sum")
        return functional.cross_entropy(logits, y, reduction="sum")

    def fit(
        self, module: nn.Sequential, optimizers: list[torch.optim.Optimizer], server_round: int, clinic: int, x, y
    ) -> None:
        """Train for one round on one clinic's records."""
        private = self.spec.privacy.mechanism == "dp-sgd"
        expected = min(self.spec.train.batch_size, len(y))
        for step, rows in enumerate(self.batches(server_round, clinic, len(y))):
            for optimizer in optimizers:
                optimizer.zero_grad()
            if private and self.spec.privacy.clip == float("inf"):
                (self.loss(module(x[rows]), y[rows]) / expected).backward()
            elif private:
                self.private_gradient(module, x[rows], y[rows], server_round, clinic, step, len(y))
            else:
                (self.loss(module(x[rows]), y[rows]) / len(rows)).backward()
            for optimizer in optimizers:
                optimizer.step()

    def private_gradient(
        self, module: nn.Sequential, x: Tensor, y: Tensor, server_round: int, clinic: int, step: int, size: int
    ) -> None:
        """Leave DP-SGD's gradient in ``.grad``: record by record, part by part or over all parts together."""
        parts, joint = self.parts(module), self.spec.privacy.clipping == "joint"
        part_clip = self.spec.privacy.clip / len(parts) ** 0.5
        expected = min(self.spec.train.batch_size, size)
        sums = {name: [torch.zeros_like(p) for p in part.parameters()] for name, part in parts.items()}
        for record in range(len(y)):
            loss = self.loss(module(x[record : record + 1]), y[record : record + 1])
            each = {
                name: torch.autograd.grad(loss, list(part.parameters()), retain_graph=True)
                for name, part in parts.items()
            }
            norms = {name: torch.cat([g.flatten() for g in grads]).norm() for name, grads in each.items()}
            whole, clip = torch.stack(list(norms.values())).norm(), self.spec.privacy.clip
            for name, grads in each.items():
                factor = float(clip / whole if joint else part_clip / norms[name])  # inf for a gradient of 0
                for total, grad in zip(sums[name], grads, strict=True):
                    total += grad * min(1.0, factor)
        sigma = self.noise_multipliers[clinic]
        for name, part in parts.items():
            drawn = np.empty((1, sum(parameter.numel() for parameter in part.parameters())))
            fill_normals(drawn, [self.key], f"noise.{name}", [clinic], server_round, step)
            noise = torch.from_numpy(drawn[0]).split([parameter.numel() for parameter in part.parameters()])
            for parameter, total, own in zip(part.parameters(), sums[name], noise, strict=True):
                parameter.grad = total / expected
                if sigma:
                    scale = sigma * self.spec.privacy.clip / expected
                    grid = 2.0 ** (np.ceil(np.log2(scale)) - 16)
                    noised = parameter.grad.double() + own.view(parameter.shape) * scale
                    parameter.grad = (torch.round(noised / grid) * grid).float()


def grade_probabilities(logits: Tensor) -> Tensor:
    """Return ``[record, grade]``, grade after grade: who does not stop at one goes on to the next."""
    left, found = torch.ones(len(logits), dtype=logits.dtype), []
    for stops in torch.sigmoid(logits).unbind(1):
        found.append(left * stops)
        left = left * (1 - stops)
    return torch.stack([*found, left], 1)


class Largest(nn.Module):
    """Keeps so many of a row's values."""

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def forward(self, rows: Tensor) -> Tensor:
        least = rows.detach().abs().topk(self.count, dim=-1).values[..., -1:]
        return rows * (rows.detach().abs() >= least)


def weighted_average(models: list[tuple[int, State]]) -> State:
    """Average models that come with their numbers of records."""
    n = sum(size for size, _ in models)
    average = {name: torch.zeros_like(value) for name, value in models[0][1].items()}
    for size, state in models:
        for name, value in state.items():
            average[name] += size / n * value
    return average


def fedavg(twin: Twin, server=None) -> State:
    """McMahan et al. 2017; another ``server`` may make something else of the clinics' models."""
    state, records = twin.initial(), twin.records
    for server_round in range(1, twin.spec.train.rounds + 1):
        models = []
        for k in twin.returning(server_round):
            x, y = records[k]
            module = twin.module(state)
            twin.fit(module, [twin.optimizer(module)], server_round, k, x, y)
            models.append((len(y), module.state_dict()))
        state = server(state, models, server_round) if server else twin.average(models) if models else state
    return state


def splitfed_v1(twin: Twin) -> State:
    """Thapa et al. 2022: really cut, with an optimiser on each side and only tensors passed across; without DP."""
    state, records = twin.initial(), twin.records
    for server_round in range(1, twin.spec.train.rounds + 1):
        models = []
        for k in twin.returning(server_round):
            x, y = records[k]
            module = twin.module(state)
            parts = twin.parts(module)
            optimizers = [twin.optimizer(part) for part in parts.values()]
            for rows in twin.batches(server_round, k, len(y)):
                _split_step(twin, list(parts.values()), optimizers, x[rows], y[rows])
            models.append((len(y), module.state_dict()))
        state = weighted_average(models)
    return state


def _split_step(twin: Twin, parts: list[nn.Sequential], optimizers, x: Tensor, y: Tensor) -> None:
    received, sent = [x], []
    for part in parts:
        sent.append(part(received[-1]))
        received.append(sent[-1].detach().requires_grad_())
    for optimizer in optimizers:
        optimizer.zero_grad()
    (twin.loss(sent[-1], y) / len(y)).backward()
    for output, cut in zip(reversed(sent[:-1]), reversed(received[1:-1]), strict=True):
        output.backward(cut.grad)
    for optimizer in optimizers:
        optimizer.step()


def centralised(twin: Twin) -> State:
    """All records in one place, clinic after clinic; one optimiser for the whole run."""
    x, y = (torch.cat(pieces) for pieces in zip(*twin.records, strict=True))
    module = twin.module(twin.initial())
    optimizer = twin.optimizer(module)
    for server_round in range(1, twin.spec.train.rounds + 1):
        twin.fit(module, [optimizer], server_round, 0, x, y)
    return module.state_dict()


def local(twin: Twin) -> State:
    """Every clinic alone, with one optimiser for the whole run; stacked in the clinics' order."""
    states = []
    for k, (x, y) in enumerate(twin.records):
        module = twin.module(twin.initial())
        optimizer = twin.optimizer(module)
        for server_round in range(1, twin.spec.train.rounds + 1):
            if k in twin.there(server_round, everyone=True):
                twin.fit(module, [optimizer], server_round, k, x, y)
        states.append(module.state_dict())
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}
