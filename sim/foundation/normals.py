"""Normal draws by the hundred thousand: the ziggurat over whole arrays, on words of AES in counter mode.

Marsaglia & Tsang, "The ziggurat method for generating random variables", Journal of Statistical Software 2000. The area
below the bell curve is covered by 1,024 layers of one size, the lowest with the tail. A word names a layer and a point
within its width. Nearly all points lie where the layer above reaches too, which is below the curve; of the others a
second word decides, and where the point lies above the curve a third names another.

As in :mod:`sim.foundation.rng`, a draw depends on nothing but its name: the cipher's key holds the run's key and the
purpose, the counter holds clinic, round, step and the draw's number.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from functools import lru_cache
from itertools import count, pairwise
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from numpy.typing import NDArray

from sim.foundation.rng import Key, stream_key

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Words = NDArray[np.uint64]
Bools = NDArray[np.bool_]

AT_ONCE = 2**16
"""Numbers that are drawn at once: their words and what comes of them stay in the cache."""
LAYERS = 1024
EDGE = 4.038849846109504
"""From here on the lowest layer is the tail; with it, all layers have one size."""
STORED = "<u8"
"""How words stand in memory: so on every machine, that they are the same numbers."""
TAIL = math.erfc(EDGE / math.sqrt(2)) / 2


def _widths() -> Floats:
    """Return the layers' widths from the lowest to the highest, ``[layer + 1]``; the last is 0."""
    height = math.exp(-(EDGE**2) / 2)
    area = EDGE * height + math.sqrt(math.tau) * TAIL
    widths = [area / height, EDGE]
    while len(widths) < LAYERS:
        height += area / widths[-1]
        widths.append(math.sqrt(-2 * math.log(height)))
    return np.array([*widths, 0.0])


_WIDTHS = _widths()
_HEIGHTS = np.exp(-(_WIDTHS**2) / 2)
_UNITS = _WIDTHS[:-1] * 2.0**-52
_CERTAIN = _WIDTHS[1:].copy()  # Of each layer: as far as the one above reaches
_NORMAL = NormalDist()


