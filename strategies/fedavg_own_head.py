"""Federated averaging, then a last block of each clinic's own: the others' outputs are features that all share.

The last step of Collins et al., "Exploiting Shared Representations for Personalized Federated Learning", ICML 2021, and
of Oh et al., "FedBABU", ICLR 2022, after plain federated averaging:

    (b, h) <- federated averaging             body and last block
    for each clinic k in parallel
        h_k <- h trained for some epochs on b(x) of the clinic's own records
"""

from __future__ import annotations

from sim.methods.method import Method
from strategies.fedavg import federated_round

METHOD = Method(
    name="fedavg-own-head",
    label="FedAvg, own last block",
    citation="Collins et al., ICML 2021; Oh et al., ICLR 2022",
    family="FL",
    clinic_parts="averaged",
    personal="last-block",
    options={"epochs": 5, "learning-rate": 0.0},
    round=federated_round,
)
