"""Deliberately slow twins of the strategies that cut the network, and of FedProx: plain PyTorch, loops, no lanes.

Head, body and tail are modules of their own with a ``torch.optim`` optimiser each, and only detached tensors pass
between them. From the simulator the twins take which records stand in a batch and in which order a sequential strategy
serves its clinics. Under DP-SGD the gradients come from ``Twin.private_gradient``, record by record.
"""

import copy
from collections import OrderedDict
from dataclasses import dataclass

import torch
import twins
from support import plan_of, run_spec
from torch import Tensor, nn
from torch.nn import functional
from twins import State, Twin

from sim.methods.attendance import Attendance
from sim.methods.job import Job
from sim.study.train import train_run

CLINIC_PARTS = {"vanilla": ("head",), "u-shaped": ("head", "tail")}


class SplitTwin(Twin):
    """A run seen by plain PyTorch, with class weights, participants and the order of turns."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        if self.edges or self.amounts or self.grades:
            return super().loss(logits, y)
        if self.outputs == 1:
            each = functional.binary_cross_entropy_with_logits(logits[:, 0], y.to(logits.dtype), reduction="none")
        else:
            each = functional.cross_entropy(logits, y, reduction="none")
        weights = self.spec.train.class_weights
        return (each if weights is None else each * torch.tensor(weights)[y]).sum()

    @property
    def private(self) -> bool:
        return self.spec.privacy.mechanism == "dp-sgd"

    @property
    def clinic_parts(self) -> tuple[str, ...]:
        return CLINIC_PARTS[self.spec.strategy.cut]

    @property
    def rounds(self) -> range:
        return range(1, self.spec.train.rounds + 1)

    def order(self, server_round: int) -> list[int]:
        there = self.there(server_round)
        attended = {server_round: Attendance.complete(there, [1] * len(there))}
        return (
            Job.build(self.spec, self.federation.facts).executed(self.spec.train.rounds, attended).order(server_round)
        )

    def train_batch(self, clinic: "Place", server: "Place", batch: "Batch") -> None:
        train_batch(self, clinic, server, batch)

    def turns(self, batches: "dict[int, list[Batch]]") -> "list[list[Batch]]":
        """Return the batches of each turn of a sequential round; ``batches`` come in the order of the clinics."""
        if self.spec.strategy.alternate == "clinic":
            return [own for own in batches.values() if own]
        longest = max((len(own) for own in batches.values()), default=0)
        return [[own[step]] for step in range(longest) for own in batches.values() if step < len(own)]


@dataclass
class Batch:
    """A clinic's batch, and what names it."""

    x: Tensor
    y: Tensor
    server_round: int
    clinic: int
    step: int
    size: int  # training records of the clinic


def batches_of(twin: SplitTwin, server_round: int, clinics: list[int]) -> dict[int, list[Batch]]:
    drawn = {}
    for k in clinics:
        x, y = twin.records[k]
        rows = twin.batches(server_round, k, len(y))[: {**twin.lost, **twin.stopped}.get((server_round, k))]
        drawn[k] = [Batch(x[own], y[own], server_round, k, step, len(y)) for step, own in enumerate(rows)]
    return drawn


@dataclass
class Place:
    """The parts that stand at one clinic, or at the server, each with its own optimiser."""

    parts: dict[str, nn.Sequential]
    optimizers: dict[str, torch.optim.Optimizer]

    @classmethod
    def build(cls, twin: Twin, state: State, names: tuple[str, ...]) -> "Place":
        parts = {name: part for name, part in twin.parts(twin.module(state)).items() if name in names}
        return cls(parts, {name: twin.optimizer(part) for name, part in parts.items()})

    def take_over(self, before: "Place", optimizer_state: bool = True) -> None:
        """Load what the place before this one hands on."""
        for name, part in before.parts.items():
            self.parts[name].load_state_dict(part.state_dict())
            if optimizer_state:
                self.optimizers[name].load_state_dict(copy.deepcopy(before.optimizers[name].state_dict()))

    def state(self) -> State:
        return {key: value.clone() for part in self.parts.values() for key, value in part.state_dict().items()}


