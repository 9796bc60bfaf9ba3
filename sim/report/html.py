"""The report: one HTML file that needs no network and no other file."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from sim.foundation.disk_cache import kept_text
from sim.foundation.text import value_text
from sim.methods.labels import method_label
from sim.privacy.adjacency import MEANING
from sim.report.attacks import attack_tables, attack_words
from sim.report.figure import Gallery
from sim.report.gallery import gallery
from sim.report.look import INK
from sim.report.points import group_points
from sim.report.privacy import method_privacy, not_covered, outside, unprotected
from sim.report.prose import own_text, page
from sim.report.reconstructions import write_reconstructions
from sim.report.resources import clinic_rows, demand_frame, gap_frame, resource_frame, worst_frame
from sim.report.spoken import spoken
from sim.report.study import StudyResults
from sim.report.summary import adjacency_of
from sim.report.table import baselines_of, caption, quality_frame
from sim.report.words import answers, conclusions, guarantee, what_was_compared
from sim.results.columns import is_tuned
from sim.results.store import write_atomically

_DIGITS = 5
_PATHS = {
    "circle": "M6 0A6 6 0 1 1 -6 0A6 6 0 1 1 6 0",
    "square": "M-5 -5H5V5H-5Z",
    "triangle-up": "M0 -6L6.5 5.5H-6.5Z",
    "diamond": "M0 -7L6 0L0 7L-6 0Z",
    "triangle-down": "M0 6L6.5 -5.5H-6.5Z",
    "cross": "M-2 -6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z",
    "triangle-right": "M6 0L-5.5 6.5V-6.5Z",
    "triangle-left": "M-6 0L5.5 6.5V-6.5Z",
}


def write_report(study: StudyResults, study_folder: Path, shown: Gallery | None = None) -> Path:
    """Write the report of a study."""
    shown, said = shown or gallery(study), conclusions(study)
    study_folder.mkdir(parents=True, exist_ok=True)
    scripts = [bundle(), own_text("report.js")] if shown.figures else []
    text = page(
        "report.html.j2",
        study=study,
        words=spoken(study.runs),
        policy=_policy(scripts),
        scripts=[Markup(script) for script in scripts],  # noqa: S704 (our own files)
        gallery=shown,
        data=_embedded(shown) if shown.figures else "",
        paths=_PATHS,
        black=INK,
        compared=what_was_compared(study),
        answers=answers(study, shown, said),
        unprotected=unprotected(study),
        conclusions=said,
        results=study.frame,
        quality=quality_frame(study.runs),
        caption=caption(study.runs, study.held_out),
        baselines=baselines_of(study.runs),
        resources=resource_frame(study.runs),
        demand=demand_frame(study),
        worst=worst_frame(study),
        clinics=clinic_rows(study),
        gaps=gap_frame(group_points(study.drawn, study.groups)) if len(study.groups) else pd.DataFrame(),
        privacy=method_privacy(study),
        attacks=attack_tables(study),
        attacked=attack_words(study, spoken(study.runs).within) if len(study.attacks) else [],
        reconstructions=write_reconstructions(study, study_folder),
        outside=outside(study),
        not_covered=not_covered(study),
        adjacency=MEANING if adjacency_of(study.runs) else "",
        counted=_counted(study.statements),
        guarantee=guarantee(study.runs),
        settings=_flat(study.settings),
        failed=_failed_rows(study.runs),
    )
    path = study_folder / "report.html"
    write_atomically(path, text)
    return path


@cache
def bundle() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script."""
    return kept_text(f"vega-{version('vl-convert-python')}.js", _bundled)


def _bundled() -> str:
    import vl_convert

    script: str = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub knows no default
    return script


def _policy(scripts: Iterable[str]) -> str:
    """Return the page's content security policy: its own scripts, and nothing from anywhere else."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{value}'" for value in hashes) or "'none'"
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"


def _embedded(shown: Gallery) -> Markup:
    """Return what the page's script needs, as JSON that cannot end a script element."""
    content = {
        "state": shown.start(),
        "together": shown.together,
        "figures": {
            figure.name: {"table": figure.table, "panels": shown.page_specs(figure)} for figure in shown.figures
        },
        "tables": {name: _coded(table) for name, table in shown.tables.items()},
    }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704 (no "<" is left)


def _coded(table: pd.DataFrame) -> dict[str, Any]:
    """Write a table column by column: numbers to five digits, words as places in a list of them."""
    columns: dict[str, Any] = {}
    for name, values in table.items():
        if pd.api.types.is_numeric_dtype(values):
            columns[str(name)] = [_number(value) for value in values.tolist()]
        else:
            codes, words = pd.factorize(values)
            columns[str(name)] = {"words": words.tolist(), "codes": codes.tolist()}
    return columns


def _number(value: float | bool) -> float | bool | None:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    return value


def _counted(statements: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say once how epsilon was counted, and where the noise comes from."""
    texts = [f"Epsilon is counted by {statement['accountant']}." for statement in statements.values()]
    return list(dict.fromkeys([*texts, *(statement["generator"] for statement in statements.values())]))


def _failed_rows(runs: pd.DataFrame) -> list[list[str]]:
    """List the runs that did not succeed: id, method, seed, swept values, status, error."""
    failed = runs[runs["status"] != "ok"]
    swept = [name for name in failed.columns if "." in name and not is_tuned(name)]
    return [
        [
            str(row["run_id"]),
            method_label(row["strategy"], row["cut"]),
            str(row["seed"]),
            ", ".join(f"{name} {value_text(row[name])}" for name in swept),
            row["status"],
            row["error"] if isinstance(row.get("error"), str) else "",
        ]
        for _, row in failed.iterrows()
    ]


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Spread nested settings into pairs of a dotted name and a value."""
    if isinstance(value, Mapping):
        return [pair for key, part in value.items() for pair in _flat(part, f"{name}.{key}" if name else str(key))]
    if isinstance(value, (list, tuple)) and any(isinstance(part, Mapping) for part in value):
        return [pair for index, part in enumerate(value, 1) for pair in _flat(part, f"{name}[{index}]")]
    if isinstance(value, (list, tuple)):
        return [(name, ", ".join(map(value_text, value)))]
    return [(name, value_text(value))]
