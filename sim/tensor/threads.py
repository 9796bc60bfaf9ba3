"""How many threads a process computes with."""

import torch
from threadpoolctl import threadpool_limits


def one_thread() -> None:
    """Keep this process to one thread, linear algebra too: threads of several runs would wait for each other."""
    import scipy.linalg  # noqa: F401 - its own library of linear algebra can be limited only once it is there

    torch.set_num_threads(1)
    threadpool_limits(1, user_api="blas")
