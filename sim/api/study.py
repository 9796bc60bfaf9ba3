"""A finished study as data frames and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sim.foundation.lazy import Lazy
from sim.plan.plan import Plan
from sim.results.run_tables import read_run_tables
from sim.results.store import read_table, writing_to

if TYPE_CHECKING:
    import pandas as pd

    from sim.api import mapping
    from sim.report import clock_figures, gallery, html, pictures, reading
    from sim.report.figure import Gallery
    from sim.report.study import StudyResults
else:
    mapping = Lazy("sim.api.mapping")
    clock_figures, gallery, html = Lazy("sim.report.clock_figures"), Lazy("sim.report.gallery"), Lazy("sim.report.html")
    pictures, reading = Lazy("sim.report.pictures"), Lazy("sim.report.reading")

FIGURES: Final = "figures"
_VEGA_LITE: Final = "application/vnd.vegalite.v6+json"


class Study:
    """What a study's folder holds; ``run`` returns it, and ``Study("results/heart")`` opens it again.

    Tables are read when they are asked for, and figures drawn then.

    Parameters
    ----------
    folder : path
        ``OUT/<study>``.
    plans : sequence of Plan
        Of the runs that were just made.
    notes : sequence of str
        What is no error but most likely not meant, a line each.
    """

    def __init__(self, folder: Path | str, *, plans: Sequence[Plan] = (), notes: Sequence[str] = ()) -> None:
        self.folder = Path(folder)
        self.notes = tuple(notes)
        self._plans = tuple(plans)

    @cached_property
    def results(self) -> StudyResults:
        """Everything that a report is made of."""
        found = reading.read_results(self.folder)
        if not self._plans:
            return found
        with writing_to(self.folder):
            return mapping.mapped(found, self.folder)

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row a run, as in ``runs.parquet``."""
        return read_table(self.folder)

    @property
    def rounds(self) -> pd.DataFrame:
        """One row a round of each run."""
        return self.results.rounds

    @property
    def clinics(self) -> pd.DataFrame:
        """One row a clinic of each run."""
        return self.results.clinics

    @property
    def trials(self) -> pd.DataFrame:
        """One row for each setting that was tried, as in ``trials.parquet``; none without ``[tune]``."""
        return self.results.trials

    @property
    def attacks(self) -> pd.DataFrame:
        """One row for each finding of an attack, as in ``attacks.parquet``."""
        return self.results.attacks

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """One row for each held-out record of each run."""
        return read_run_tables(self.folder, self.runs.loc[self.runs["status"] == "ok", "run_id"], "predictions")

    @property
    def ok(self) -> bool:
        """Whether all runs ended well."""
        return bool((self.runs["status"] == "ok").all())

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """The figures by name, each of which a notebook shows."""
        return {name: Figure(spec) for name, spec in self._specs.items()}

    def report(self, *, figures: bool = False) -> Path:
        """Write ``report.html`` into the study's folder, and return its path.

        Parameters
        ----------
        figures : bool
            Whether to write the figures as SVG and PNG files, too.
        """
        with (
            writing_to(self.folder),
            pictures.drawn_beside(self.folder / FIGURES, wanted=figures) as draw,
        ):
            if figures:
                draw(self._specs)
            return html.write_report(self.results, self.folder, self._gallery)

    @cached_property
    def _gallery(self) -> Gallery:
        return gallery.gallery(self.results)

    @cached_property
    def _specs(self) -> Mapping[str, dict[str, Any]]:
        clock = clock_figures.clock_pictures(list(self._plans)) if self._plans else {}
        return clock | gallery.study_pictures(self.results, self._gallery)

    def __repr__(self) -> str:
        """Name the folder and count the runs."""
        return f"Study({str(self.folder)!r}): {len(self.runs)} runs, {int((self.runs['status'] == 'ok').sum())} ok"

    def _repr_html_(self) -> str:
        """Show the table of results in a notebook."""
        if not (self.runs["status"] == "ok").any():
            return self.runs.loc[:, ["run_id", "strategy", "cut", "seed", "status"]].to_html(index=False, border=0)
        return self.results.frame.to_html(index=False, border=0)


class Figure:
    """A picture with its data, as a Vega-Lite specification: ``altair.Chart.from_dict(figure.spec)`` goes on with it.

    Parameters
    ----------
    spec : dict
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec

    def save(self, path: Path | str) -> None:
        """Write it as SVG, or as PNG where the name ends so."""
        target = Path(path)
        if target.suffix.lower() == ".png":
            target.write_bytes(pictures.png(self.spec))
        else:
            target.write_text(pictures.svg(self.spec), encoding="utf-8")

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        """Give a notebook the chart and, for one that draws none, its picture."""
        return {_VEGA_LITE: self.spec, "image/png": pictures.png(self.spec), "text/plain": "a figure"}
