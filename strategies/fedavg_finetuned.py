"""Federated averaging, then fine-tuning: each clinic trains the final model further, and keeps what comes of it.

Wang et al., "Federated Evaluation of On-device Personalization", 2019; Yu, Bagdasaryan, Shmatikov, "Salvaging Federated
Learning by Local Adaptation", 2020:

    w <- federated averaging
    for each clinic k in parallel
        w_k <- w trained for some epochs on the clinic's own records
"""

from __future__ import annotations

from sim.methods.method import Method
from strategies.fedavg import federated_round

METHOD = Method(
    name="fedavg-finetuned",
    label="FedAvg, fine-tuned",
    citation="Yu, Bagdasaryan, Shmatikov, 2020",
    family="FL",
    clinic_parts="averaged",
    personal="model",
    options={"epochs": 5, "learning-rate": 0.0},
    round=federated_round,
)
