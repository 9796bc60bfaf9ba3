"""What packed files say that they hold, looked at before anything of them is unpacked."""

from __future__ import annotations

import bz2
import gzip
import lzma
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

import numpy as np

from sim.foundation.files import memory_bytes, scarce, status

_OF_A_TABLE: Final = 4
"""Memory that a table takes, over the bytes of its text or of its plain numbers."""
_STREAMS: Final[Mapping[str, Callable[[Path], gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile]]] = {
    ".gz": gzip.GzipFile,
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
}
_CHUNK: Final = 2**20


def archive_fault(path: Path, wanted: Sequence[str]) -> str:
    """Say why arrays of a NumPy archive must not be loaded, to stand behind the file's name; empty where they may.

    Names of arrays that are absent are passed over.
    """
    try:
        status(path)
    except ValueError as error:
        return str(error)
    needed = 0
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            for name in wanted:
                if name in members:
                    with archive.open(members[name]) as file:
                        values, width = _declared(file)
                    if values * width > members[name].file_size:
                        return f'has an array "{name}" that declares more values than the file holds; save it again'
                    needed += values * (2 * width + 16)  # checked, scaled to single precision and parted
    except Exception:  # no archive, or damaged in whichever way: who loads it says so
        return ""
    fault = scarce(needed)
    return f"takes {fault}, to be unpacked; give fewer records" if fault else ""


def _declared(file: IO[bytes]) -> tuple[int, int]:
    """Return how many values an array's header declares, and the bytes of one."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        return 0, 0  # which are never loaded
    return math.prod(int(size) for size in shape), dtype.itemsize


def table_fault(path: Path, *, is_csv: bool) -> str:
    """Say why a table, text or Parquet, must not be read: it would not fit in memory; empty where it may."""
    try:
        size = _text_bytes(path) if is_csv else _parquet_bytes(path)
    except Exception:  # damaged in whichever way: who reads it says so
        return ""
    fault = scarce(_OF_A_TABLE * size)
    return f"takes {fault}, as a table; give fewer records or columns" if fault else ""


def _text_bytes(path: Path) -> int:
    """Return the bytes of the text; of compressed text no more are unpacked than would fit."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            return sum(info.file_size for info in archive.infolist())
    if path.suffix not in _STREAMS:
        return path.stat().st_size
    most, size = memory_bytes() // _OF_A_TABLE, 0
    with _STREAMS[path.suffix](path) as file:
        while size <= most and (part := file.read(_CHUNK)):
            size += len(part)
    return size


def _parquet_bytes(path: Path) -> int:
    import pyarrow.parquet as pq

    found = pq.read_metadata(path)
    plain = int(found.num_rows * found.num_columns * 8)
    encoded: int = sum(int(found.row_group(group).total_byte_size) for group in range(found.num_row_groups))
    return max(plain, encoded)
