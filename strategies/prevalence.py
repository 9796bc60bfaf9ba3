"""The line of reference: every clinic predicts its own training records' class frequencies, whoever the patient is.

No method that uses a patient's features should fall below it. Nothing crosses, nothing is noised, and one round is all:
clinic k with n_kc of its n_k training records in class c, of C classes, predicts (n_kc + 1) / (n_k + C).
"""

from __future__ import annotations

from sim.methods.method import Method
from strategies.local import lonely_round

METHOD = Method(
    name="prevalence",
    label="Prevalence alone",
    family="baseline",
    layouts=("horizontal", "vertical"),
    clinic_parts="own",
    trains=False,
    round=lonely_round,  # in which the clinics count their classes
)
