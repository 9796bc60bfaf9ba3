"""Rows released once: every clinic sends each record behind a public head one time; the server trains on them.

    clinic k   A_k <- head(x_k)                             once, before the first round, with the labels
    for each round t = 1, 2, ...                            under smashed-noise: clip(head(x_k)) + N(0, s^2)
        server     a pass over the rows of all clinics, batch by batch; only the body trains

All that follows the release is post-processing of it (Dwork & Roth, "The Algorithmic Foundations of Differential
Privacy", 2014, proposition 2.1): rounds cost no privacy, and nothing crosses any more.
"""

from __future__ import annotations

from sim.methods.messages import Kind
from sim.methods.method import Method
from strategies.centralised import begin, pooled_round

METHOD = Method(
    name="release-once",
    label="Release once",
    citation="Dwork & Roth 2014, proposition 2.1",
    family="SL",
    cuts=("vanilla",),
    clinic_parts="none",
    body="shared",
    once_up=(Kind.SMASHED, Kind.LABELS),
    begin=begin,
    round=pooled_round,
)
