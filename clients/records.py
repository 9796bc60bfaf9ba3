"""What a clinic tells about itself, and the upload of its records for centralised training."""

from __future__ import annotations

import numpy as np
import torch
from flwr.app import Context, Message

from sim.engine.messages import NOISED, ConfigValue, content
from sim.engine.workplace import workplace_of


def hello(message: Message, context: Context) -> Message:
    """Say which clinics stand behind this node."""
    _, cohort = workplace_of(context)
    return Message(content({}, {"clinics": list(cohort.clinics)}), reply_to=message)


def upload(message: Message, context: Context) -> Message:
    """Send every training record of every clinic: ``[clinic, record, *feature]``, padded to the largest clinic."""
    job, cohort = workplace_of(context)
    clinics = list(cohort.clinics)
    sizes = np.array([job.sizes[k] for k in clinics])
    index = np.minimum(np.arange(sizes.max()), sizes[:, None] - 1)
    x, y = cohort.batch(clinics, index)
    config: dict[str, ConfigValue] = {"clinics": clinics, "rows": sizes.tolist()}
    config |= {f"{NOISED}{kind}": [1] * len(clinics) for kind in job.protected_rows}
    return Message(
        content({"records": {"records": x}, "labels": {"labels": y.to(torch.uint8)}}, config), reply_to=message
    )
