"""One party alone on its own columns: the lower baseline of vertical learning.

for each round t = 1, 2, ...
w <- w trained on the party's columns; the optimiser's state lives on

It is the label's holder, unless ``party`` names another: what that one could do *if it were given the labels*, which in
truth it does not have. Nothing crosses, and the others take no part.
"""

from __future__ import annotations

from sim.methods.method import Method
from strategies.local import lonely_round

METHOD = Method(
    name="vertical-alone",
    label="One party alone",
    family="baseline",
    layouts=("vertical",),
    clinic_parts="own",
    options={"party": ""},
    round=lonely_round,
)