def fill_normals(
    rows: Floats, keys: Sequence[Key], purpose: str, clinics: Sequence[int], server_round: int, step: int
) -> None:
    """Fill rows with standard normal draws.

    Parameters
    ----------
    rows : ndarray
        ``[row, number]``
    keys, clinics : sequence
        ``[row]``
    purpose : str
    server_round, step : int

    Raises
    ------
    OverflowError
        If the counter has no room for a clinic or round from 2^32 on, or a step from 2^24 on.
    """
    own = np.array([int(clinic) for clinic in clinics], dtype=np.uint32).astype(np.uint64)
    high, low = own << np.uint64(32) | np.uint32(int(server_round)), np.uint64(int(step) << 40)
    if not rows.size:
        return
    words = _Words(keys, purpose, high, low)
    wide, open_ = min(rows.shape[1] + rows.shape[1] % 2, AT_ONCE), []
    for column in range(0, rows.shape[1], wide):
        strip = rows[:, column : column + wide]
        for row in range(0, len(rows), AT_ONCE // wide):
            open_.append(_first_points(strip[row : row + AT_ONCE // wide], words, row, column))
    row, column, layer = np.concatenate(open_, axis=1)
    if rows.shape[1] > wide:
        row, column, layer = (each[np.argsort(row, kind="stable")] for each in (row, column, layer))
    _settle(rows, words, row, column, layer)


class _Words:
    """Words by their address: what AES makes of the counters of counter mode, in whatever order they are asked for."""

    def __init__(self, keys: Sequence[Key], purpose: str, high: Words, low: np.uint64) -> None:
        self.high, self.low = high, low
        first = [row for row, key in enumerate(keys) if not row or key != keys[row - 1]]
        self._ciphers, self._next = [_OWN.cipher(keys[row], purpose) for row in first], np.array(first[1:])

    def at(self, row: Ints, block: Ints) -> Words:
        """Return the two words of each block, ``[number, 2]``; rows ascend."""
        counters = np.empty((len(row), 2), dtype=STORED)
        counters[:, 0] = self.high[row]
        counters[:, 1] = block.astype(np.uint64) | self.low
        return self.of(counters, row, np.empty(counters.size + 2, dtype=STORED))

    def of(self, counters: Words, row: Ints, room: Words) -> Words:
        """Return the words of counters, ``[row, ...]``, made in a room for two more, which the cipher asks for."""
        given, found, size = counters.data.cast("B"), room.data.cast("B"), counters.nbytes // len(row)
        edges = [0, *np.searchsorted(row, self._next).tolist(), len(row)]
        for cipher, (first, last) in zip(self._ciphers, pairwise(edges), strict=True):
            cipher.update_into(given[first * size : last * size], found[first * size :])
        return room[: counters.size].astype(np.uint64, copy=False).reshape(counters.shape)


class _Memory(NamedTuple):
    """What a block of numbers is drawn in: for pages that are new each time, the machine takes as long again."""

    counters: Words
    words: Words
    layer: Ints
    spare: Floats


def _memory(size: int, stored: str) -> _Memory:
    words = np.empty(size, dtype=stored), np.empty(size + 2, dtype=stored)
    return _Memory(*words, np.empty(size, dtype=np.int64), np.empty(size))


def _cipher(key: Key, purpose: str) -> CipherContext:
    return Cipher(AES(stream_key(key, purpose)), ECB()).encryptor()  # noqa: S305 (what it encrypts are counters)


class _Own(threading.local):
    """What is used by one thread at a time."""

    def __init__(self) -> None:
        self.cipher = lru_cache(maxsize=4096)(_cipher)
        self.memory = lru_cache(maxsize=1)(_memory)


_OWN = _Own()


def _first_points(rows: Floats, words: _Words, row: int, column: int) -> tuple[Ints, Ints, Ints]:
    """Fill a block, whose corner is given, with points; return row, column and layer of those that are left open.

    Blocks of the same columns come one after another, the first from row 0.
    """
    height, width = rows.shape
    even, memory = width + width % 2, _OWN.memory(AT_ONCE, STORED)
    counters = memory.counters[: height * even].reshape(height, even // 2, 2)
    counters[..., 0] = words.high[row : row + height, None]
    if not row:
        counters[..., 1] = np.arange(column // 2, (column + even) // 2, dtype=np.uint64) | words.low
    first = words.of(counters, np.arange(row, row + height), memory.words).reshape(height, even)[:, :width]
    layer, spare = memory.layer[: rows.size].reshape(rows.shape), memory.spare[: rows.size].reshape(rows.shape)
    left = np.flatnonzero(_named(first, layer, rows, spare))
    own_row, own_column = np.divmod(left, width)
    return row + own_row, column + own_column, layer.ravel()[left]


def _settle(rows: Floats, words: _Words, row: Ints, column: Ints, layer: Ints) -> None:
    """Decide point after point of the draws that are left open."""
    for level in count(1):
        if not len(row):
            return
        second, third = words.at(row, column | level << 36).T
        point, below = _decided(rows[row, column], layer, second)
        layer, other = np.empty_like(layer), np.empty_like(point)
        left = _named(third, layer, other, np.empty_like(point)) & ~below
        rows[row, column] = np.where(below, point, other)
        row, column, layer = row[left], column[left], layer[left]


def _named(words: Words, layer: Ints, point: Floats, spare: Floats) -> Bools:
    """Fill in the layer and the point that each word names, and return which points are left open.

    A layer is a word's low ten bits, a point the high 53. Words and spare memory are used up.
    """
    signed = words.view(np.int64)
    np.bitwise_and(signed, LAYERS - 1, out=layer)
    np.right_shift(signed, 11, out=signed)
    np.copyto(point, signed)
    np.add(point, 0.5, out=point)
    np.multiply(point, _UNITS.take(layer, out=spare, mode="wrap"), out=point)
    distance = np.abs(point, out=words.view(np.float64))
    return np.greater_equal(distance, _CERTAIN.take(layer, out=spare, mode="wrap"))


def _decided(point: Floats, layer: Ints, words: Words) -> tuple[Floats, Bools]:
    """Return the points, those of the tail drawn from it, and which of them are below the curve."""
    share = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    below = _HEIGHTS[layer] + share * (_HEIGHTS[layer + 1] - _HEIGHTS[layer]) < np.exp(-(point**2) / 2)
    tail = layer == 0
    beyond = [-_NORMAL.inv_cdf(TAIL * part) for part in share[tail].tolist()]
    point[tail] = np.copysign(beyond, point[tail])
    return point, below | tail
