"""The privacy statement as Markdown, for people who answer for the data."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sim.privacy.adjacency import MEANING

STATEMENT_FILE = "privacy.md"


def statement_text(statement: Mapping[str, Any]) -> str:
    """Write a statement as Markdown.

    Parameters
    ----------
    statement : mapping
        As :func:`sim.plan.statement.privacy_statement` returns it. Names in it are escaped: none can open a table
        cell, a link or a tag.

    Returns
    -------
    str
    """
    s = statement
    of_what = [s["strategy"], s["cut"], f"{s['rounds']} rounds"]
    bounded = [row for row in s["adversaries"] if math.isfinite(row["epsilon"]) and row["epsilon"] > 0]
    worst = "; ".join(f"{_name(row)}: {escaped(row['clinic'])}" for row in bounded)
    blocks = [
        f"# Privacy statement of run {s['run']}",
        f"Study {escaped(s['study'])}: {', '.join(escaped(word) for word in of_what if word)}, "
        f"{s['clinics']} clinics, {s['records']} training records. {_BASIS[s['basis']]} "
        "Fields after NIST SP 800-226.",
        _SIMULATED,
        "## In short",
        "\n".join(f"- **{_name(row)}**: {_in_short(row, s)}" for row in s["adversaries"]),
        f"Protected is **{s['unit-meaning']}**. {_READING}",
        *_others(s),
        "## By adversary",
        _table(
            (
                "adversary",
                "sees",
                "epsilon",
                "delta",
                "neighbours",
                "epsilon, replace-one",
                "membership advantage",
                *_RATES.values(),
            ),
            (_adversary_cells(row, s["delta"]) for row in s["adversaries"]),
        ),
        MEANING,
        "Epsilon and the last five columns are upper bounds over every attack, for the clinic that is protected least"
        + (f" ({worst})." if worst else "."),
        "## Mechanisms",
        _table(
            ("release", "seen by", "mechanism", "noise", "sampling rate", "times", "neighbours"),
            (_mechanism_cells(row) for row in s["mechanisms"]),
        )
        if s["mechanisms"]
        else "None: nothing that leaves a clinic is noised.",
    ]
    if s["mechanisms"]:
        blocks.append("Noise is relative to the sensitivity. Ranges are over the clinics.")
    if s["settings"]:
        settings = "; ".join(f"{escaped(key)} = {escaped(value)}" for key, value in s["settings"].items())
        blocks.append(f"Settings: {settings}.")
    versions = ", ".join(f"{escaped(name)} {escaped(version)}" for name, version in s["versions"].items())
    blocks += [
        "## How epsilon was counted",
        f"By {s['accountant']}" + (f" ({versions})." if versions else "."),
        s["generator"],
        "## Outside the guarantee",
        _table(
            ("what", "marking", "note"),
            ((escaped(row["what"]), row["marking"], escaped(row["note"])) for row in s["outside"]),
        ),
        "Public: held to be known to everyone. Dp: protected as stated above. Non-private: not protected.",
        "## Not covered by epsilon",
        "Numbers of this run that depend on records and are written without noise. To publish one is a release of its "
        "own, which no epsilon here covers.",
        _table(
            ("what", "where it stands", "a statistic of"),
            ((escaped(row["what"]), escaped(row["where"]), escaped(row["of"])) for row in s["not-covered"]),
        ),
        "## Measured attacks",
        "\n".join(
            "- " + "; ".join(f"{escaped(key)}: {escaped(value)}" for key, value in attack.items())
            for attack in s["attacks"]
        )
        or "None was carried out on this run.",
    ]
    return "\n\n".join(blocks) + "\n"


_BASIS = {
    "executed": "Every release was counted while it was learned, and equals the plan.",
    "planned": "**The run did not finish: this is what was planned.**",
}
_SIMULATED = (
    "This run was simulated on one computer that held all records. The statement is about what clinics that follow the "
    "same protocol would give away, not about this folder: it also holds exact metrics and digests of the records."
)
_READING = (
    "Epsilon e at delta d means that, but for a part of d, what an adversary sees is at most exp(e) times as likely "
    "with it as without it, or with another in its place, as the adjacency says. "
    "Membership advantage 0 means that nobody can tell whether it was among the training data; 1 means that it may be "
    "told for certain. With advantage a, whoever has to guess is right in at most (1 + a) / 2 of the cases."
)
_RATES = {
    "0.001": "true positives at 0.1 % false",
    "0.01": "true positives at 1 % false",
    "0.1": "true positives at 10 % false",
}


def escaped(value: object) -> str:
    """Return text that Markdown shows as it is, on one line."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())
    text = re.sub(r"([\\`*_\[\]|~$])", r"\\\1", html.escape(text, quote=False))
    return re.sub(r"^(?=(?:[+-]+|#{1,6})(?:\s|$))|(?<=^\d)(?=[.)](?:\s|$))|(?=://)|(?<=www)(?=\.)", r"\\", text)


