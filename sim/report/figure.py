"""A figure of a study, and all of them together: what the page draws, and the same as picture files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from sim.report.look import Look, Sheet, Spec, page_spec, paper, picture_spec, rows

_MOST_BESIDE = 3
"""Of more panels on paper, the others stand below."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure."""

    name: str  # Of its picture files, and of its place on the page
    # title, note, description: heading; how to read it; what it shows, in words, for those who do not see it
    title: str
    note: str
    description: str
    panels: Sequence[Callable[[Sheet], Spec]]  # Draw on a sheet; the page puts them side by side where there is room
    by_level: bool = False  # Whether paper needs one for each level of privacy
    first: bool = False  # Whether it stands on the first screen
    of: str = ""  # The data that it draws, where they have another name

    @property
    def table(self) -> str:
        """The name of the data that it draws."""
        return self.of or self.name


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """The figures of a study; without any where no run has a score."""

    figures: list[Figure] = field(default_factory=list)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)  # The data of all figures, each once
    given: list[Look] = field(default_factory=list)
    methods: list[Look] = field(default_factory=list)  # Of methods without swept settings, which a map may name
    together: dict[str, list[str]] = field(default_factory=dict)  # By a name that equal series share, the series
    # scores, levels, adversaries, rounds: what can be chosen; of `rounds`, the method whose round is drawn
    scores: list[str] = field(default_factory=list)
    levels: list[str] = field(default_factory=list)
    adversaries: list[str] = field(default_factory=list)
    rounds: list[str] = field(default_factory=list)
    searched: bool = False  # Whether there are so many clinics that one has to be searched for

    def start(self) -> dict[str, Any]:
        """Return what the page shows at first: the middle one of the levels that have noise."""
        private = [level for level in self.levels if level != "no DP"] or self.levels
        return {
            "score": self.scores[0],
            "level": private[len(private) // 2],
            "adversary": self.adversaries[0],
            "method": self.rounds[0] if self.rounds else "",
            "picked": [],
            "search": "",
        }

    def drawn(self, figure: Figure) -> list[Look]:
        """Return the looks of the series that a figure draws; one that others equal looks like the first of them."""
        table = self.tables[figure.table]
        if "series" not in table:
            return self.given
        drawn = set(table["series"])
        return [
            replace(look, series=name)
            for look in (*self.given, *self.methods)
            for name in (look.series, *(name for name, own in self.together.items() if own[0] == look.series))
            if name in drawn
        ]

    def page_specs(self, figure: Figure) -> list[Spec]:
        """Return the Vega-Lite specifications of a figure's panels on the page, without data."""
        return [page_spec(panel(Sheet(given=self.drawn(figure))), self.start()) for panel in figure.panels]

    def paper_spec(self, figure: Figure, study: str) -> Spec:
        """Return the Vega-Lite specification of a figure as a picture, with its data."""
        start, given = self.start(), self.drawn(figure)
        levels = self.levels if figure.by_level else [start["level"]]
        several = len(figure.panels) > 1
        width = 300 if several else 440
        sheets = [paper(given, start["score"], level, start["adversary"], width) for level in levels]
        panels = [panel(sheet) for sheet in sheets for panel in figure.panels]
        columns = min(_MOST_BESIDE, len(figure.panels)) if several else min(2, len(panels))
        table = self.tables[figure.table]
        shown = table[table["score"] == start["score"]] if "score" in table else table
        shown = shown if len(shown) else table  # a clinic's own AUC has another name
        drawn = {"concat": panels, "columns": columns, "spacing": 24, "datasets": {figure.table: rows(shown)}}
        return picture_spec(drawn, f"Study {study}. {figure.title}. {figure.note}")
