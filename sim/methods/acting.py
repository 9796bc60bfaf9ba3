"""What of a run's privacy settings acts on its gradients, rows, updates and labels."""

from __future__ import annotations

from collections.abc import Sequence

from sim.methods.sampling import participants
from sim.models import Part, never_negative
from sim.privacy.mechanisms.clinic_level import AdaptiveClip
from sim.privacy.mechanisms.mechanism import on_gradients, on_labels, on_rows
from sim.privacy.mechanisms.noises import GradientNoise, LabelNoise, RowNoise
from sim.scenario import Privacy
from sim.scenario.spec import RunSpec


def gradient_noise(privacy: Privacy, trained: int, clinics: int) -> GradientNoise | None:
    """Return the clipping and noise of gradients, still without noise; None where none acts on them."""
    if (mechanism := on_gradients(privacy)) is None:
        return None
    joint = privacy.clipping == "joint" and trained > 1
    clip = mechanism.part_clip(privacy, trained, joint=joint)
    return GradientNoise(mechanism=mechanism, part_clip=clip, noise_std=(0.0,) * clinics, joint=joint)


def row_noise(privacy: Privacy, parts: Sequence[Part]) -> RowNoise | None:
    """Return the clipping and noise of rows at a cut, still without noise; None where none acts on them."""
    if (mechanism := on_rows(privacy)) is None:
        return None
    return mechanism.acting(privacy, never_negative=never_negative(parts[0]), with_tail=len(parts) == 3)


def adaptive_clip(spec: RunSpec, clinics: int) -> AdaptiveClip | None:
    """Return how the clip of clinics' updates adapts; None where it is fixed."""
    privacy = spec.privacy
    if privacy.adaptive_quantile is None:
        return None
    together = len(participants(spec.seed, 1, clinics, spec.train.participation))
    return AdaptiveClip(
        quantile=privacy.adaptive_quantile,
        rate=privacy.adaptive_rate,
        count_noise=privacy.adaptive_count_noise or together / 20,
    )


def label_noise(privacy: Privacy, classes: int) -> LabelNoise | None:
    """Return how labels are randomised; None where they are not."""
    mechanism, target = on_labels(privacy), privacy.randomises_labels
    if mechanism is None or target is None:
        return None
    return LabelNoise(mechanism=mechanism, classes=classes, uniform=mechanism.uniform(target, classes))
