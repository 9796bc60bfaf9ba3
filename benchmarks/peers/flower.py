"""Flower's FedAvg in its own simulation on Ray, one processor a client, evaluated at the server."""

import logging
import os
import sys

os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import nn

from benchmarks.loops import batches
from benchmarks.peers.job import BATCH, RATE, load
from benchmarks.peers.torch_model import at_worker, build_model

arguments = tuple(sys.argv[1:4])
job = load(*arguments)
server_app, client_app = ServerApp(), ClientApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    model, clinics = at_worker(*arguments)
    clinic = clinics[context.node_config["partition-id"]]
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    for x, y in batches(clinic, BATCH):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    metrics = MetricRecord({"num-examples": len(clinic[1])})
    return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    model, held_out = nn.Sequential(*build_model(job)), torch.from_numpy(job.x)

    def evaluate(server_round: int, arrays: ArrayRecord) -> None:
        if server_round:
            model.load_state_dict(arrays.to_torch_state_dict())
            with torch.no_grad():
                job.end_round(model(held_out).numpy())

    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=len(job.clinics), min_available_nodes=len(job.clinics))
    strategy.start(grid, ArrayRecord(model.state_dict()), job.rounds, evaluate_fn=evaluate)


logging.getLogger("flwr").setLevel(logging.ERROR)
run_simulation(server_app, client_app, len(job.clinics), backend_config={"client_resources": {"num_cpus": 1}})
job.tell(["flwr", "ray", "torch"])
