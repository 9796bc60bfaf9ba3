"""The usual way to write each algorithm: a model, optimisers, and a plain PyTorch loop over clinics and batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn

Clinic = tuple[Tensor, Tensor]
Run = Callable[[int], None]


def batches(clinic: Clinic, size: int) -> Iterator[Clinic]:
    """Yield a clinic's records in a new random order."""
    x, y = clinic
    for index in torch.randperm(len(y)).split(size):
        yield x[index], y[index]


def averaged(models: list[nn.Module], weights: list[float]) -> dict[str, Tensor]:
    """Return the weighted average of the models' parameters."""
    states = [model.state_dict() for model in models]
    return {name: sum(w * s[name] for w, s in zip(weights, states, strict=True)) for name in states[0]}  # type: ignore[misc]


def fedavg(head: nn.Module, body: nn.Module, clinics: list[Clinic], size: int, rate: float) -> Run:
    """Federated averaging: the whole model, clinic by clinic."""
    model, local = nn.Sequential(head, body), nn.Sequential(deepcopy(head), deepcopy(body))
    loss_fn = nn.CrossEntropyLoss()
    records = sum(len(y) for _, y in clinics)

    def run(rounds: int) -> None:
        for _ in range(rounds):
            total = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
            for clinic in clinics:
                local.load_state_dict(model.state_dict())
                optimizer = torch.optim.SGD(local.parameters(), rate)
                for x, y in batches(clinic, size):
                    optimizer.zero_grad()
                    loss_fn(local(x), y).backward()
                    optimizer.step()
                for name, value in local.state_dict().items():
                    total[name] += value * (len(clinic[1]) / records)
            model.load_state_dict(total)

    return run


def split_step(
    head: nn.Module, body: nn.Module, optimizers: tuple[torch.optim.Optimizer, ...], x: Tensor, y: Tensor
) -> None:
    """Do one batch of vanilla split learning."""
    for optimizer in optimizers:
        optimizer.zero_grad()
    smashed = head(x)
    received = smashed.detach().requires_grad_()
    nn.functional.cross_entropy(body(received), y).backward()
    smashed.backward(received.grad)
    for optimizer in optimizers:
        optimizer.step()


def relay(head: nn.Module, body: nn.Module, clinics: list[Clinic], size: int, rate: float) -> Run:
    """Split learning by relay: one head handed from clinic to clinic."""
    optimizers = torch.optim.SGD(head.parameters(), rate), torch.optim.SGD(body.parameters(), rate)

    def run(rounds: int) -> None:
        for _ in range(rounds):
            for clinic in clinics:
                for x, y in batches(clinic, size):
                    split_step(head, body, optimizers, x, y)

    return run


def splitfed_v1(head: nn.Module, body: nn.Module, clinics: list[Clinic], size: int, rate: float) -> Run:
    """SplitFed V1: a copy of head and body a clinic, all averaged."""
    heads, bodies = [deepcopy(head) for _ in clinics], [deepcopy(body) for _ in clinics]
    weights = [len(y) / sum(len(y) for _, y in clinics) for _, y in clinics]

    def run(rounds: int) -> None:
        for _ in range(rounds):
            for own_head, own_body, clinic in zip(heads, bodies, clinics, strict=True):
                optimizers = torch.optim.SGD(own_head.parameters(), rate), torch.optim.SGD(own_body.parameters(), rate)
                for x, y in batches(clinic, size):
                    split_step(own_head, own_body, optimizers, x, y)
            for models in (heads, bodies):
                shared = averaged(models, weights)
                for model in models:
                    model.load_state_dict(shared)

    return run


def splitfed_v2(head: nn.Module, body: nn.Module, clinics: list[Clinic], size: int, rate: float) -> Run:
    """SplitFed V2: a head a clinic, averaged; one body."""
    heads = [deepcopy(head) for _ in clinics]
    server = torch.optim.SGD(body.parameters(), rate)
    weights = [len(y) / sum(len(y) for _, y in clinics) for _, y in clinics]

    def run(rounds: int) -> None:
        for _ in range(rounds):
            for own_head, clinic in zip(heads, clinics, strict=True):
                optimizers = torch.optim.SGD(own_head.parameters(), rate), server
                for x, y in batches(clinic, size):
                    split_step(own_head, body, optimizers, x, y)
            shared = averaged(heads, weights)
            for model in (head, *heads):
                model.load_state_dict(shared)

    return run


def splitfed_v3(head: nn.Module, body: nn.Module, clinics: list[Clinic], size: int, rate: float) -> Run:
    """SplitFed V3: an own head a clinic; a body copy a clinic, averaged."""
    heads, bodies = [deepcopy(head) for _ in clinics], [deepcopy(body) for _ in clinics]
    weights = [len(y) / sum(len(y) for _, y in clinics) for _, y in clinics]

    def run(rounds: int) -> None:
        for _ in range(rounds):
            for own_head, own_body, clinic in zip(heads, bodies, clinics, strict=True):
                optimizers = torch.optim.SGD(own_head.parameters(), rate), torch.optim.SGD(own_body.parameters(), rate)
                for x, y in batches(clinic, size):
                    split_step(own_head, own_body, optimizers, x, y)
            shared = averaged(bodies, weights)
            for model in bodies:
                model.load_state_dict(shared)

    return run


def opacus(model: nn.Module, clinics: list[Clinic], size: int, rate: float, clip: float, noise: float) -> Run:
    """Federated averaging of Poisson batches with Opacus: one model wrapped once, an optimiser a clinic and round."""
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    local = GradSampleModule(model)
    records = sum(len(y) for _, y in clinics)

    def run(rounds: int) -> None:
        for _ in range(rounds):
            shared = {name: value.clone() for name, value in local.state_dict().items()}
            total = {name: torch.zeros_like(value) for name, value in shared.items()}
            for x, y in clinics:
                local.load_state_dict(shared)
                inner = torch.optim.SGD(local.parameters(), rate)
                optimizer = DPOptimizer(inner, noise_multiplier=noise, max_grad_norm=clip, expected_batch_size=size)
                for _ in range(-(-len(y) // size)):
                    drawn = torch.rand(len(y)) < size / len(y)
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(local(x[drawn]), y[drawn]).backward()
                    optimizer.step()
                for name, value in local.state_dict().items():
                    total[name] += value * (len(y) / records)
            local.load_state_dict(total)

    return run


LOOPS = {
    "fedavg": fedavg,
    "splitfed-v1": splitfed_v1,
    "splitfed-v3": splitfed_v3,
    "split": relay,
    "splitfed-v2": splitfed_v2,
}
