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
    return [path for stem, spec in specs.items() for path in _written(svg(spec), folder, stem)]


def _written(drawn: str, folder: Path, stem: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{stem}.png", folder / f"{stem}.svg"]
    paths[0].write_bytes(_pixels(drawn))
    paths[1].write_text(drawn, encoding="utf-8")
    return paths


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

    This process turns each drawing into points, and writes both files, at the end, while the next is drawn. Where none
    are wanted there is no process, and nothing is drawn.
    """
    if not wanted:
        yield lambda specs: None
        return
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    with ProcessPoolExecutor(1, get_context("spawn")) as beside:
        beside.submit(svg, _BLANK)
        asked: list[tuple[str, Future[str]]] = []
        yield lambda specs: asked.extend((stem, beside.submit(svg, spec)) for stem, spec in specs.items())
        try:
            for stem, drawn in asked:
                _written(drawn.result(), folder, stem)
        except BrokenProcessPool:
            raise SutureError(f"{folder}: the process that draws the pictures died; is there enough memory?") from None
