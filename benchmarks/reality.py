"""The clock against a real network: measured seconds a round over shaped TCP lines, beside what the plan says.

    sudo .venv/bin/python -m benchmarks.reality                   # four settings, every method; about ten minutes
    sudo .venv/bin/python -m benchmarks.reality --settings fcc-benchmark --rounds 3

Needs root and iproute2 for the network namespaces (``benchmarks.netns``); elsewhere it says why and ends. The server
and three clinics are processes in namespaces of their own (``benchmarks.parties``): they do the real computation with
Suture's own parts, and send the real payloads and, for the rest of each message, HEADER_BYTES.

Nothing is fitted. The lines have the rates and latencies of the named profiles. The FLOP/s of clinics and server, for
each method, come from rehearsed rounds without a network, before the measured ones. The clock is ``make_plan``'s.
"""

from __future__ import annotations

import argparse
import multiprocessing
import queue
import signal
import socket
import statistics
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import netns
from benchmarks.parties import Rehearsal, Server, clinic_rounds
from sim.data.federation import Federation, load_federation
from sim.methods.job import Job
from sim.methods.protocol import HEADER_BYTES
from sim.plan.plan import Plan, make_plan
from sim.scenario import parse_scenario
from sim.scenario.clinics import PROFILES, ClinicResources
from sim.scenario.spec import RunSpec, expand

METHODS: tuple[tuple[str, str | None], ...] = (
    ("fedavg", None),
    *((name, cut) for name in ("split", "splitfed-v1", "splitfed-v2") for cut in ("vanilla", "u-shaped")),
)
SETTINGS: dict[str, tuple[str, str, str]] = {
    "rural-dsl": ("rural-dsl",) * 3,
    "legacy-broadband": ("legacy-broadband",) * 3,
    "fcc-benchmark": ("fcc-benchmark",) * 3,
    "mixed": ("rural-dsl", "legacy-broadband", "fcc-benchmark"),
}
"""Profiles of the three clinics: 10/1, 25/3 and 100/20 Mbit/s with 25, 20 and 10 ms each way, and one of each."""
PAYLOAD_SHARE = netns.SEGMENT / netns.FRAME
"""Of a line's stated rate, what Ethernet, IP and TCP leave: 0.956."""
RECORDS = (64, 43, 22)
STOP = -1
_HEADER = struct.Struct("<qqq")  # round, bytes that follow, bytes of zeros asked for in a trial of the line


@dataclass(frozen=True)
class Outcome:
    """One method in one setting.

    Attributes
    ----------
    measured, stated, framed : list of float
        Seconds, round by round: measured; the clock's with the lines' stated rates; the clock's with the share of them
        that is left for payload.
    computing : float
        Share of computation in the clock's phases.
    trials : dict of str to list of float
        By direction, ``[clinic]`` how much longer a long message took than the clock says, stated rates, 0.01 for 1 %.
    """

    measured: list[float]
    stated: list[float]
    framed: list[float]
    computing: float
    trials: dict[str, list[float]]

    def error(self, clock: Sequence[float]) -> float:
        """Return the median over rounds of measured / clock - 1."""
        return statistics.median(m / c - 1 for m, c in zip(self.measured, clock, strict=True))


def spec_for(
    npz: Path, method: tuple[str, str | None], clinics: Sequence[ClinicResources], server_flop_per_s: float, rounds: int
) -> RunSpec:
    """Return the run of a method on clinics ``0``, ``1``, ``2`` with these resources."""
    strategy, cut = method
    groups: list[dict[str, Any]] = [
        {
            "sites": [str(k)],
            "uplink": f"{clinic.uplink_bits_per_s!r} bit/s",
            "downlink": f"{clinic.downlink_bits_per_s!r} bit/s",
            "latency": f"{clinic.latency_s!r} s",
            "compute": f"{clinic.compute_flop_per_s!r} FLOP/s",
        }
        for k, clinic in enumerate(clinics)
    ]
    mapping = {
        "name": "reality",
        "seeds": [0],
        "data": {
            "source": "npz",
            "path": str(npz),
            "x": "x",
            "label": "y",
            "clinic": "clinic",
            "test-share": 0.25,
        },
        "model": {"name": "cnn", "channels": [8, 32], "cut": [1, -1] if cut == "u-shaped" else 1},
        "train": {"rounds": rounds, "batch-size": 16, "optimizer": "momentum", "learning-rate": 0.01},
        "server": {"compute": f"{server_flop_per_s!r} FLOP/s", "workers": 1},
        "clinics": groups,
        "evaluation": {"reference": False},
        "strategies": [{"name": strategy} | ({"cut": cut} if cut else {})],
    }
    [spec] = expand(parse_scenario(mapping, npz.parent))
    return spec