def train_batch(twin: SplitTwin, clinic: Place, server: Place, batch: Batch) -> None:
    """Train every part on one batch: Gupta & Raskar 2018, algorithm 1; U-shaped, the tail holds the loss."""
    parts = clinic.parts | server.parts
    optimizers = [*clinic.optimizers.values(), *server.optimizers.values()]
    for optimizer in optimizers:
        optimizer.zero_grad()
    if twin.private:
        ordered = [parts[name] for name in ("head", "body", "tail") if name in parts]
        whole = nn.Sequential(OrderedDict(block for part in ordered for block in part.named_children()))
        twin.private_gradient(whole, batch.x, batch.y, batch.server_round, batch.clinic, batch.step, batch.size)
    else:
        smashed = parts["head"](batch.x)
        at_server = smashed.detach().requires_grad_()
        outputs = parts["body"](at_server)
        if "tail" in parts:
            at_clinic = outputs.detach().requires_grad_()
            (twin.loss(parts["tail"](at_clinic), batch.y) / len(batch.y)).backward()
            outputs.backward(at_clinic.grad)
        else:
            (twin.loss(outputs, batch.y) / len(batch.y)).backward()
        if weight := twin.spec.train.nopeek:
            (weight * distance_correlation(batch.x, smashed)).backward(retain_graph=True)
        smashed.backward(at_server.grad)
    for optimizer in optimizers:
        optimizer.step()


def distance_correlation(x: Tensor, z: Tensor) -> Tensor:
    """Szekely, Rizzo & Bakirov 2007, definitions 4 and 5: of n records, from all pairs of them."""

    def centred(values: Tensor) -> Tensor:
        apart = (values.flatten(1)[:, None] - values.flatten(1)[None]).square().sum(2)
        far = torch.where(apart > 0, apart, 1.0).sqrt() * (apart > 0)
        return far - far.mean(0, keepdim=True) - far.mean(1, keepdim=True) + far.mean()

    a, b = centred(x), centred(z)
    if len(x) < 2:
        return 0 * z.sum()
    return ((a * b).mean() / ((a * a).mean() * (b * b).mean()).sqrt()).sqrt()


def split(twin: SplitTwin, optimizer_state: bool = True) -> State:
    """Gupta & Raskar 2018: every clinic has a head of its own, which takes over what the last one hands on."""
    state = twin.initial()
    server = Place.build(twin, state, ("body",))
    last = Place.build(twin, state, twin.clinic_parts)
    for server_round in twin.rounds:
        for turn in twin.turns(batches_of(twin, server_round, twin.order(server_round))):
            clinic = Place.build(twin, state, twin.clinic_parts)
            clinic.take_over(last, optimizer_state)
            for batch in turn:
                twin.train_batch(clinic, server, batch)
            if twin.lost.get((server_round, turn[-1].clinic)) != turn[-1].step + 1:
                last = clinic
    return last.state() | server.state()


def splitfed_v1(twin: SplitTwin) -> State:
    """Thapa et al. 2022, algorithms 1 and 2."""
    state = twin.initial()
    for server_round in twin.rounds:
        models = []
        for own in batches_of(twin, server_round, twin.returning(server_round)).values():
            clinic = Place.build(twin, state, twin.clinic_parts)
            server = Place.build(twin, state, ("body",))
            for batch in own:
                twin.train_batch(clinic, server, batch)
            models.append((own[0].size, clinic.state() | server.state()))
        state = twin.average(models) if models else state
    return state


def splitfed_v2(twin: SplitTwin) -> State:
    """Thapa et al. 2022, section 3.2: one body and one optimiser of it for the whole run."""
    state = twin.initial()
    server = Place.build(twin, state, ("body",))
    for server_round in twin.rounds:
        batches = batches_of(twin, server_round, twin.order(server_round))
        clinics = {k: Place.build(twin, state, twin.clinic_parts) for k in batches}
        for turn in twin.turns(batches):
            for batch in turn:
                twin.train_batch(clinics[batch.clinic], server, batch)
        heads = [(batches[k][0].size, clinics[k].state()) for k in twin.returning(server_round)]
        state = (twin.average(heads) if heads else state) | server.state()
    return state


def splitfed_v3(twin: SplitTwin) -> State:
    """Gawali et al. 2020: every clinic's own parts live as long as the run; stacked in the clinics' order."""
    state = twin.initial()
    clinics = [Place.build(twin, state, twin.clinic_parts) for _ in twin.records]
    for server_round in twin.rounds:
        bodies = []
        for k, own in batches_of(twin, server_round, twin.there(server_round)).items():
            server = Place.build(twin, state, ("body",))
            for batch in own:
                twin.train_batch(clinics[k], server, batch)
            if k in twin.returning(server_round):
                bodies.append((own[0].size, server.state()))
        state = state | (twin.average(bodies) if bodies else {})
    models = [state | clinic.state() for clinic in clinics]
    return {name: torch.stack([model[name] for model in models]) for name in state}


