"""Random streams that depend on nothing but their name.

Every draw but the noise of gradients (:mod:`sim.foundation.normals`) comes from ``numpy.random.Philox``, a
counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). The key holds the seed
and the purpose; the counter's upper words hold the clinic, the round and the step. Streams with different names can
therefore never overlap, and a draw is the same however clinics are grouped and in whatever process it is made.

What is public is keyed by the seed, so that methods are compared on the same initial values, batches, participants and
order. What hides a record (noise, randomised answers, the batches of Poisson sampling) is keyed by the run: by every
setting and every record. No two runs share a draw, so that no combination of their releases cancels it, and nothing
that a results folder holds gives the key. The generator is not cryptographic, and who has all the records can form the
key: this is a simulation.
"""

from collections.abc import Sequence
from functools import cache, lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np

Key = int | str
"""A seed, not negative, for what is public; a run's key for what hides a record."""

Keys = Key | Sequence[Key]
"""One key for all lanes, or one a lane."""


@cache
def stream_key(key: Key, purpose: str) -> bytes:
    """Return the 16 bytes that name the streams of a purpose."""
    if isinstance(key, int):
        return key.to_bytes(8, "little") + blake2b(purpose.encode(), digest_size=8).digest()
    return blake2b(f"{key}/{purpose}".encode(), digest_size=16).digest()


class Streams:
    """All the streams of one purpose, for loops over many clinics: one generator, moved from stream to stream.

    ``key`` is the run's seed, not negative, or its key; ``purpose`` says what the draws are for, for example
    ``"batches"`` or ``"noise.head"``.
    """

    def __init__(self, key: Key, purpose: str) -> None:
        self._bits = np.random.Philox(key=np.frombuffer(stream_key(key, purpose), dtype="<u8").astype(np.uint64))
        self._generator = np.random.Generator(self._bits)
        start = self._bits.state
        self._place = {"counter": [0, 0, 0, 0], "key": start["state"]["key"].tolist()}  # lists, which are read faster
        self._start: Any = {**start, "state": self._place, "buffer": start["buffer"].tolist()}

    def at(self, clinic: int = 0, server_round: int = 0, step: int = 0) -> np.random.Generator:
        """Return the generator at the start of one stream, good until the next call: it is the same object every time.

        Clinic, round and step are the position of the draw, 0 where they do not apply.
        """
        self._place["counter"] = [0, step, server_round, clinic]
        self._bits.state = self._start
        return self._generator


def lane_streams(key: Keys, purpose: str, lanes: int) -> list[Streams]:
    """Return each lane's streams of a purpose; lanes with the same key share one generator."""
    if isinstance(key, int | str):
        return [Streams(key, purpose)] * lanes
    return [_kept_streams(each, purpose) for each in key]


_kept_streams = lru_cache(maxsize=4096)(Streams)
"""Those of keys that are asked for in every step; a generator is moved, never drawn from where it was left."""


def stream(key: Key, purpose: str, clinic: int = 0, server_round: int = 0, step: int = 0) -> np.random.Generator:
    """Return a generator of its own at the start of one stream; parameters as for ``Streams``."""
    return Streams(key, purpose).at(clinic, server_round, step)
