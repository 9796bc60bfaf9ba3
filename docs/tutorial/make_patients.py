"""Make ``patients.csv``, the made-up patients of the tutorial: ``python docs/tutorial/make_patients.py``."""

from pathlib import Path

import numpy as np

SIZES = {"north": 160, "south": 90, "island": 50}
OLDER = {"north": 0.0, "south": 4.0, "island": 9.0}


def patients() -> str:
    """Return the table as CSV: who is old, with a high lactate and a fast heart, dies more often."""
    rng = np.random.Generator(np.random.Philox(7))
    lines = ["hospital,age,sex,lactate,heart_rate,died"]
    for hospital, size in SIZES.items():
        for _ in range(size):
            age = float(np.clip(rng.normal(62 + OLDER[hospital], 14), 18, 100))
            lactate = float(np.clip(rng.lognormal(0.6, 0.5), 0.3, 15))
            rate = float(np.clip(rng.normal(84 + 4 * lactate, 14), 30, 200))
            odds = -1.4 + 0.05 * (age - 65) + 0.9 * (lactate - 2) + 0.02 * (rate - 90)
            died = int(rng.random() < 1 / (1 + np.exp(-odds)))
            sex = ("female", "male")[int(rng.integers(2))]
            measured = f"{lactate:.1f}" if rng.random() > 0.06 else ""
            lines.append(f"{hospital},{age:.0f},{sex},{measured},{rate:.0f},{died}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("patients.csv").write_text(patients(), encoding="utf-8")
