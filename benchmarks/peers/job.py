"""The job that every peer does, and how each tells what came of it; needs NumPy alone."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

BATCH, RATE = 16, 0.1
CLIP, NOISE = 1.0, 1.0


@dataclass
class Job:
    """Clinics' records, held-out records, initial values, and what was measured.

    Attributes
    ----------
    algorithm : str
        The name of Suture's method.
    clinics : list
        Features and labels of each clinic.
    x, y : ndarray
        The held-out records of all clinics.
    initial : list of ndarray
        Weights and biases in the order of the layers.
    """

    algorithm: str
    rounds: int
    clinics: list[tuple[Any, Any]]
    x: Any
    y: Any
    initial: list[Any]
    _told: dict[str, Any] = field(default_factory=lambda: {"wall": [], "cpu": []})

    def end_round(self, outputs: Any) -> None:
        """Score the shared model's outputs ``[record, class]`` on the held-out records, and note the time."""
        margin = outputs[:, 1] - outputs[:, 0]
        rank = np.empty(len(margin))
        rank[np.argsort(margin)] = np.arange(1, len(margin) + 1)
        positive = int(self.y.sum())
        above = rank[self.y == 1].sum() - positive * (positive + 1) / 2
        self.note(auc=above / (positive * (len(self.y) - positive)), accuracy=((margin > 0) == self.y).mean())

    def note(self, auc: float, accuracy: float) -> None:
        """Note the scores after a round, and the time."""
        self._told |= {"auc": float(auc), "accuracy": float(accuracy)}
        self._told["wall"].append(time.perf_counter())
        self._told["cpu"].append(time.process_time())

    def tell(self, packages: Sequence[str]) -> None:
        """Print what was measured, and the versions of what it was measured with, as one line of JSON."""
        seconds = {clock: np.diff(self._told[clock]).tolist() for clock in ("wall", "cpu")}
        versions = {package: version(package).split("+")[0] for package in packages}
        print(json.dumps({**self._told, **seconds, "versions": versions}))


def load(path: str, algorithm: str, rounds: str) -> Job:
    """Return a job of the records and initial values in a file."""
    with np.load(Path(path)) as file:
        arrays = dict(file)
    clinics = [(arrays["train_x"][a:b], arrays["train_y"][a:b]) for a, b in pairwise(arrays["offsets"])]
    initial = [arrays[f"initial_{number}"] for number in range(sum(name.startswith("initial") for name in arrays))]
    return Job(algorithm, int(rounds), clinics, arrays["test_x"], arrays["test_y"], initial)


def from_command_line() -> Job:
    """Return the job that the command line names: the file, the algorithm, the number of rounds."""
    return load(*sys.argv[1:4])
