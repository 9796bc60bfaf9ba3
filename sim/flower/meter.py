"""Counts what really crosses: bytes by direction, kind and clinic, and the noised steps that were executed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from flwr.app import Array, ConfigRecord, Message
from numpy.typing import NDArray

from sim.flower.internals import TensorArray, held
from sim.flower.wire import CLINICS, CONFIG, NOISED, ROWS, array_kinds
from sim.methods.messages import PARAMETER_KINDS, ROW_KINDS, Kind
from sim.methods.protocol import HEADER_BYTES, HEADERS, SECURE, Direction, Traffic
from sim.methods.sampling import Ints
from sim.models import Parameters


def item_bytes(array: Array) -> int:
    """Return the bytes of one element."""
    return array.tensor.element_size() if isinstance(array, TensorArray) else np.dtype(array.dtype).itemsize


class Meter:
    """An observer of messages.

    Parameters
    ----------
    clinics : int
        How many clinics there are.
    home : ndarray, optional
        ``[clinic]`` the edge server of each, where messages between these and the cloud are counted: by edge server,
        and parameters once for all the clinics that a message is about.

    Attributes
    ----------
    traffic : Traffic
        Bytes by ``(direction, kind)``, an integer array ``[clinic]`` each. A clinic's bytes are what its own message
        would carry: its rows without padding, the payload of the arrays, and ``HEADER_BYTES`` a message. Messages that
        carry no array are not counted. ``[edge]`` with a ``home``.
    noised_steps : dict of str to ndarray
        By part, ``[clinic]``: how many gradients of that part were clipped and noised.
    """

    def __init__(self, clinics: int, home: Ints | None = None) -> None:
        self.clinics = clinics
        self._home = home
        self.traffic: Traffic = {}
        self.noised_steps: dict[str, np.ndarray] = {}

    def observe(self, message: Message, direction: Direction, node_clinics: Sequence[int]) -> None:
        """Count one message.

        Parameters
        ----------
        message : Message
            An instruction or a reply with content.
        direction : {"up", "down"}
        node_clinics : sequence of int
            The clinics of the node, used where the message does not say which ones it concerns.
        """
        config = held(message.content).get(CONFIG)
        stated = held(config) if isinstance(config, ConfigRecord) else {}
        clinics = stated.get(CLINICS) or list(node_clinics)
        one = len(clinics) == 1
        at: int | list[int] = clinics[0] if one else clinics
        crossed = False
        for kind, record in array_kinds(message):
            crossed = True
            if self._home is not None and kind in PARAMETER_KINDS:
                at, one = clinics[0], True
            if arrays := held(record):
                own_axes = 2 if kind in ROW_KINDS else 1
                size = sum(item_bytes(array) * prod(array.shape[own_axes:]) for array in arrays.values())
                rows = stated.get(ROWS, ())
                times = 1 if own_axes == 1 else rows[0] if one else np.array(rows)
                self._add(direction, kind, at, size * times)
        if crossed:
            self._add(direction, HEADERS, at, HEADER_BYTES)
        if direction == "up":
            for key, steps in stated.items():
                if key.startswith(NOISED):
                    self.count_noise(key.removeprefix(NOISED), clinics, steps)

    def count(
        self, direction: Direction, sizes: Mapping[Kind, Ints | int], clinics: Sequence[int], messages: Ints | int
    ) -> None:
        """Add messages that took a shorter way.

        Parameters
        ----------
        direction : {"up", "down"}
        sizes : mapping of Kind to ndarray or int
            ``[lane]``, or alike for all, bytes of each kind, over all the messages.
        clinics : sequence of int
            The clinic of each lane.
        messages : ndarray or int
            ``[lane]``, or alike for all, how many there are.
        """
        at = slice(clinics[0], clinics[0] + 1) if len(clinics) == 1 else list(clinics)
        for kind, size in (*sizes.items(), (HEADERS, messages * HEADER_BYTES)):
            self._counts(direction, kind)[at] += size

    def count_parts(self, direction: Direction, parts: Mapping[Kind, Parameters], clinics: Sequence[int]) -> None:
        """Add one message of each clinic that carries parameters, which took a shorter way; nothing without any."""
        sizes = {
            kind: sum(value.element_size() * prod(value.shape[1:]) for value in named.values())
            for kind, named in parts.items()
            if named
        }
        if parts:
            self.count(direction, sizes, clinics, 1)

    def count_set_up(self, messages: Iterable[tuple[Direction, Sequence[int], int]], kind: str = SECURE) -> None:
        """Add messages that the simulation does without, of secure aggregation: direction, clinics, bytes of each."""
        for direction, clinics, size in messages:
            self._counts(direction, kind)[list(clinics)] += size

    def count_noise(self, part: str, clinics: Sequence[int], steps: Sequence[int]) -> None:
        """Add executed noised steps of one part, one number a clinic."""
        self.noised_steps.setdefault(part, np.zeros(self.clinics, dtype=np.int64))[list(clinics)] += steps

    def _add(self, direction: Direction, kind: str, at: int | list[int], size: Any) -> None:
        if self._home is None:
            self._counts(direction, kind)[at] += size
        else:
            np.add.at(self._counts(direction, kind), self._home[at], size)

    def _counts(self, direction: Direction, kind: str) -> NDArray[np.int64]:
        key = (direction, kind)
        if key not in self.traffic:
            places = self.clinics if self._home is None else int(self._home.max()) + 1
            self.traffic[key] = np.zeros(places, dtype=np.int64)
        return self.traffic[key]
