"""FedJAX's own federated averaging, one client after another through its compiled step (its default)."""

import jax
from fedjax import ClientDataset, ShuffleRepeatBatchHParams, optimizers
from fedjax.algorithms import fed_avg
from jax import numpy as jnp

from benchmarks.peers.job import BATCH, RATE, from_command_line

jax.tree_map = jax.tree_util.tree_map  # FedJAX's last release uses a name that JAX has since removed
job = from_command_line()
clients = [(str(number), ClientDataset({"x": x, "y": y})) for number, (x, y) in enumerate(job.clinics)]


def outputs(params: list, x: jax.Array) -> jax.Array:
    *hidden, (weight, bias) = zip(params[::2], params[1::2], strict=True)
    for w, b in hidden:
        x = jax.nn.relu(x @ w.T + b)
    return x @ weight.T + bias


def loss(params: list, batch: dict, rng: jax.Array) -> jax.Array:
    logs = jax.nn.log_softmax(outputs(params, batch["x"]))
    return -jnp.take_along_axis(logs, batch["y"][:, None], 1).mean()


algorithm = fed_avg.federated_averaging(
    jax.grad(loss), optimizers.sgd(RATE), optimizers.sgd(1.0), ShuffleRepeatBatchHParams(batch_size=BATCH)
)
state = algorithm.init([jnp.array(value) for value in job.initial])
evaluate, keys = jax.jit(outputs), jax.random.split(jax.random.PRNGKey(0), job.rounds)
for key in keys:
    drawn = jax.random.split(key, len(clients))
    state, _ = algorithm.apply(state, [(*client, rng) for client, rng in zip(clients, drawn, strict=True)])
    job.end_round(jax.device_get(evaluate(state.params, job.x)))
job.tell(["fedjax", "jax"])
