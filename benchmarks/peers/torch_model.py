"""The job's model and records in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from benchmarks.peers.job import Job, load


def build_model(job: Job) -> tuple[nn.Module, nn.Module]:
    """Return head and body with the job's initial values: an MLP for tables, a small CNN for images."""
    if job.x.ndim == 2:
        head = nn.Sequential(nn.Linear(30, 64), nn.ReLU())
        body = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2))
    else:
        head = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.MaxPool2d(2), nn.ReLU())
        second = nn.Conv2d(8, 16, 3, padding=1), nn.GroupNorm(8, 16), nn.MaxPool2d(2), nn.ReLU()
        body = nn.Sequential(*second, nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 2))
    with torch.no_grad():
        for parameter, value in zip([*head.parameters(), *body.parameters()], job.initial, strict=True):
            parameter.copy_(torch.from_numpy(value))
    return head, body


def clinics_of(job: Job) -> list[tuple[Tensor, Tensor]]:
    """Return the clinics' records as tensors."""
    return [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in job.clinics]


def run_with_evaluation(job: Job, model: nn.Module, one_round: Callable[[], None]) -> None:
    """Do all rounds, and evaluate the model after each."""
    held_out = torch.from_numpy(job.x)
    for _ in range(job.rounds):
        one_round()
        with torch.no_grad():
            job.end_round(model(held_out).numpy())


@cache
def at_worker(*arguments: str) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """Return the model and the clinics' records of a job, made once in a worker process."""
    torch.set_num_threads(1)
    job = load(*arguments)
    return nn.Sequential(*build_model(job)), clinics_of(job)
