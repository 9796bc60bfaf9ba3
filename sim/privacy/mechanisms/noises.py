"""What a run's mechanisms do, in numbers that server and clinics share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.foundation.rng import Streams
from sim.privacy.mechanisms.mechanism import OnGradients, OnLabels, OnRows
from sim.privacy.mechanisms.released import as_codes, row_step


@dataclass(frozen=True, kw_only=True)
class GradientNoise:
    """Clipping and noise of gradients, with the clip shared among the parts."""

    mechanism: OnGradients
    part_clip: float  # Bound of one record's gradient in one part; clipped jointly: over all of them
    # By clinic: standard deviation of the noise on the sum of a batch's clipped gradients, sigma_k C, in each part
    noise_std: tuple[float, ...]
    # Whether several parts exchange the norms of each record's gradient and clip by their joint norm
    joint: bool = False


@dataclass(frozen=True, kw_only=True)
class LabelNoise:
    """Answers for labels, once for the whole run."""

    mechanism: OnLabels
    classes: int  # k
    uniform: float  # Probability with which a label is answered by one of the k drawn uniformly, and else by the truth


@dataclass(frozen=True, kw_only=True)
class RowNoise:
    """Clipping and noise of the rows that leave the clinic at a cut."""

    mechanism: OnRows
    clip: dict[str, float]  # By kind (`smashed`, `tail-gradient`): bound C of the norm of one record's row
    reach: dict[str, float]  # By kind: how far the row of another record can lie away, over the clip
    # By clinic: noise over the clip, that is the standard deviation of Gaussian or the scale of Laplace noise
    multipliers: tuple[float, ...] = ()
    silent: bool = False  # Whether rows are clipped only, without noise

    def scale(self, kind: str, clinic: int) -> float:
        """Return the standard deviation, or the scale, of a clinic's noise on rows of one kind."""
        return self.multipliers[clinic] * self.clip[kind]

    def grid_step(self, kind: str, clinic: int) -> float:
        """Return the step of the grid on which a clinic's noised rows leave."""
        return row_step(self.scale(kind, clinic), self.clip[kind])

    def codes(
        self,
        rows: NDArray[np.float32],
        kind: str,
        key: str,
        sizes: Sequence[int],
        clinics: Sequence[int],
        moment: tuple[int, int],
    ) -> NDArray[np.int16]:
        """Noise clipped rows in every coordinate.

        Parameters
        ----------
        rows : ndarray
            ``[lane, batch, *feature]``
        sizes, clinics : sequence of int
            ``[lane]`` rows that are real, and the lane's clinic.
        moment : (int, int)
            Round and step, which name the streams, with the run's key.

        Returns
        -------
        ndarray of int16
            ``[lane, batch, *feature]`` in steps of each clinic's grid; padding is 0.
        """
        streams, codes = Streams(key, f"noise.{kind}"), np.zeros(rows.shape, dtype=np.int16)
        for lane, (clinic, size) in enumerate(zip(clinics, sizes, strict=True)):
            drawn = self.mechanism.draw(streams.at(clinic, *moment), (size, *rows.shape[2:]))
            drawn *= self.scale(kind, clinic)
            codes[lane, :size] = as_codes(drawn + rows[lane, :size], self.grid_step(kind, clinic))
        return codes
