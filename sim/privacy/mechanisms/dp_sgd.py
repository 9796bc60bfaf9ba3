"""DP-SGD: Abadi et al., "Deep Learning with Differential Privacy", CCS 2016.

    in each step, each record joins the batch with probability q
        g_i <- gradient of record i, clipped to norm C
        the step is taken with (sum of g_i + N(0, (sigma C)^2)) / (expected batch size)

Of a network that is cut, each of P parts clips to C / sqrt(P) and noises by itself, which is worth one release of noise
multiplier sigma; clipped jointly, the parts exchange the norms of each record's gradient and clip by their joint norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

import numpy as np

from sim.foundation.rng import Keys
from sim.privacy.accounting import compose, dp_sgd_event
from sim.privacy.calibration import calibrate
from sim.privacy.events import DpEvent, dp
from sim.privacy.mechanisms.mechanism import OnGradients
from sim.privacy.mechanisms.released import on_grid
from sim.scenario.privacy import Privacy

if TYPE_CHECKING:
    from torch import Tensor


@final
class DpSgd(OnGradients):
    """Each record's gradient is clipped, and their sum noised."""

    name = "dp-sgd"
    keys = frozenset({"clip", "clipping", "labels", "noise_multiplier", "epsilon", "stop_at_epsilon"})
    sentence = (
        "one record: its gradient is clipped and noised; for the model user and peer clinics, and for the server where "
        "nothing else is sent to it"
    )

    def refusal(self, method: Any, cut: str | None, sent: Sequence[str]) -> str:
        """See ``Mechanism``."""
        if method.pooled and cut is not None:
            return f"under {method.name} no training sees a record, so that {self.name} protects none; drop {self.name}"
        return ""

    def noise_of_a_step(self, part_clip: float, noise_std: float, parts: int) -> float:
        """See ``OnGradients``.

        One record moves the vector of all parts, each divided by its noise, by at most sqrt(sum_p (C_p / s_p)^2), so
        that sigma_eff = (sum_p (C_p / s_p)^2)^(-1/2).
        """
        return float((parts * (part_clip / noise_std) ** 2) ** -0.5) if noise_std else 0.0

    def part_clip(self, privacy: Privacy, parts: int, *, joint: bool) -> float:
        """See ``OnGradients``."""
        return privacy.clip if joint else privacy.clip / parts**0.5

    def event(self, rate: float, noise: float, steps: int) -> DpEvent:
        """See ``OnGradients``."""
        return dp_sgd_event(rate, noise, steps)

    def in_known_batches(self, noise: float, exposures: int) -> DpEvent:
        """See ``OnGradients``: no amplification by sampling."""
        return compose({dp.GaussianDpEvent(noise / 2): exposures}) if noise else dp.NonPrivateDpEvent()

    def noise_for(self, target: float, delta: float, rate: float, steps: int) -> float:
        """See ``OnGradients``."""
        return calibrate(target, delta, rate, steps)

    def add_noise(
        self,
        sums: Sequence[Tensor],
        std: Sequence[float],
        normaliser: Sequence[float],
        key: Keys,
        purpose: str,
        clinics: Sequence[int],
        server_round: int,
        step: int,
    ) -> None:
        """Add Gaussian noise to clipped sums, in place, and put them on a grid; each lane draws from its own stream.

        ``sums`` are ``[lane, *shape]`` each, already divided by ``normaliser``, ``[lane]``; ``std``, ``[lane]``, is of
        the noise on the undivided sum. The key is one for all lanes, or one a lane.
        """
        import torch

        from sim.foundation.ahead import Draws, normals

        noisy = np.flatnonzero(std)
        if not len(noisy):
            return
        own, sizes = noisy.tolist(), [value[0].numel() for value in sums]
        keys = [key] * len(clinics) if isinstance(key, int | str) else key
        scale = (np.asarray(std)[noisy] / np.asarray(normaliser)[noisy])[:, None]
        names = tuple(keys[lane] for lane in own), purpose, tuple(clinics[lane] for lane in own)
        noised = normals(Draws(*names, server_round, step, sum(sizes)))
        noised *= scale
        lanes = slice(None) if len(own) == len(clinics) else torch.from_numpy(noisy)
        pieces = torch.split(torch.from_numpy(noised), sizes, dim=1)
        for value, piece in zip(sums, pieces, strict=True):
            piece += value[lanes].flatten(1).cpu()
        on_grid(noised, scale)
        for value, piece in zip(sums, pieces, strict=True):
            own_shape = piece.view(-1, *value.shape[1:])
            value[lanes] = own_shape if isinstance(lanes, slice) else own_shape.to(value)


MECHANISM = DpSgd()
