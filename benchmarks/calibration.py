"""How long the noise of clinics of different sizes takes to find, and how near the target it comes.

python -m benchmarks.calibration                  # 20 clinics of 50 to 5,000 records, batch 16, 8 rounds, epsilon 3
python -m benchmarks.calibration --clinics 1000
"""

import argparse
import random
import time

from sim.privacy.accounting import dp_sgd_event, epsilon
from sim.privacy.calibration import calibrate

BATCH, ROUNDS, TARGET, DELTA = 16, 8, 3.0, 1e-5


def main() -> None:
    """Calibrate, time, and hold every clinic's epsilon against the target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clinics", type=int, default=20)
    options = parser.parse_args()
    draw = random.Random(1)  # noqa: S311
    sizes = [draw.randint(50, 5000) for _ in range(options.clinics)]
    calibrate(TARGET, DELTA, 0.5, 10)  # imports
    begun, spent = time.process_time(), []
    for size in sizes:
        rate, steps = BATCH / size, ROUNDS * -(-size // BATCH)
        sigma = calibrate(TARGET, DELTA, rate, steps)
        spent.append(epsilon(dp_sgd_event(rate, sigma, steps), DELTA))
    seconds = (time.process_time() - begun) / len(sizes)
    print(
        f"{1e3 * seconds:.0f} ms of processor time a clinic; epsilon {min(spent):.4f} to {max(spent):.4f} of {TARGET}"
    )
    if max(spent) > TARGET:
        raise SystemExit("a clinic exceeds the target")


if __name__ == "__main__":
    main()
