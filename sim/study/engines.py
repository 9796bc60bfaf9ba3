"""Where the runs of a study are executed: in this process, in worker processes, or as Ray tasks.

A run's numbers depend on its spec alone, so that the engines differ in nothing but time. Each yields the runs' rows as
they end; to close the iterator early leaves out the runs that have not begun.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Lock
from typing import TYPE_CHECKING, Any, Protocol

from sim.foundation.ahead import drawing_ahead
from sim.foundation.problems import ScenarioError, SutureError, show
from sim.plan.plan import Plan
from sim.tensor.process import ready_to_train

if TYPE_CHECKING:
    from sim.flower.actors import ActorHosts, Hosts

Row = dict[str, Any]
Execute = Callable[[Sequence[Plan]], Iterator[Row]]
"""Executes a group of runs, and yields each one's row when it ends."""


class WorkerDiedError(SutureError, RuntimeError):
    """A worker process was ended from outside; what had finished is kept."""


WORKER_DIED = (
    "a worker process was killed from outside (out of memory?); what had finished is kept, "
    "and the same command resumes, with fewer --jobs if memory is short"
)


_HOST = re.compile(r"(ray://)?(?P<host>\[[0-9A-Fa-f:]+\]|[^\s:/\[\]]+):(?P<port>\d{1,5})")
_CONNECT_SECONDS, _JOIN_SECONDS, _LOOK_SECONDS = 5, 60, 0.5
_JOIN = "import logging, sys, ray; ray.init(sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)"


class Engine(Protocol):
    """Executes runs."""

    @property
    def jobs(self) -> int:
        """How many runs are executed at a time."""
        ...

    @property
    def hosts(self) -> Hosts | None:
        """Where the clinics of its runs are, if not in the process of the run."""
        ...

    def run(self, execute: Execute, groups: Sequence[Sequence[Plan]]) -> Generator[Row]:
        """Execute groups of runs, begun in the order given, and yield each run's row when it ends."""
        ...


@dataclass(frozen=True)
class InProcess:
    """One run after another, in this process."""

    jobs: int = 1
    hosts: None = None

    def run(self, execute: Execute, groups: Sequence[Sequence[Plan]]) -> Generator[Row]:
        """See :meth:`Engine.run`."""
        ready_to_train()
        with _noise_drawn_ahead(1):
            for group in groups:
                yield from execute(group)


@dataclass(frozen=True)
class Workers:
    """Processes of one thread each, but for noise that is drawn ahead, which stay for the whole study.

    Attributes
    ----------
    jobs : int
    """

    jobs: int
    hosts: None = None

    def run(self, execute: Execute, groups: Sequence[Sequence[Plan]]) -> Generator[Row]:
        """See :meth:`Engine.run`.

        Raises
        ------
        WorkerDiedError
            If a worker was killed.
        """
        if len(groups) < 2:  # a process of its own would only cost its start
            yield from InProcess().run(execute, groups)
            return
        context = multiprocessing.get_context("spawn")
        told, telling = context.Pipe(duplex=False)
        others = multiprocessing.active_children()
        workers = min(self.jobs, len(groups))
        pool = ProcessPoolExecutor(
            workers, mp_context=context, initializer=_begin_worker, initargs=(telling, context.Lock())
        )
        try:
            with _interrupts_held():
                going = {pool.submit(_tell_rows, execute, group, workers) for group in groups}
            while going:
                done = {future for future in going if future.done()}
                while told.poll(0.0 if done else _LOOK_SECONDS):
                    yield told.recv()
                for future in done:
                    future.result()
                going -= done
        except BrokenProcessPool:
            raise WorkerDiedError(WORKER_DIED) from None
        except (KeyboardInterrupt, GeneratorExit):
            for process in set(multiprocessing.active_children()).difference(others):
                process.terminate()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class RayCluster:
    """A Ray cluster, whose machines all see the results folder and the data.

    Attributes
    ----------
    address : str or None
        Of a running cluster; without it that in the environment variable ``RAY_ADDRESS``, and without that one is
        started on this machine for as long as the study runs.
    processors : int
        Of the cluster that is started.
    """

    address: str | None
    processors: int

    @property
    def cluster(self) -> str | None:
        """Address of the running cluster; None where one is started."""
        address = self.address or os.environ.get("RAY_ADDRESS") or "local"
        return None if address == "local" else address

    def reach(self) -> None:
        """Try to join the cluster, in a process of its own: Ray itself waits for minutes, and cannot be interrupted.

        Raises
        ------
        ScenarioError
            If there is no cluster that answers.
        """
        if self.cluster is None:
            return
        place = "--ray-address" if self.address else "RAY_ADDRESS"
        try:
            if match := _HOST.fullmatch(self.cluster):
                socket.create_connection((match["host"].strip("[]"), int(match["port"])), _CONNECT_SECONDS).close()
            elif self.cluster != "auto":
                raise ScenarioError([f"{place}: {show(self.cluster)} is no address; give one such as 10.0.0.1:6379"])
            words = [sys.executable, "-c", _JOIN, self.cluster]
            subprocess.run(words, check=True, capture_output=True, timeout=_JOIN_SECONDS)  # noqa: S603
        except (OSError, OverflowError, UnicodeError, subprocess.SubprocessError):
            raise ScenarioError(
                [f"{place}: no Ray cluster answers at {show(self.cluster)}; check the address, and that it runs"]
            ) from None

    @contextmanager
    def joined(self) -> Iterator[Any]:
        """Join the cluster, and yield Ray.

        Raises
        ------
        SutureError
            If Ray is not installed or its cluster not to be reached.
        WorkerDiedError
            If a task's process was killed.
        """
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
        try:
            import ray
        except ImportError:
            raise SutureError("--engine ray needs Ray, which is not installed; install suture[ray]") from None
        size: dict[str, Any] = {} if self.cluster else {"num_cpus": self.processors, "include_dashboard": False}
        try:
            ray.init(address=self.cluster or "local", log_to_driver=False, logging_level=logging.ERROR, **size)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise SutureError(f"--ray-address: {error}; check the address of the cluster") from None
        try:
            yield ray
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
            raise WorkerDiedError(WORKER_DIED) from None
        finally:
            ray.shutdown()


