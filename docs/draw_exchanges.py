"""Draw what clinics and server send each other in a round, from the same table that traffic and epsilon follow from.

``python docs/draw_exchanges.py`` writes ``docs/exchanges/*.svg``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from sim.methods.method import method_of
from sim.methods.parties import OF_THE_LABEL
from sim.methods.protocol import Protocol, protocol_of
from sim.scenario.edges import MULTI_HOP

FOLDER = Path(__file__).parent / "exchanges"
NAMES = {
    "smashed": "smashed data",
    "labels": "labels",
    "cut-gradient": "gradient at the cut",
    "body-output": "body's outputs",
    "tail-gradient": "gradient of the tail",
    "records": "all records",
}
AT_SERVER = {
    "fedavg": "averages the models, weights n_k / n",
    "centralised": "trains on the pooled records",
    "splitfed-v1": "a copy of the body a clinic; averages heads and bodies, weights n_k / n",
    "splitfed-v2": "one body, which serves the batches one after another; averages heads",
    "splitfed-v3": "a copy of the body a clinic; averages bodies; heads stay at their clinics",
    "split": "one body; hands the clinic's part on to the next clinic",
}
IN_TURN = ("split", "splitfed-v2")
THROUGH_EDGES = (("splitfed-v1", "multi-hop"), ("hierarchical-splitfed", "vanilla"))
OF_PARTIES = (("vertical", "vanilla"), ("vertical", "u-shaped"), ("vertical-splitfed", "vanilla"))
PLACES = {"clinic": 110, "edge server": 360, "cloud": 610}
CLINICS, SERVER, WIDTH, ROW = {"A": 110, "B": 610}, 360, 720, 36
PARTIES = {"Party": 110, "Server": 360, "Label's holder": 610}


class Step(NamedTuple):
    """One arrow (``to`` is ``server`` or ``clinic``), or a remark in the server's lane (``to`` is empty)."""

    clinics: str
    to: str
    text: str


def steps(name: str, cut: str | None) -> list[Step]:
    """Return a round of a strategy, in order."""
    protocol = protocol_of(method_of(name), cut)
    if name not in IN_TURN:
        return [*_begin(protocol, "AB"), *_batch(protocol, "AB"), *_end(protocol, "AB"), Step("", "", AT_SERVER[name])]
    if name == "split":
        return [
            step
            for clinic in "AB"
            for step in (
                Step("", "", f"clinic {clinic}'s turn"),
                *_begin(protocol, clinic),
                *_batch(protocol, clinic),
                *_end(protocol, clinic),
            )
        ] + [Step("", "", AT_SERVER[name])]
    turns = [step for clinic in "AB" for step in _batch(protocol, clinic)]
    return [*_begin(protocol, "AB"), *turns, *_end(protocol, "AB"), Step("", "", AT_SERVER[name])]


def _parts(protocol: Protocol) -> str:
    parts = " and ".join(protocol.clinic_parts)
    return f"{parts}, optimiser's state" if protocol.movement == "handed-on" else parts


def _begin(protocol: Protocol, clinics: str) -> Iterator[Step]:
    if protocol.once_up:
        yield Step(clinics, "server", _kinds(protocol.once_up) + ", once")
    if protocol.crosses:
        yield Step(clinics, "clinic", _parts(protocol))


def _batch(protocol: Protocol, clinics: str) -> Iterator[Step]:
    if protocol.batch_up:
        yield Step("", "", "for every batch")
    elif protocol.clinic_parts:
        yield Step("", "", "clinics train on their own records")
    for up, down in zip_longest(protocol.batch_up, protocol.batch_down):
        yield Step(clinics, "server", _kinds(up))
        yield Step(clinics, "clinic", _kinds(down))


def _end(protocol: Protocol, clinics: str) -> Iterator[Step]:
    if protocol.crosses:
        yield Step(clinics, "server", _parts(protocol))


def _kinds(kinds: tuple[str, ...]) -> str:
    return ", ".join(NAMES[kind] for kind in kinds)


class Arrow(NamedTuple):
    """One message, from where to where, or a remark without either, as they are drawn in one row."""

    ends: tuple[tuple[int, int], ...]
    text: str


def drawn(name: str, cut: str | None) -> str:
    """Return a round of clinics and server as SVG."""
    found, rows = steps(name, cut), []
    for step in found:
        sides = ((CLINICS[clinic], SERVER) for clinic in step.clinics if step.to)
        rows.append(Arrow(tuple(side if step.to == "server" else side[::-1] for side in sides), step.text))
    told = "; ".join(f"{'remark' if not s.to else f'clinic {s.clinics} to {s.to}'}: {s.text}" for s in found)
    headings = {"Clinic A": CLINICS["A"], "Server": SERVER, "Clinic B": CLINICS["B"]}
    return _picture(" ".join(filter(None, (name, cut))), told, headings, rows)