def write_images(path: Path, records: Sequence[int] = RECORDS) -> Path:
    """Write random images of 28 x 28 for clinics with so many records each, a quarter of them for testing."""
    rng = np.random.default_rng(0)
    clinic = np.repeat(np.arange(len(records)), records)
    x = rng.integers(0, 256, (len(clinic), 28, 28), dtype=np.uint8)
    np.savez(path, x=x, y=np.arange(len(clinic)) % 2, clinic=clinic)
    return path


def rehearse(job: Job, federation: Federation, rounds: int) -> Rehearsal:
    """Do some rounds in this process, without a network."""
    rehearsal = Rehearsal(job, federation.train)
    for server_round in range(1, rounds + 1):
        rehearsal.train(server_round)
    return rehearsal


def calibrated(
    npz: Path, method: tuple[str, str | None], profiles: Sequence[str]
) -> tuple[list[ClinicResources], float]:
    """Return the clinics and the server's FLOP/s, as measured here: what the plan counts over what it took."""
    lines = [PROFILES[name] for name in profiles]
    spec = spec_for(npz, method, lines, 1e12, rounds=12)
    federation = load_federation(spec.data, spec.seed)
    plan = make_plan(spec, federation.facts)
    done = rehearse(Job.build(spec, federation.facts), federation, 12)
    clinic_s, server_s = (statistics.median(each[2:]) for each in (done.clinic_seconds, done.server_seconds))
    rate = plan.clinic_flops / 12 / clinic_s
    return [replace(line, compute_flop_per_s=rate) for line in lines], plan.server_flops / 12 / server_s


def predicted(plan: Plan) -> tuple[list[float], float]:
    """Return the clock's seconds, round by round, and the share of computation in all phases."""
    phases = plan.phase_seconds
    computing = sum(seconds for phase, seconds in phases.items() if phase in ("clinic", "server"))
    return list(plan.round_seconds), computing / sum(phases.values())


class Sockets:
    """Carries messages between the server's process and the clinics'.

    Parameters
    ----------
    lines : dict of int to socket
        By clinic.
    """

    def __init__(self, lines: dict[int, socket.socket]) -> None:
        self._lines = lines
        self._came: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        self._waiting: list[tuple[int, bytes]] = []
        for k, line in lines.items():
            threading.Thread(target=self._read, args=(k, line), daemon=True).start()

    def send(self, clinic: int, server_round: int, message: bytes, wanted: int = 0) -> None:
        """Send a message down."""
        send(self._lines[clinic], server_round, message, wanted)

    def receive(self, clinic: int | None = None) -> tuple[int, bytes]:
        """Wait for a clinic's message, or for the first that comes."""
        while True:
            found = next((came for came in self._waiting if clinic in (None, came[0])), None)
            if found is not None:
                self._waiting.remove(found)
                return found
            self._waiting.append(self._came.get())

    def _read(self, k: int, line: socket.socket) -> None:
        while (came := receive(line)) is not None:
            self._came.put((k, came[1]))


def send(line: socket.socket, server_round: int, message: bytes, wanted: int = 0) -> None:
    """Send HEADER_BYTES and the message."""
    line.sendall(_HEADER.pack(server_round, len(message), wanted).ljust(HEADER_BYTES, b"\0") + message)


def receive(line: socket.socket) -> tuple[int, bytes, int] | None:
    """Return round, message and the bytes asked for; None at the end."""
    head = _exactly(line, HEADER_BYTES)
    if head is None:
        return None
    server_round, length, wanted = _HEADER.unpack_from(head)
    return server_round, _exactly(line, length) or b"", wanted


def _exactly(line: socket.socket, length: int) -> bytes | None:
    held = bytearray(length)
    view = memoryview(held)
    while view:
        count = line.recv_into(view)
        if not count:
            return None
        view = view[count:]
    return bytes(held)


def clinic_process(lines: netns.Lines, k: int, job: Job, federation: Federation) -> None:
    """Answer the server until it says stop."""
    netns.enter(lines.clinic(k))
    rounds = clinic_rounds(job, federation.train, k)
    next(rounds)
    with netns.connect(f"10.77.{k}.1") as line:
        while (came := receive(line)) is not None and came[0] != STOP:
            server_round, message, wanted = came
            send(line, server_round, bytes(wanted) if server_round == 0 else rounds.send((server_round, message)))


def server_process(lines: netns.Lines, job: Job, clinics: Sequence[ClinicResources], results: Connection) -> None:
    """Try the lines, do a round to warm up and then the rounds that count."""
    netns.enter(lines.server)
    sockets: dict[int, socket.socket] = {}
    with netns.listen() as door:
        while len(sockets) < len(clinics):
            line, (address, _) = door.accept()
            sockets[int(address.split(".")[2])] = netns.at_once(line)
    carrier = Sockets(dict(sorted(sockets.items())))
    trials = {way: [_trial(carrier, k, clinic, way) for k, clinic in enumerate(clinics)] for way in ("down", "up")}
    Server(job).train(1, carrier)
    server, seconds = Server(job), []
    for server_round in range(1, job.spec.train.rounds + 1):
        start = time.monotonic()
        server.train(server_round, carrier)
        seconds.append(time.monotonic() - start)
    for k in sockets:
        carrier.send(k, STOP, b"")
    results.send((seconds, trials))


