"""Random streams that depend on nothing but their name.

Every draw comes from ``numpy.random.Philox``, a counter-based generator (Salmon et al., "Parallel random numbers: as
easy as 1, 2, 3", SC 2011). The key holds the seed and the purpose; the counter's upper words hold the clinic, the round
and the step. Streams with different names can therefore never overlap, and a draw is the same however clinics are
grouped and in whatever process it is made. The generator is not cryptographic.
"""

from functools import cache
from hashlib import blake2b

import numpy as np


@cache
def _purpose_key(purpose: str) -> int:
    return int.from_bytes(blake2b(purpose.encode(), digest_size=8).digest(), "little")


class Streams:
    """All the streams of one purpose, for loops over many clinics: one generator, moved from stream to stream.

    Parameters
    ----------
    seed : int
        The run's seed, not negative.
    purpose : str
        What the draws are for, for example ``"batches"`` or ``"noise.head"``.
    """

    def __init__(self, seed: int, purpose: str) -> None:
        self._bits = np.random.Philox(key=np.array([seed, _purpose_key(purpose)], dtype=np.uint64))
        self._generator = np.random.Generator(self._bits)
        self._start = self._bits.state

    def at(self, clinic: int = 0, server_round: int = 0, step: int = 0) -> np.random.Generator:
        """Return the generator at the start of one stream.

        Parameters
        ----------
        clinic, server_round, step : int
            Position of the draw; 0 where it does not apply.

        Returns
        -------
        numpy.random.Generator
            Good until the next call: it is the same object every time.
        """
        self._start["state"]["counter"] = np.array([0, step, server_round, clinic], dtype=np.uint64)
        self._bits.state = self._start
        return self._generator


def stream(seed: int, purpose: str, clinic: int = 0, server_round: int = 0, step: int = 0) -> np.random.Generator:
    """Return a generator of its own at the start of one stream; parameters as for ``Streams``."""
    return Streams(seed, purpose).at(clinic, server_round, step)
