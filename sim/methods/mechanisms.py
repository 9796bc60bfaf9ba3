"""What a run's privacy mechanisms do, in numbers: settings that server and clinics share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class DpSgd:
    """Settings of DP-SGD for one run (Abadi et al. 2016), with the clip shared among the parts.

    Attributes
    ----------
    part_clip : float
        Bound of one record's gradient in one part, C / sqrt(parts); clipped jointly: over all of them, C.
    noise_std : tuple of float
        By clinic: standard deviation of the noise on the sum of a batch's clipped gradients, sigma_k C, in each part.
    joint : bool
        Whether several parts exchange the norms of each record's gradient and clip by their joint norm.
    """

    part_clip: float
    noise_std: tuple[float, ...]
    joint: bool = False


@dataclass(frozen=True, kw_only=True)
class RowNoise:
    """Clipping and noise of the rows that leave the clinic at a cut.

    Attributes
    ----------
    clip : dict of str to float
        By kind (``smashed``, ``tail-gradient``): bound C of the norm of one record's row.
    reach : dict of str to float
        By kind: how far the row of another record can lie away, over the clip: 2, or sqrt(2) for non-negative rows.
    multipliers : tuple of float
        By clinic: noise over the clip, that is the standard deviation of Gaussian or the scale of Laplace noise.
    kind : {"gaussian", "laplace"}
        Laplace noise goes with the L1 norm, of which non-negative rows make no use.
    silent : bool
        Whether rows are clipped only, without noise.
    """

    clip: dict[str, float]
    reach: dict[str, float]
    multipliers: tuple[float, ...]
    kind: Literal["gaussian", "laplace"] = "gaussian"
    silent: bool = False

    def scale(self, kind: str, clinic: int) -> float:
        """Return the standard deviation, or the scale, of a clinic's noise on rows of one kind."""
        return self.multipliers[clinic] * self.clip[kind]

    @property
    def norm(self) -> Literal[1, 2]:
        """Order of the norm that is clipped."""
        return 1 if self.kind == "laplace" else 2


@dataclass(frozen=True)
class AdaptiveClip:
    """How the clip of clinics' updates follows a quantile of their norms (Andrew et al. 2021).

    Attributes
    ----------
    quantile : float
        gamma, the share of updates that is to lie within the clip.
    rate : float
        eta_C, of the geometric update.
    count_noise : float
        sigma_b, standard deviation of the noise on the number of updates within the clip.
    """

    quantile: float
    rate: float
    count_noise: float

    def update_noise(self, multiplier: float) -> float:
        """Return sigma_delta, with which updates and counts have this noise multiplier together.

        A clinic moves the centred count by 1/2, so that sigma^-2 = sigma_delta^-2 + (2 sigma_b)^-2.

        Parameters
        ----------
        multiplier : float
            Below 2 sigma_b; 0 stays 0.
        """
        return (multiplier**-2 - (2 * self.count_noise) ** -2) ** -0.5 if multiplier else 0.0


@dataclass(frozen=True)
class RandomisedLabels:
    """Randomised response on labels (Warner 1965; k-ary: Kairouz et al. 2016), once for the whole run.

    Attributes
    ----------
    classes : int
        k.
    uniform : float
        Probability with which a label is answered by one of the k drawn uniformly, and else by the truth.
    """

    classes: int
    uniform: float
