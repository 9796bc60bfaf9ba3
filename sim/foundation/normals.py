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
from collections.abc import Sequence
from functools import lru_cache
from itertools import count, groupby
from statistics import NormalDist

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from numpy.typing import NDArray

from sim.foundation.rng import Key, stream_key

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Words = NDArray[np.uint64]

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
    words = _Words(keys, purpose, own << np.uint64(32) | np.uint32(int(server_round)), np.uint64(int(step) << 40))
    if not rows.size:
        return
    together = max(1, AT_ONCE // rows.shape[1])
    corners = [(r, c) for r in range(0, len(rows), together) for c in range(0, rows.shape[1], AT_ONCE)]
    open_ = [_first_points(rows[r : r + together, c : c + AT_ONCE], words, r, c) for r, c in corners]
    _settle(rows, words, *(np.concatenate(each) for each in zip(*open_, strict=True)))


class _Words:
    """Words by their address: what AES makes of the counters of counter mode, in whatever order they are asked for."""

    def __init__(self, keys: Sequence[Key], purpose: str, high: Words, low: np.uint64) -> None:
        self._keys, self._purpose, self._high, self._low = keys, purpose, high, low

    def at(self, row: Ints, block: Ints) -> Words:
        """Return the two words of each block, ``[row, 2]`` or ``[row, block, 2]`` as row and block broadcast.

        Rows ascend along the first axis.
        """
        counters = np.empty((*np.broadcast_shapes(row.shape, block.shape), 2), dtype=STORED)
        counters[..., 0] = self._high[row]
        counters[..., 1] = block.astype(np.uint64) | self._low
        words = np.empty(counters.size + 2, dtype=STORED)  # two more than the cipher fills, which asks for room
        given, found = counters.data.cast("B"), words.data.cast("B")
        size, done = counters.nbytes // len(row), 0
        for key, own in groupby(self._keys[each] for each in row.ravel().tolist()):
            last = done + size * len([*own])
            _cipher(key, self._purpose).update_into(given[done:last], found[done:])
            done = last
        return words[:-2].astype(np.uint64, copy=False).reshape(counters.shape)


@lru_cache(maxsize=4096)
def _cipher(key: Key, purpose: str) -> CipherContext:
    return Cipher(AES(stream_key(key, purpose)), ECB()).encryptor()  # noqa: S305 (what it encrypts are counters)


def _first_points(rows: Floats, words: _Words, row: int, column: int) -> tuple[Ints, Ints, Ints]:
    """Fill a block, whose corner is given, with points; return row, column and layer of those that are left open."""
    height, width = rows.shape
    blocks = np.arange(column // 2, (column + width + 1) // 2)
    first = words.at(np.arange(row, row + height)[:, None], blocks).reshape(height, -1)
    layer, _ = _named(first[:, :width], rows)
    left = np.flatnonzero(np.abs(rows) >= _CERTAIN.take(layer))
    own_row, own_column = np.divmod(left, width)
    return row + own_row, column + own_column, layer.ravel()[left]


def _settle(rows: Floats, words: _Words, row: Ints, column: Ints, layer: Ints) -> None:
    """Decide point after point of the draws that are left open."""
    for level in count(1):
        if not len(row):
            return
        second, third = words.at(row, column | level << 36).T
        point, below = _decided(rows[row, column], layer, second)
        layer, other = _named(third)
        rows[row, column] = np.where(below, point, other)
        left = ~below & (np.abs(other) >= _CERTAIN[layer])
        row, column, layer = row[left], column[left], layer[left]


def _named(words: Words, out: Floats | None = None) -> tuple[Ints, Floats]:
    """Return the layer and the point that each word names: of its low ten bits, and of its high 53."""
    layer = (words & np.uint64(LAYERS - 1)).view(np.int64)
    point = (words.view(np.int64) >> 11).astype(np.float64)
    point += 0.5
    return layer, np.multiply(point, _UNITS.take(layer), out=out)


def _decided(point: Floats, layer: Ints, words: Words) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the points, those of the tail drawn from it, and which of them are below the curve."""
    share = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    below = _HEIGHTS[layer] + share * (_HEIGHTS[layer + 1] - _HEIGHTS[layer]) < np.exp(-(point**2) / 2)
    tail = layer == 0
    beyond = [-_NORMAL.inv_cdf(TAIL * part) for part in share[tail].tolist()]
    point[tail] = np.copysign(beyond, point[tail])
    return point, below | tail
