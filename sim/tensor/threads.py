"""How many threads a process computes with."""

import os

import torch
from threadpoolctl import threadpool_limits


def one_thread() -> None:
    """Keep this process to one thread, linear algebra too: threads of several runs would wait for each other."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # SciPy's own library of linear algebra reads it when it is loaded
    torch.set_num_threads(1)
    threadpool_limits(1, user_api="blas")
