"""What a process that trains asks of its threads and its memory."""

import ctypes
import os
import sys

from threadpoolctl import threadpool_limits

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's ``mallopt``
_KEPT, _LARGE = 2**30, 2**28


def ready_to_train() -> None:
    """Keep this process to one thread, linear algebra too, and keep most of the memory that it frees.

    Threads of several runs would wait for each other. A round needs as much memory as the last one: what goes back to
    the kernel comes again page by page, each of them cleared, which for ten models of ResNet-18 takes a quarter of a
    round. Blocks of more than 256 MiB still go back at once, and so does what is free at the end beyond 1 GiB.
    """
    import torch

    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # SciPy's own library of linear algebra reads it when it is loaded
    torch.set_num_threads(1)
    threadpool_limits(1, user_api="blas")
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
        for threshold, size in ((_MMAP_THRESHOLD, _LARGE), (_TRIM_THRESHOLD, _KEPT)):
            ctypes.CDLL(None).mallopt(threshold, size)
