"""What scores of many clinics take."""

import tracemalloc

import numpy as np
import pandas as pd

from sim.inference.clinics import by_clinic


def test_memory_grows_with_the_records_and_not_with_the_square_of_the_clinics():
    clinics = 5000
    rows = pd.DataFrame({"clinic": np.repeat([f"c{k}" for k in range(clinics)], 2), "label": np.tile([0, 1], clinics)})
    rows = rows.assign(run_id="a", row=rows.index, patient=rows.index, probability_0=0.5, probability_1=0.5)
    models = pd.DataFrame({"run_id": ["a"], "method": ["only"], "seed": [0]})
    tracemalloc.start()
    own = by_clinic(rows, models, "balanced_accuracy")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (own.by_seed == 0.5).all()
    assert peak < 2000 * len(rows)
