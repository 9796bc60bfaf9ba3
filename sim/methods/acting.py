"""What of a run's privacy settings acts on its gradients, rows, updates and labels."""

from __future__ import annotations

from sim.data.facts import Facts
from sim.foundation.problems import ScenarioError
from sim.foundation.text import count_text
from sim.methods.sampling import participants, selected, wanted
from sim.privacy.mechanisms.clinic_level import AdaptiveClip
from sim.privacy.mechanisms.mechanism import on_gradients, on_labels
from sim.privacy.mechanisms.noises import GradientNoise, LabelNoise
from sim.privacy.secure_aggregation import SecureAggregation
from sim.scenario.privacy import Privacy
from sim.scenario.spec import RunSpec
from sim.tensor.losses import CrossEntropy, Grades, Hazards, Huber, Loss, Quantile, Squared


def gradient_noise(privacy: Privacy, trained: int, clinics: int) -> GradientNoise | None:
    """Return the clipping and noise of gradients, still without noise; None where none acts on them."""
    if (mechanism := on_gradients(privacy)) is None:
        return None
    joint = privacy.clipping == "joint" and trained > 1
    clip = mechanism.part_clip(privacy, trained, joint=joint)
    return GradientNoise(mechanism=mechanism, part_clip=clip, noise_std=(0.0,) * clinics, joint=joint)


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


def secure_aggregation(spec: RunSpec, clinics: int) -> SecureAggregation | None:
    """Return how updates are added up unseen; None where the server sees each."""
    privacy = spec.privacy
    if not privacy.secure_aggregation:
        return None
    together = wanted(clinics, spec.train.participation)
    return SecureAggregation(
        clinics=together,
        invited=min(clinics, selected(together, spec.train.over_select)),
        colluding=privacy.colluding_clinics,
        tolerated=privacy.tolerated_drop_outs,
        active=privacy.trust == "active",
    )


def label_noise(privacy: Privacy, classes: int) -> LabelNoise | None:
    """Return how labels are randomised; None where they are not."""
    mechanism, target = on_labels(privacy), privacy.randomises_labels
    if mechanism is None or target is None:
        return None
    return LabelNoise(mechanism=mechanism, classes=classes, uniform=mechanism.uniform(target, classes))


def loss_of(spec: RunSpec, facts: Facts) -> Loss:
    """Return a record's loss; ``ScenarioError`` if there are too many class weights, too few, or no classes."""
    weights, classes = spec.train.class_weights, facts.classes
    outcome = spec.data.outcome_of_a_record
    if weights is not None and outcome.kind != "classes":
        what = "grades" if outcome.of_classes else f"an {outcome.kind}"
        raise ScenarioError(f"train.class-weights: has no effect on {what}; remove it")
    if weights is not None and len(weights) != len(classes):
        listed = ", ".join(classes)
        raise ScenarioError(
            f"train.class-weights: has {count_text(len(weights), 'value')}; give one for each of the classes {listed}"
        )
    train, (low, high) = spec.train, outcome.span
    if train.loss is not None and outcome.kind != "amount":
        raise ScenarioError('train.loss: chooses among losses of amounts; remove it, or set data.outcome to "amount"')
    if outcome.kind != "amount":
        return {"time": Hazards(), "ordinal": Grades()}.get(outcome.kind) or CrossEntropy(weights or ())
    if train.huber_delta is not None:
        return Huber(2 * train.huber_delta / (high - low))
    return Squared() if train.quantile is None else Quantile(train.quantile)
