"""A table of two clinics with categories, missing values and patients."""

import numpy as np
import pandas as pd

from sim.scenario.data import Csv


def frame_of(rows=60, seed=0):
    """Two clinics; a patient has one to three rows; some values are missing."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "id": np.arange(rows),
            "person": rng.integers(0, rows // 2, rows),
            "site": rng.choice(["bern", "lyon"], rows),
            "result": rng.choice(["<30", ">30", "NO"], rows),
            "age": rng.integers(20, 90, rows).astype(float),
            "bmi": rng.normal(27, 4, rows).round(1),
            "race": rng.choice(["a", "b", "c"], rows),
        }
    )
    frame.loc[rng.random(rows) < 0.2, "bmi"] = np.nan
    frame.loc[rng.random(rows) < 0.2, "race"] = None
    return frame


BASE = {"label": "result", "clinic": "site", "exclude": ("id", "person"), "categorical": ("race",), "scaling": "none"}


def spec(path, kind=Csv, **keys):
    return kind(path=path, **({"missing": 0.0} | BASE | keys))
