"""Picture files of specifications, drawn without a browser or a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sim.foundation.problems import SutureError

if TYPE_CHECKING:
    from concurrent.futures import Future

_BLANK: Final = {"data": {"values": []}, "mark": "point"}
_SCALE = 2  # device pixels to a unit: most pictures are about 1600 pixels wide


def draw(specs: Mapping[str, dict[str, Any]], folder: Path) -> list[Path]:
    """Write a PNG and an SVG file of each Vega-Lite specification, which holds its data."""
    folder.mkdir(parents=True, exist_ok=True)
    return [path for stem, spec in specs.items() for path in _in_points(_drawn(spec, folder / f"{stem}.svg"))]


def _drawn(spec: dict[str, Any], path: Path) -> Path:
    path.write_text(svg(spec), encoding="utf-8")
    return path


def _in_points(path: Path) -> list[Path]:
    """Write the PNG file beside an SVG file; return both."""
    pixels = path.with_suffix(".png")
    pixels.write_bytes(_pixels(path.read_text(encoding="utf-8")))
    return [pixels, path]


def svg(spec: dict[str, Any]) -> str:
    """Draw a Vega-Lite specification, which holds its data."""
    import vl_convert

    drawn: str = vl_convert.vegalite_to_svg(spec)
    return drawn


def png(spec: dict[str, Any]) -> bytes:
    """Draw a Vega-Lite specification, which holds its data, point by point."""
    return _pixels(svg(spec))


def _pixels(drawn: str) -> bytes:
    import vl_convert

    pixels: bytes = vl_convert.svg_to_png(drawn, scale=_SCALE)
    return pixels


@contextmanager
def drawn_beside(folder: Path, *, wanted: bool = True) -> Iterator[Callable[[Mapping[str, dict[str, Any]]], None]]:
    """Yield what draws specifications in a process beside, which starts at once; at the end the pictures are there.

    That process draws the SVG files; of each this one makes the PNG file, at the end, while the next is drawn. Where
    none are wanted there is no process, and nothing is drawn.
    """
    if not wanted:
        yield lambda specs: None
        return
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    with ProcessPoolExecutor(1, get_context("spawn")) as beside:
        beside.submit(svg, _BLANK)
        asked: list[Future[Path]] = []

        def draw(specs: Mapping[str, dict[str, Any]]) -> None:
            folder.mkdir(parents=True, exist_ok=True)
            asked.extend(beside.submit(_drawn, spec, folder / f"{stem}.svg") for stem, spec in specs.items())

        yield draw
        try:
            for drawn in asked:
                _in_points(drawn.result())
        except BrokenProcessPool:
            raise SutureError(f"{folder}: the process that draws the pictures died; is there enough memory?") from None