@dataclass(frozen=True)
class RayTasks:
    """Tasks of one processor each on a Ray cluster.

    Attributes
    ----------
    cluster : RayCluster
    jobs : int
    """

    cluster: RayCluster
    jobs: int
    hosts: None = None

    def run(self, execute: Execute, groups: Sequence[Sequence[Plan]]) -> Generator[Row]:
        """See :meth:`Engine.run`; raises as :meth:`RayCluster.joined`."""
        with self.cluster.joined() as ray:
            # A run that fails is a row; a process that dies is not tried again behind the user's back.
            task = ray.remote(num_cpus=1, max_retries=0)(_in_task)
            waiting = [task.remote(execute, group) for group in groups]
            while waiting:
                done, waiting = ray.wait(waiting)
                yield from ray.get(done[0])


@dataclass(frozen=True)
class RayActors:
    """One run after another in this process, whose clinics are in actors of one processor each on a Ray cluster.

    Attributes
    ----------
    cluster : RayCluster
    hosts : ActorHosts
    """

    cluster: RayCluster
    hosts: ActorHosts
    jobs: int = 1

    def run(self, execute: Execute, groups: Sequence[Sequence[Plan]]) -> Generator[Row]:
        """See :meth:`Engine.run`; raises as :meth:`RayCluster.joined`."""
        with self.cluster.joined():
            for group in groups:
                for plan in group:
                    yield from InProcess().run(execute, [[plan]])


def _in_task(execute: Execute, group: Sequence[Plan]) -> list[Row]:
    ready_to_train()
    return list(execute(group))


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back for a moment here, and for good in the processes begun meanwhile: this one ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_tell: Callable[[Row], None]


def _begin_worker(telling: Connection, one_at_a_time: Lock) -> None:
    global _tell

    def tell(row: Row) -> None:
        with one_at_a_time:
            telling.send(row)

    _tell = tell
    ready_to_train()
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _tell_rows(execute: Execute, group: Sequence[Plan], workers: int) -> None:
    with _noise_drawn_ahead(workers):
        for row in execute(group):
            _tell(row)


def _noise_drawn_ahead(processes: int) -> AbstractContextManager[None]:
    """Give this process a second thread, if each of so many has a second processor for it."""
    return drawing_ahead() if 2 * processes <= default_jobs() else nullcontext()


def _end_with(parent: int) -> None:
    """End this worker soon after its parent has died."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def default_jobs() -> int:
    """Return the number of processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
