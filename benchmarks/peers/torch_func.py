"""A page of ``torch.func``: all clinics' federated averaging as one ``vmap``, batches padded and masked."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from benchmarks.peers.job import BATCH, RATE, from_command_line
from benchmarks.peers.torch_model import build_model, run_with_evaluation

torch.set_num_threads(1)
job = from_command_line()
model = nn.Sequential(*(layer for part in build_model(job) for layer in part))
sizes = np.array([len(y) for _, y in job.clinics])
x = torch.from_numpy(np.concatenate([x for x, _ in job.clinics]))
y = torch.from_numpy(np.concatenate([y for _, y in job.clinics]))
first = np.cumsum(sizes) - sizes
steps = -(-sizes.max() // BATCH)
place = np.arange(steps * BATCH)
real = place < sizes[:, None]
in_batch = np.clip(sizes[:, None] - place // BATCH * BATCH, 1, BATCH)
mask = torch.from_numpy((real / in_batch).astype(np.float32)).view(-1, steps, BATCH)
share = torch.from_numpy((sizes / sizes.sum()).astype(np.float32))
rng = np.random.default_rng(0)


def loss(values: dict[str, Tensor], x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    return cross_entropy(functional_call(model, values, x), y, reduction="none") @ weight


gradients = vmap(grad(loss))


@torch.no_grad()
def one_round() -> None:
    keys = rng.random(real.shape)
    keys[~real] = 2  # padding stands last
    order = np.where(real, keys.argsort(1), 0) + first[:, None]
    index = torch.from_numpy(order).view(-1, steps, BATCH)
    values = {name: value.detach().expand(len(sizes), *value.shape) for name, value in model.named_parameters()}
    for step in range(steps):
        found = gradients(values, x[index[:, step]], y[index[:, step]], mask[:, step])
        values = {name: value - RATE * found[name] for name, value in values.items()}
    for name, value in model.named_parameters():
        value.copy_(torch.tensordot(share, values[name], 1))


run_with_evaluation(job, model, one_round)
job.tell(["torch"])
