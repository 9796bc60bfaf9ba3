"""The job: everything about a run that all its parties know, derived from the same settings by each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim.data import Federation
from sim.engine.optim import Optimizer
from sim.models import Network, Part, build_network
from sim.protocols import Protocol, protocol_of
from sim.sampling import Batches, Sampling, draw_batches, participants
from sim.spec import RunSpec


@dataclass(frozen=True)
class DpSgd:
    """Settings of DP-SGD for one run (Abadi et al. 2016), with the clip shared among the parts.

    Attributes
    ----------
    part_clip : float
        Bound of one record's gradient in one part, C / sqrt(parts).
    noise_std : tuple of float
        By clinic: standard deviation of the noise on the sum of a batch's clipped gradients, sigma_k C, in each part.
    """

    part_clip: float
    noise_std: tuple[float, ...]


@dataclass(frozen=True)
class Job:
    """Everything about a run that is not a patient's record; server and clinics derive it from the same settings.

    Attributes
    ----------
    spec : RunSpec
    protocol : Protocol
    network : Network
    parts : tuple of Part
        The whole model, or head, body and, for U-shaped, tail.
    sizes : tuple of int
        Training records by clinic, public.
    sampling : Sampling
    optimizer : Optimizer
    dp : DpSgd or None
    """

    spec: RunSpec
    protocol: Protocol
    network: Network
    parts: tuple[Part, ...]
    sizes: tuple[int, ...]
    sampling: Sampling
    optimizer: Optimizer
    dp: DpSgd | None

    @classmethod
    def build(cls, spec: RunSpec, federation: Federation, noise_multipliers: Sequence[float]) -> Job:
        """Derive the job.

        Parameters
        ----------
        spec : RunSpec
        federation : Federation
            Only its shapes, classes and sizes are used.
        noise_multipliers : sequence of float
            By clinic; ignored without DP-SGD.

        Raises
        ------
        ValueError
            If the cut lies outside the model.
        """
        protocol = protocol_of(spec.strategy.name, spec.strategy.cut)
        network = build_network(spec.model, federation.train.x.shape[1:], len(federation.classes))
        whole = protocol.topology == "whole"
        parts = (network.whole,) if whole else network.split(protocol.topology, spec.model.cut)
        dp = None
        if spec.privacy.mechanism == "dp-sgd":
            clip = spec.privacy.clip
            # Without noise the product is 0 even for an infinite clip.
            std = tuple(sigma * clip if sigma else 0.0 for sigma in noise_multipliers)
            dp = DpSgd(clip / len(parts) ** 0.5, std)
        sampling = Sampling(dp is not None, spec.train.batch_size, spec.train.local_epochs)
        sizes = tuple(int(n) for n in np.diff(federation.train.offsets))
        optimizer = Optimizer.from_settings(spec.train)
        return cls(spec, protocol, network, parts, sizes, sampling, optimizer, dp)

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.spec.seed

    def part(self, name: str) -> Part:
        """Return a part by name."""
        return next(part for part in self.parts if part.name == name)

    def in_lane_order(self, clinics: Sequence[int]) -> list[int]:
        """Order clinics by descending number of records: the order of lanes, everywhere."""
        return sorted(clinics, key=lambda k: (-self.sizes[k], k))

    def participants(self, server_round: int) -> list[int]:
        """Return a round's clinics in lane order."""
        drawn = participants(self.seed, server_round, len(self.sizes), self.spec.train.participation)
        return self.in_lane_order(drawn.tolist())

    def batches(self, server_round: int, clinics: Sequence[int]) -> Batches:
        """Draw a round's batches for clinics in lane order."""
        return draw_batches(self.sampling, self.seed, server_round, clinics, [self.sizes[k] for k in clinics])