def fedprox(twin: SplitTwin, mu: float | None = None) -> State:
    """Li et al. 2020, algorithm 2: mu/2 |w - w_t|^2 beside the mean loss of each batch."""
    mu = twin.spec.strategy.proximal_mu if mu is None else mu
    state = twin.initial()
    for server_round in twin.rounds:
        models = []
        for own in batches_of(twin, server_round, twin.returning(server_round)).values():
            module = twin.module(state)
            optimizer = twin.optimizer(module)
            for batch in own:
                optimizer.zero_grad()
                if twin.private:
                    name = batch.server_round, batch.clinic, batch.step
                    twin.private_gradient(module, batch.x, batch.y, *name, batch.size)
                else:
                    (twin.loss(module(batch.x), batch.y) / len(batch.y)).backward()
                pull = sum(((value - state[name]) ** 2).sum() for name, value in module.named_parameters())
                (mu / 2 * pull).backward()
                optimizer.step()
            models.append((own[0].size, module.state_dict()))
        state = twin.average(models) if models else state
    return state


TWINS = {
    "centralised": twins.centralised,
    "local": twins.local,
    "fedavg": twins.fedavg,
    "fedavg-finetuned": twins.fedavg,
    "fedavg-own-head": twins.fedavg,
    "fedprox": fedprox,
    "split": split,
    "splitfed-v1": splitfed_v1,
    "splitfed-v2": splitfed_v2,
    "splitfed-v3": splitfed_v3,
}
OWN_MODELS = ("local", "splitfed-v3")
"""Strategies that end with a model a clinic."""


@dataclass(frozen=True)
class Method:
    """A strategy, its cut and its keys."""

    strategy: str
    cut: str | None = None
    keys: tuple[tuple[str, object], ...] = ()

    def __str__(self) -> str:
        keys = (f"{key} {value}" for key, value in self.keys)
        return " ".join([self.strategy, *filter(None, [self.cut]), *keys])

    def spec(self, csv, data=None, **settings):
        """Return a run on a CSV file; ``data`` holds keys of the data table, the rest is as for ``run_spec``."""
        spec = run_spec(csv, self.strategy, self.cut, **settings)
        spec = changed(spec, "strategy", **dict(self.keys))
        return changed(spec, "data", **(data or {}))


def changed(spec, table, **keys):
    """Return a run with other values in one of its tables."""
    return spec.model_copy(update={table: getattr(spec, table).model_copy(update=keys)})


_MINI_BATCH = (("alternate", "mini-batch"),)
PERSONAL = (Method("fedavg-finetuned"), Method("fedavg-own-head"))
"""Their model is federated averaging's; what clinics make of it is their own."""
UNCUT = (
    Method("centralised"),
    Method("local"),
    Method("fedavg"),
    *PERSONAL,
    Method("fedprox", None, (("proximal_mu", 0.7),)),
)
CUT = tuple(
    Method(strategy, cut, keys)
    for strategy, keys in (
        ("split", ()),
        ("split", _MINI_BATCH),
        ("splitfed-v1", ()),
        ("splitfed-v2", ()),
        ("splitfed-v2", _MINI_BATCH),
        ("splitfed-v3", ()),
    )
    for cut in CLINIC_PARTS
)
METHODS = UNCUT + CUT


def expected(spec, plan, federation, twin_of=None, lost=None, stopped=None, made_by=SplitTwin) -> State:
    """Return the twin's parameters, with a leading axis as the simulator has it."""
    twin = made_by(spec, federation, plan.noise_multipliers, lost or {}, stopped or {}, plan.spec.digest)
    if not spec.train.rounds:
        return {name: value[None] for name, value in twin.initial().items()}
    state = (twin_of or TWINS[spec.strategy.name])(twin)
    return state if spec.strategy.name in OWN_MODELS else {name: value[None] for name, value in state.items()}


def apart(a: State, b: State) -> float:
    """Return the largest difference of two sets of parameters; parameters are of order one."""
    assert a.keys() == b.keys()
    assert all(a[name].shape == b[name].shape for name in a)
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def rounding(spec) -> float:
    """Return how far apart runs may be that differ in rounding alone.

    Noised sums lie on a grid, and two that differ in the last bit may land on neighbouring points of it.
    """
    return 1e-6 if spec.privacy.mechanism == "none" else 1e-4


def gap(spec, twin_of=None) -> float:
    """Return how far the simulator is from the twin."""
    plan, federation = plan_of(spec)
    return apart(train_run(plan, federation).parameters, expected(spec, plan, federation, twin_of))