def _others(statement: Mapping[str, Any]) -> list[str]:
    """Return what is said of units other than the statement's."""
    found, patients = [], statement["patients"]
    if patients is not None:
        values = (f"{a.replace('-', ' ')}: {_epsilon(value)}" for a, value in patients["epsilon"].items())
        found.append(
            f"For **a patient with up to {patients['max-records']} records**, at {patients['max-clinics']} of the "
            f"clinics at most, epsilon at the same delta is at most: {'; '.join(values)}."
        )
    if statement["label-epsilon"] is not None:
        found.append(
            "For **the label of a record** alone, which is randomised before it leaves, epsilon is at most "
            f"{_epsilon(statement['label-epsilon'])} against everyone, if all else in the record is public."
        )
    return found


def _epsilon(value: float) -> str:
    return _upper(value) if math.isfinite(value) else "∞"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _name(row: Mapping[str, Any]) -> str:
    return str(row["adversary"]).replace("-", " ")


def _in_short(row: Mapping[str, Any], statement: Mapping[str, Any]) -> str:
    who, epsilon = row["who"], row["epsilon"]
    if epsilon == 0:
        return f"{who}. Nothing that depends on the records reaches it."
    if math.isinf(epsilon):
        return f"{who}. **No guarantee** (epsilon is infinite): {'; '.join(map(escaped, row['reasons']))}."
    known = row["adjacency"] != "replace-one" and row["replace-epsilon"] is not None
    other = f" (replace-one: at most {_upper(row['replace-epsilon'])})" if known else ""
    return (
        f"{who}. Epsilon at most {_upper(epsilon)} at delta {statement['delta']:g}, {row['adjacency']}{other}; "
        f"membership advantage at most {_upper(row['advantage'])}."
    )


def _adversary_cells(row: Mapping[str, Any], delta: float | None) -> list[str]:
    finite = math.isfinite(row["epsilon"])
    rates = [_upper(row["true-positive-rates"][rate]) for rate in _RATES]
    return [
        _name(row),
        "; ".join(map(_seen, row["sees"])) or "nothing",
        _epsilon(row["epsilon"]),
        f"{delta:g}" if finite and delta is not None and row["epsilon"] else "–",
        row["adjacency"] or "–",
        "–" if row["replace-epsilon"] is None else _epsilon(row["replace-epsilon"]),
        _upper(row["advantage"]),
        *rates,
    ]


def _seen(sees: Mapping[str, Any]) -> str:
    noised = "noised" if sees["noised"] else "**not noised**"
    return f"{escaped(sees['meaning'])}, {noised} ({_between(sees['times'])} {sees['counted-in']})"


def _mechanism_cells(row: Mapping[str, Any]) -> list[str]:
    return [
        escaped(row["what"]),
        ", ".join(row["seen-by"]),
        row["mechanism"],
        f"{_between(row['noise'])} ({row['noise-is']})",
        _between(row["sample-rate"]) if row["sample-rate"] else "–",
        f"{_between(row['times'])} {row['counted-in']} at {row['clinics']} clinic{'s' * (row['clinics'] != 1)}",
        row["adjacency"],
    ]


def _between(bounds: Sequence[float]) -> str:
    low, high = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in bounds)
    return low if low == high else f"{low} to {high}"


def _upper(value: float) -> str:
    """Write a bound to three significant digits, rounded up."""
    if value <= 0:
        return "0"
    scale = 10.0 ** (2 - math.floor(math.log10(value)))
    return f"{math.ceil(value * scale * (1 - 1e-12)) / scale:.3g}"
