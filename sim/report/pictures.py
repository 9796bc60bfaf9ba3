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
    _draw_svg(specs, folder)
    return [path for stem in specs for path in (_draw_png(folder, stem), folder / f"{stem}.svg")]


def _draw_svg(specs: Mapping[str, dict[str, Any]], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, spec in specs.items():
        (folder / f"{stem}.svg").write_text(svg(spec), encoding="utf-8")


def _draw_png(folder: Path, stem: str) -> Path:
    """Draw the SVG file point by point."""
    path = folder / f"{stem}.png"
    path.write_bytes(_pixels(path.with_suffix(".svg").read_text(encoding="utf-8")))
    return path


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

    This process helps at the end: from the last picture on it draws point by point what the other has not begun.
    Where none are wanted there is no process, and nothing is drawn.
    """
    if not wanted:
        yield lambda specs: None
        return
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    with ProcessPoolExecutor(1, get_context("spawn")) as beside:
        asked: list[Future[Any]] = [beside.submit(svg, _BLANK)]
        points: dict[str, Future[Path]] = {}

        def ask(specs: Mapping[str, dict[str, Any]]) -> None:
            asked.append(beside.submit(_draw_svg, specs, folder))
            points.update({stem: beside.submit(_draw_png, folder, stem) for stem in specs})

        yield ask
        try:
            for drawn in asked:
                drawn.result()
            for stem in reversed(points):
                if points[stem].cancel():
                    _draw_png(folder, stem)
            for drawn in points.values():
                if not drawn.cancelled():
                    drawn.result()
        except BrokenProcessPool:
            raise SutureError(f"{folder}: the process that draws the pictures died; is there enough memory?") from None
