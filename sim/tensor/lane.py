"""What sets one lane apart from the others: a clinic of a run."""

from __future__ import annotations

from dataclasses import dataclass

from sim.tensor.optim import Rate


@dataclass(frozen=True, kw_only=True)
class Lane:
    """A clinic of a run, as far as one part in training depends on it.

    Attributes
    ----------
    clinic : int
        The clinic's number within its run, which addresses the run's random streams.
    seed : int
        The run's; with the clinic it names the streams of dropout masks.
    key : str
        The run's; with the clinic it names the streams of noise. Of no use without noise.
    rate : Rate
    clip : float or None
        Under DP-SGD, bound of one record's gradient in the part; otherwise None.
    noise_std : float
        Standard deviation of the noise on the sum of a batch's clipped gradients.
    nopeek : float
        Factor on the distance correlation of the part's inputs and outputs in its loss.
    """

    clinic: int
    seed: int
    key: str
    rate: Rate
    clip: float | None = None
    noise_std: float = 0.0
    nopeek: float = 0.0
