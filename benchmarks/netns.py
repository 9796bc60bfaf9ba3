"""A server and clinics in network namespaces, each clinic behind a slow line with a latency (Linux, root, iproute2).

    clinic k --- veth, tc tbf in each direction --- relay k --- veth --- server

The token buckets hold the line to its two rates. netem is not in every kernel, so that the latency is the relay's: a
process that passes TCP streams on, each chunk ``latency`` seconds after it came. A TCP connection therefore ends at the
relay: round trips within TCP (slow start, lost segments) do not see the latency, as behind a performance-enhancing
proxy. Slow start after idle is switched off besides.
"""

from __future__ import annotations

import ctypes
import os
import queue
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from sim.scenario.clinics import ClinicResources

PORT = 7000
FRAME, SEGMENT = 1514, 1448
"""Bytes of a full Ethernet frame as tc counts it, and of TCP payload in it (20 bytes IP, 32 TCP with timestamps)."""
_CLONE_NEWNET = 0x40000000
_SETTINGS = ("net.ipv4.tcp_slow_start_after_idle=0", "net.ipv4.tcp_congestion_control=reno")


def missing() -> str | None:
    """Say why namespaces cannot be made here; None where they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    absent = [tool for tool in ("ip", "tc", "sysctl") if shutil.which(tool) is None]
    if absent:
        return f"{', '.join(absent)} not installed (iproute2, procps)"
    name = f"suture-{os.getpid()}-try"
    try:
        try:
            _run("ip", "netns", "add", name)
            _run("ip", "-n", name, "link", "add", "name", "try0", "type", "veth", "peer", "name", "try1")
            _run("tc", "-n", name, "qdisc", "add", "dev", "try0", "root", "tbf", *_bucket(1e6))
        finally:
            subprocess.run(("ip", "netns", "del", name), capture_output=True, check=False)
    except RuntimeError as error:
        return f"the kernel does not allow it: {error}"
    return None


class Lines:
    """The namespaces and their lines, for as long as the context lasts.

    Parameters
    ----------
    clinics : sequence of ClinicResources
        Whose rates the lines have; the latencies are the relays' business.
    """

    def __init__(self, clinics: Sequence[ClinicResources]) -> None:
        self._clinics = clinics
        self._prefix = f"suture-{os.getpid()}"
        self.server = f"{self._prefix}-server"

    def clinic(self, k: int) -> str:
        """Return the namespace of a clinic."""
        return f"{self._prefix}-clinic{k}"

    def relay(self, k: int) -> str:
        """Return the namespace of a clinic's relay."""
        return f"{self._prefix}-relay{k}"

    def __enter__(self) -> Lines:
        try:
            self._add(self.server)
            for k, line in enumerate(self._clinics):
                self._add(self.clinic(k))
                self._add(self.relay(k))
                _join(self.clinic(k), f"10.77.{k}.2", self.relay(k), f"10.77.{k}.1", "line")
                _join(self.relay(k), f"10.78.{k}.2", self.server, f"10.78.{k}.1", f"clinic{k}")
                for name, rate in (
                    (self.clinic(k), line.uplink_bits_per_s),
                    (self.relay(k), line.downlink_bits_per_s),
                ):
                    _run("tc", "-n", name, "qdisc", "add", "dev", "line", "root", "tbf", *_bucket(rate))
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _add(self, name: str) -> None:
        _run("ip", "netns", "add", name)
        _run("ip", "-n", name, "link", "set", "lo", "up")
        for setting in _SETTINGS:
            _run("ip", "netns", "exec", name, "sysctl", "-q", "-w", setting)

    def _remove(self) -> None:
        names = [self.server, *(f(k) for k in range(len(self._clinics)) for f in (self.clinic, self.relay))]
        for name in names:
            subprocess.run(("ip", "netns", "del", name), capture_output=True, check=False)


def _bucket(bits_per_s: float) -> tuple[str, ...]:
    """Return a bucket of a millisecond or one frame: what goes at once after a pause shortens a message by no more."""
    burst = max(1600, int(bits_per_s / 8 * 1e-3))
    return ("rate", f"{bits_per_s:.0f}bit", "burst", f"{burst}b", "limit", "4000000")


def _join(left: str, left_address: str, right: str, right_address: str, name: str) -> None:
    _run("ip", "link", "add", name, "netns", left, "type", "veth", "peer", "name", name, "netns", right)
    for end, address in ((left, left_address), (right, right_address)):
        _run("ip", "-n", end, "addr", "add", f"{address}/24", "dev", name)
        _run("ip", "-n", end, "link", "set", name, "up")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def enter(namespace: str) -> None:
    """Move this process (its calling thread) into a namespace."""
    with Path("/run/netns", namespace).open() as handle:
        if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")


def listen() -> socket.socket:
    """Listen on every address of this namespace."""
    return socket.create_server(("", PORT))


def connect(address: str) -> socket.socket:
    """Connect, within ten seconds, to one who may not listen yet."""
    end = time.monotonic() + 10
    while True:
        try:
            line = socket.create_connection((address, PORT))
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)
        else:
            return at_once(line)


def at_once(line: socket.socket) -> socket.socket:
    """Let small messages go without waiting for more."""
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return line


def relay(namespace: str, k: int, latency_s: float) -> None:
    """Pass a clinic's stream on to the server and the server's to the clinic, ``latency_s`` late, until both end."""
    enter(namespace)
    with listen() as door:
        clinic = at_once(door.accept()[0])
    server = connect(f"10.78.{k}.1")
    directions = [
        threading.Thread(target=_late, args=(*ends, latency_s)) for ends in ((clinic, server), (server, clinic))
    ]
    for direction in directions:
        direction.start()
    for direction in directions:
        direction.join()


def _late(source: socket.socket, sink: socket.socket, latency_s: float) -> None:
    chunks: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def read() -> None:
        chunk = b"\0"
        while chunk:
            chunk = source.recv(1 << 16)
            chunks.put((time.monotonic() + latency_s, chunk))

    threading.Thread(target=read, daemon=True).start()
    while True:
        due, chunk = chunks.get()
        time.sleep(max(0.0, due - time.monotonic()))
        if not chunk:
            with suppress(OSError):  # the other end may have closed first
                sink.shutdown(socket.SHUT_WR)
            return
        sink.sendall(chunk)
