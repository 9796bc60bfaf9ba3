"""The page of reconstructions: training records beside what attacks made of them, where a study keeps some."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from sim.report.attacks import attack_name
from sim.report.prose import page
from sim.report.study import StudyResults
from sim.results.attack_log import read_attacks
from sim.results.attacks import read_exhibit
from sim.results.store import write_atomically

PAGE: Final = "reconstructions.html"
_MOST: Final = 8
"""Of more records than this the first are shown."""
_WIDE, _HIGH = 160, 60
Floats = NDArray[np.float32]


def write_reconstructions(study: StudyResults, folder: Path) -> str:
    """Write the page beside the report, and return its name; empty where no attack kept images or signals."""
    shown = list(_shown(study, folder))
    if not shown:
        return ""
    write_atomically(folder / PAGE, page("reconstructions.html.j2", study=study.name, shown=shown))
    return PAGE


def _shown(study: StudyResults, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield what an attack rebuilt of a run: pairs of pictures, the original first."""
    runs = {row["run_id"]: row for row in study.drawn.to_dict("records")}
    order = {run_id: place for place, run_id in enumerate(runs)}
    ended = [row for row in read_attacks(folder).values() if row["status"] == "ok" and row["run_id"] in order]
    for row in sorted(ended, key=lambda row: (order[row["run_id"]], row["attack"])):
        exhibit = read_exhibit(folder, row["attack_id"])
        if exhibit is None or exhibit[0].ndim < 3:
            continue
        run = runs[row["run_id"]]
        originals, rebuilt = (each[:_MOST] for each in exhibit)
        pairs = [pictures(*pair) for pair in zip(originals, rebuilt, strict=True)]
        yield {key: run[key] for key in ("series", "level", "seed")} | {
            "attack": attack_name(row["attack"]),
            "pairs": pairs,
        }


def pictures(original: Floats, rebuilt: Floats) -> tuple[Markup, Markup]:
    """Draw a record and what was made of it on one scale, the original's.

    Parameters
    ----------
    original, rebuilt : ndarray
        ``[channel, height, width]`` of an image, ``[channel, length]`` of a signal.
    """
    low, high = float(original.min()), float(original.max())
    scaled = [np.clip((each - low) / max(high - low, 1e-9), 0, 1) for each in (original, rebuilt)]
    drawn = [_image(each) if each.ndim == 3 else _signal(each) for each in scaled]
    return drawn[0], drawn[1]


def _image(x: Floats) -> Markup:
    content = base64.b64encode(png(np.round(255 * x).astype(np.uint8))).decode()
    return Markup('<img alt="" src="data:image/png;base64,{}">').format(content)


def _signal(x: Floats) -> Markup:
    across = np.linspace(0, _WIDE, x.shape[-1])
    lines = [" ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across, _HIGH * (1 - channel), strict=True)) for channel in x]
    drawn = Markup("").join(Markup('<polyline points="{}"/>').format(line) for line in lines)
    return Markup('<svg viewBox="0 0 {} {}" aria-hidden="true">{}</svg>').format(_WIDE, _HIGH, drawn)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Return a PNG file of ``[channel, height, width]``: in colour with three channels, else the first in grey."""
    colour = pixels.shape[0] == 3
    lines = np.moveaxis(pixels, 0, -1) if colour else pixels[0][..., None]
    height, width, samples = lines.shape
    filtered = np.concatenate([np.zeros((height, 1), np.uint8), lines.reshape(height, width * samples)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if colour else 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(filtered.tobytes(), 9)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
