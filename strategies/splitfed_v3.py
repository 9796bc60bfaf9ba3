"""SplitFed V3: Gawali et al., "Comparison of Privacy-Preserving Distributed Deep Learning Methods in Healthcare", 2020.

    for each round t = 1, 2, ...
        for each clinic k in S_t in parallel
            W^S_k <- W^S                                    one copy of the body a clinic; W^C_k is the clinic's own
            for each batch b, as in SplitFed V1
        W^S <- sum of (n_k / n) W^S_k

The sum goes over the clinics that were not lost on the way. Heads (and tails) stay at their clinics, with their
optimiser's state, and are never averaged: there is no single global model, and every clinic is evaluated with its own.
A lost clinic's head keeps what it has learned.
"""

from __future__ import annotations

from sim.methods.method import Method
from strategies.splitfed_v1 import splitfed_round

METHOD = Method(
    name="splitfed-v3",
    label="SplitFed V3",
    citation="Gawali et al. 2020",
    family="SplitFed",
    cuts=("vanilla", "u-shaped", "multi-hop", "multi-hop-u-shaped"),
    clinic_parts="own",
    body="copies",
    round=splitfed_round,  # the heads are the clinics' own, so that none comes back to be averaged
)
