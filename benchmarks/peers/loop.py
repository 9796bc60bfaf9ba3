"""The ordinary loop of ``benchmarks.loops``; with Opacus for DP-SGD."""

import warnings

import torch
from torch import nn

from benchmarks.loops import LOOPS, opacus
from benchmarks.peers.job import BATCH, CLIP, NOISE, RATE, from_command_line
from benchmarks.peers.torch_model import build_model, clinics_of, run_with_evaluation

warnings.filterwarnings("ignore", "Full backward hook is firing")
torch.set_num_threads(1)
job = from_command_line()
head, body = build_model(job)
model = nn.Sequential(head, body)
if job.algorithm == "dp-sgd":
    run = opacus(model, clinics_of(job), BATCH, RATE, CLIP, NOISE)
else:
    run = LOOPS[job.algorithm](head, body, clinics_of(job), BATCH, RATE)
run_with_evaluation(job, model, lambda: run(1))
job.tell(["torch", *(["opacus"] if job.algorithm == "dp-sgd" else [])])
