"""A lean loop: ``autograd.grad``, ``foreach`` updates, records shuffled once a clinic and round."""

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.peers.job import BATCH, RATE, from_command_line
from benchmarks.peers.torch_model import build_model, clinics_of, run_with_evaluation

torch.set_num_threads(1)
job = from_command_line()
clinics = clinics_of(job)
weights = [len(y) / sum(len(y) for _, y in clinics) for _, y in clinics]
head, body = build_model(job)


def batches(x: Tensor, y: Tensor) -> zip:
    order = torch.randperm(len(y))
    return zip(x[order].split(BATCH), y[order].split(BATCH), strict=True)


def move(values: list[Tensor], gradients: tuple[Tensor, ...]) -> None:
    with torch.no_grad():
        torch._foreach_add_(values, gradients, alpha=-RATE)


def split_steps(head: nn.Module, head_values: list[Tensor], x: Tensor, y: Tensor) -> None:
    """Train head and body on a clinic's batches, vanilla cut."""
    for features, labels in batches(x, y):
        smashed = head(features)
        received = smashed.detach().requires_grad_()
        *of_body, of_cut = torch.autograd.grad(cross_entropy(body(received), labels), [*body_values, received])
        of_head = torch.autograd.grad(smashed, head_values, of_cut)
        move(head_values + body_values, (*of_head, *of_body))


def averaged(shared: list[Tensor], local: list[Tensor], train: Callable[[Tensor, Tensor], None]) -> None:
    """Train from the shared values at each clinic, and average what comes of them into the shared ones."""
    with torch.no_grad():
        total = torch._foreach_mul(shared, 0.0)
    for (x, y), weight in zip(clinics, weights, strict=True):
        with torch.no_grad():
            torch._foreach_copy_(local, shared)
        train(x, y)
        with torch.no_grad():
            torch._foreach_add_(total, local, alpha=weight)
    with torch.no_grad():
        torch._foreach_copy_(shared, total)


body_values = list(body.parameters())
local_head = deepcopy(head)
local_head_values = list(local_head.parameters())


def fedavg() -> None:
    def train(x: Tensor, y: Tensor) -> None:
        for features, labels in batches(x, y):
            move(local_values, torch.autograd.grad(cross_entropy(local(features), labels), local_values))

    averaged(list(model.parameters()), local_values, train)


def relay() -> None:
    for x, y in clinics:
        split_steps(head, head_values, x, y)


def splitfed_v2() -> None:
    averaged(head_values, local_head_values, lambda x, y: split_steps(local_head, local_head_values, x, y))


head_values = list(head.parameters())
model = nn.Sequential(*head, *body)
local = deepcopy(model)
local_values = list(local.parameters())
run_with_evaluation(job, model, {"fedavg": fedavg, "split": relay, "splitfed-v2": splitfed_v2}[job.algorithm])
job.tell(["torch"])