def _trial(carrier: Sockets, k: int, clinic: ClinicResources, direction: str) -> float:
    """Return how much longer than the clock says a message of two seconds takes, there and back."""
    rate = clinic.downlink_bits_per_s if direction == "down" else clinic.uplink_bits_per_s
    size = int(rate / 4)
    down, up = (size, 0) if direction == "down" else (0, size)
    start = time.monotonic()
    carrier.send(k, 0, bytes(down), up)
    carrier.receive(k)
    took = time.monotonic() - start
    expected = 2 * clinic.latency_s + 8 * (down + HEADER_BYTES) / clinic.downlink_bits_per_s
    return took / (expected + 8 * (up + HEADER_BYTES) / clinic.uplink_bits_per_s) - 1


def measure(npz: Path, method: tuple[str, str | None], profiles: Sequence[str], rounds: int) -> Outcome:
    """Calibrate, plan, and then measure one method in one setting."""
    clinics, server_flop_per_s = calibrated(npz, method, profiles)
    spec = spec_for(npz, method, clinics, server_flop_per_s, rounds)
    federation = load_federation(spec.data, spec.seed)
    stated, computing = predicted(make_plan(spec, federation.facts))
    framed_lines = [
        replace(
            clinic,
            uplink_bits_per_s=PAYLOAD_SHARE * clinic.uplink_bits_per_s,
            downlink_bits_per_s=PAYLOAD_SHARE * clinic.downlink_bits_per_s,
        )
        for clinic in clinics
    ]
    framed, _ = predicted(make_plan(spec_for(npz, method, framed_lines, server_flop_per_s, rounds), federation.facts))
    job = Job.build(spec, federation.facts)
    with netns.Lines(clinics) as lines:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        parties: list[tuple[Callable[..., None], tuple[Any, ...]]] = [(server_process, (lines, job, clinics, theirs))]
        for k, clinic in enumerate(clinics):
            parties.append((netns.relay, (lines.relay(k), k, clinic.latency_s)))
            parties.append((clinic_process, (lines, k, job, federation)))
        with running(parties) as processes:
            while not ours.poll():
                for sentinel in wait([ours, *(p.sentinel for p in processes)]):
                    ended = next((p for p in processes if p.sentinel == sentinel and p.exitcode), None)
                    if ended is not None:
                        raise RuntimeError(f"{ended.name} ended with exit code {ended.exitcode}")
            seconds, trials = ours.recv()
    return Outcome(seconds, stated, framed, computing, trials)


@contextmanager
def running(parties: Sequence[tuple[Callable[..., None], tuple[Any, ...]]]) -> Iterator[list[BaseProcess]]:
    """Run functions in processes of their own; none outlives the context."""
    context = multiprocessing.get_context("fork")
    processes: list[BaseProcess] = [context.Process(target=_party, args=each, daemon=True) for each in parties]
    try:
        for process in processes:
            process.start()
        yield processes
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
        for process in processes:
            if process.pid is not None:
                process.join()


def _party(work: Callable[..., None], args: tuple[Any, ...]) -> None:
    """Do the work and end quietly when told to; Ctrl-C is the parent's business."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    work(*args)


def line_of(setting: str, method: tuple[str, str | None], outcome: Outcome) -> str:
    """Return a line of the table."""
    low, high = min(outcome.measured), max(outcome.measured)
    up, down = (100 * statistics.median(outcome.trials[way]) for way in ("up", "down"))
    cells = (
        setting,
        " ".join(filter(None, method)),
        f"{statistics.median(outcome.measured):.3f} ({low:.3f} to {high:.3f})",
        f"{statistics.median(outcome.stated):.3f}",
        f"{100 * outcome.error(outcome.stated):+.1f} %",
        f"{100 * outcome.error(outcome.framed):+.1f} %",
        f"{100 * outcome.computing:.1f} %",
        f"{up:+.1f} / {down:+.1f} %",
    )
    return f"| {' | '.join(cells)} |"


HEAD = """\
| lines | method | measured s (range) | clock s | off by | off, framing counted | computing | trial up / down |
|---|---|---|---|---|---|---|---|"""


def main() -> int:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", choices=SETTINGS, nargs="+", default=list(SETTINGS))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    reason = netns.missing()
    if reason is not None:
        print(f"skipped: {reason}", file=sys.stderr)
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    torch.set_num_threads(1)
    print(HEAD)
    with tempfile.TemporaryDirectory() as folder:
        npz = write_images(Path(folder) / "images.npz")
        for setting in options.settings:
            for method in METHODS:
                print(line_of(setting, method, measure(npz, method, SETTINGS[setting], options.rounds)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
