"""How long the noise of clinics of different sizes takes to find, and how near the target it comes.

python -m benchmarks.calibration                  # 20 clinics of 50 to 5,000 records, batch 16, 8 rounds, epsilon 3
python -m benchmarks.calibration --clinics 1000

First with an empty cache on disk, then as another process would find it.
"""

import argparse
import os
import random
import tempfile
import time
from collections.abc import Sequence

from sim.privacy.accounting import dp_sgd_event, epsilon
from sim.privacy.calibration import calibrate

BATCH, ROUNDS, TARGET, DELTA = 16, 8, 3.0, 1e-5


def main() -> None:
    """Calibrate, time, and hold every clinic's epsilon against the target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clinics", type=int, default=20)
    options = parser.parse_args()
    draw = random.Random(1)  # noqa: S311
    sizes = list({draw.randint(50, 5000): None for _ in range(2 * options.clinics)})[: options.clinics]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        calibrate(TARGET, DELTA, 0.5, 10)  # imports
        cold, noise = _calibrated(sizes)
        calibrate.cache_clear()
        warm, again = _calibrated(sizes)
    spent = [epsilon(dp_sgd_event(*drawn), DELTA) for drawn in _drawn(sizes, noise)]
    print(f"{len(sizes)} sizes: {cold:.2f} s, {1e3 * cold / len(sizes):.1f} ms each; remembered {warm:.2f} s")
    print(f"epsilon {min(spent):.4f} to {max(spent):.4f} of {TARGET}")
    if max(spent) > TARGET or again != noise:
        raise SystemExit("a clinic exceeds the target, or its noise depends on the cache")


def _calibrated(sizes: Sequence[int]) -> tuple[float, list[float]]:
    begun = time.process_time()
    noise = [calibrate(TARGET, DELTA, rate, steps) for rate, _, steps in _drawn(sizes, sizes)]
    return time.process_time() - begun, noise


def _drawn(sizes: Sequence[int], noise: Sequence[float]) -> list[tuple[float, float, int]]:
    return [(BATCH / size, sigma, ROUNDS * -(-size // BATCH)) for size, sigma in zip(sizes, noise, strict=True)]


if __name__ == "__main__":
    main()