def through_edges(name: str, cut: str) -> str:
    """Return a round of a clinic, its edge server and the cloud as SVG."""
    method = method_of(name)
    protocol = protocol_of(method, cut)
    (up,), (down,) = protocol.batch_up, protocol.batch_down
    found: list[tuple[str, str, str]] = []
    if method.edge_round is None:
        parts = " and ".join((*protocol.clinic_parts, *protocol.edge_parts))
        found += [
            *(("cloud", "edge server", parts), ("edge server", "clinic", _parts(protocol))),
            *(("", "", "for every batch"), ("clinic", "edge server", _kinds(up))),
            *(("edge server", "cloud", "middle's outputs, labels"), ("cloud", "edge server", "gradient in them")),
            ("edge server", "clinic", _kinds(down)),
            *(("clinic", "edge server", _parts(protocol)), ("edge server", "cloud", f"{parts}, averaged")),
            ("", "", "the cloud averages over edge servers, and bodies; weights n_k / n"),
        ]
    else:
        parts = " and ".join((*protocol.clinic_parts, *protocol.edge_parts))
        found += [
            *(("cloud", "edge server", parts), ("", "", "for so many rounds as cloud-every says")),
            *(("edge server", "clinic", _parts(protocol)), ("clinic", "edge server", f"{_kinds(up)}, by batch")),
            *(("edge server", "clinic", f"{_kinds(down)}, likewise"), ("clinic", "edge server", _parts(protocol))),
            ("", "", "the edge server averages over its clinics"),
            *(("edge server", "cloud", f"{parts}, averaged"), ("", "", "the cloud averages over edge servers")),
        ]
    rows = [Arrow(((PLACES[a], PLACES[b]),) if a else (), text) for a, b, text in found]
    told = "; ".join(f"{f'{a} to {b}' if a else 'remark'}: {text}" for a, b, text in found)
    return _picture(f"{name} {cut}", told, {place.capitalize(): x for place, x in PLACES.items()}, rows)


def between_parties(name: str, cut: str) -> str:
    """Return a round of vertical learning as SVG: a party without the label, the server, and who has the label."""
    method = method_of(name)
    protocol = protocol_of(method, cut)
    rows = list[Arrow]()

    def message(down: bool, kinds: Sequence[str], words: Mapping[str, str] = NAMES) -> None:
        of_party = [kind for kind in kinds if kind not in (*OF_THE_LABEL, "tail")]
        party, holder = ((PARTIES[place], SERVER)[:: -1 if down else 1] for place in ("Party", "Label's holder"))
        if of_party == [*kinds]:
            rows.append(Arrow((party, holder), ", ".join(words[kind] for kind in kinds)))
            return
        if of_party:
            rows.append(Arrow((party,), ", ".join(words[kind] for kind in of_party)))
        rows.append(Arrow((holder,), ", ".join(words[kind] for kind in kinds)))

    parts = {part: part for part in protocol.clinic_parts}
    if protocol.crosses:
        message(True, protocol.clinic_parts, parts)
    rows.append(Arrow((), "for every batch of patients"))
    for up, down in zip_longest(protocol.batch_up, protocol.batch_down):
        message(False, up)
        if "smashed" in up:
            rows.append(Arrow((), "the server joins the rows of all parties"))
        message(True, down)
    if protocol.crosses:
        message(False, protocol.clinic_parts, parts)
        rows.append(Arrow((), "averages bodies over regions, and heads party by party; weights n_r / n"))
    else:
        ends = "heads and tail" if "tail" in protocol.clinic_parts else "heads"
        rows.append(Arrow((), f"one body; {ends} stay with their parties"))
    places = {x: place for place, x in PARTIES.items()}
    told = [(" and ".join(f"{places[a]} to {places[b]}" for a, b in row.ends) or "remark", row.text) for row in rows]
    return _picture(f"{name} {cut}", "; ".join(f"{who}: {what}" for who, what in told), PARTIES, rows)


def _picture(title: str, told: str, headings: Mapping[str, int], rows: Sequence[Arrow]) -> str:
    height = 70 + ROW * len(rows)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'font-family="Liberation Sans, Arial, Helvetica, sans-serif" font-size="14">',
        f"<title>{escape(title)}</title><desc>{escape(told)}</desc>",
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" '
        'orient="auto-start-reverse"><path d="M0 0 10 5 0 10z"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
    ]
    for heading, x in headings.items():
        lines += [
            f'<rect x="{x - 55}" y="10" width="110" height="28" rx="4" fill="#DCEBF5" stroke="#0072B2"/>',
            f'<text x="{x}" y="29" text-anchor="middle">{heading}</text>',
            f'<path d="M{x} 38V{height - 10}" stroke="#999" stroke-dasharray="3 4"/>',
        ]
    for row, arrow in enumerate(rows):
        y = 76 + ROW * row
        if not arrow.ends:
            half = 4 * len(arrow.text) + 10
            lines += [
                f'<rect x="{SERVER - half}" y="{y - 17}" width="{2 * half}" height="25" rx="4" fill="#F4F4F4"/>',
                f'<text x="{SERVER}" y="{y}" text-anchor="middle" font-style="italic">{escape(arrow.text)}</text>',
            ]
        for start, end in arrow.ends:
            lines += [
                f'<path d="M{start} {y + 4}H{end}" stroke="#000" stroke-width="1.5" marker-end="url(#tip)"/>',
                f'<text x="{(start + end) // 2}" y="{y - 3}" text-anchor="middle">{escape(arrow.text)}</text>',
            ]
    return "\n".join([*lines, "</svg>", ""])


def pictures() -> dict[str, str]:
    """Return every picture by its file's name."""
    drawings = ((name, cut) for name in AT_SERVER for cut in method_of(name).cuts or (None,) if cut not in MULTI_HOP)
    direct = {f"{'-'.join(filter(None, pair))}.svg": drawn(*pair) for pair in drawings}
    edges = {f"{'-'.join(pair)}.svg": through_edges(*pair) for pair in THROUGH_EDGES}
    return direct | edges | {f"{'-'.join(pair)}.svg": between_parties(*pair) for pair in OF_PARTIES}


if __name__ == "__main__":
    for file, text in pictures().items():
        (FOLDER / file).write_text(text, encoding="utf-8")
