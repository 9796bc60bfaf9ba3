"""The table ``[privacy]``: the mechanisms that protect patients, and how strongly."""

import math
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from sim.foundation.problems import show, suggest
from sim.scenario.base import Factor, Number, Section, Unbounded

MIN_DELTA: Final = 1e-12
"""Below it the rounding of the accountant's Fourier transform, not the mechanism, sets epsilon."""
MECHANISMS: Final = ("dp-sgd", "smashed-noise", "laplace", "release-once", "label-rr", "clinic-level")
"""In the order in which a combination is written."""
PURE: Final = frozenset({"laplace", "laplace+label-rr", "label-rr"})
"""Mechanisms and combinations whose epsilon needs no delta."""
_ROWS: Final = ("smashed-noise", "laplace", "release-once")
"""Noise on rows at the cut, of which a run has one."""


def _combined(value: object) -> object:
    """Write a list of mechanisms as one name, ``a+b``, which a sweep can hold too."""
    names = value.split("+") if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names) or not names:
        raise ValueError(f"{show(value)} is no mechanism; give one such as dp-sgd, or a list of them")
    known = ("none", *MECHANISMS)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{show(unknown[0])} does not exist; {suggest(unknown[0], known)}")
    if len(set(names)) < len(names) or (len(names) > 1 and "none" in names):
        raise ValueError(f"{show(value)} cannot be combined: name each once, and none alone")
    if len(names) > 1 and "clinic-level" in names:
        raise ValueError(f"{show(value)} cannot be combined: clinic-level protects another unit, and stands alone")
    if len(set(names) & set(_ROWS)) > 1:
        raise ValueError(
            f"{show(value)} cannot be combined: rows get one kind of noise; keep one of {', '.join(_ROWS)}"
        )
    if {"dp-sgd", "release-once"} <= set(names):
        raise ValueError(f"{show(value)} cannot be combined: after release-once no training sees a record; drop dp-sgd")
    return "+".join(sorted(names, key=known.index))


Mechanisms = Annotated[str, BeforeValidator(_combined, json_schema_input_type=str | tuple[str, ...])]


def _within(least: float, most: float, other: float, mend: str) -> AfterValidator:
    """Refuse numbers out of a span but one: what rounds to nothing, or whose products overflow."""

    def check(value: float) -> float:
        if value != other and not least <= value <= most:
            raise ValueError(f"{show(value)} is out of range; give {least:g} to {most:g}, or {mend}")
        return value

    return AfterValidator(check)


Target = Annotated[Unbounded, Field(gt=0), _within(1e-6, 1e3, math.inf, "inf for no protection")]
Multiplier = Annotated[Number, Field(ge=0), _within(1e-9, 1e9, 0.0, "0 for no noise")]
Clip = Annotated[Unbounded, Field(gt=0), _within(1e-9, 1e9, math.inf, "inf without noise")]
Delta = Annotated[Number, Field(ge=0, lt=1), _within(MIN_DELTA, 1.0, 0.0, "0 where all noise is of pure epsilon")]


class Privacy(Section):
    """The mechanisms that protect patients, and how strongly.

    ``noise_multiplier`` and ``clip`` belong to dp-sgd or clinic-level, or to noise on rows (smashed-noise, laplace,
    release-once) without dp-sgd. Beside dp-sgd the rows have ``smashed_noise_multiplier`` and ``smashed_clip``. A
    multiplier is the noise's standard deviation over the clipping norm, for laplace its scale over the L1 norm.
    ``epsilon`` is a target against whom the mechanism is there for: the model user (dp-sgd, clinic-level) or the server
    (rows without dp-sgd); ``stop_at_epsilon`` ends the run before it spends more than that against the same one;
    ``epsilon_server`` is one against the server beside dp-sgd. ``label_epsilon`` is the whole guarantee of a label
    under label-rr; where that stands alone, ``epsilon`` may be written for it. Labels that are ``public`` are outside
    the guarantee: neighbours then have the same labels. Where all noise is of pure epsilon (laplace, label-rr),
    ``delta`` is 0, whatever is written. With ``clipping = "joint"`` the parts of a cut network exchange the norms of
    each record's gradient, un-noised. With ``adaptive_quantile`` the clip of clinic-level starts at ``clip`` and
    follows that quantile of the updates' norms.
    """

    mechanism: Mechanisms = "none"
    noise_multiplier: Multiplier | None = None
    epsilon: Target | None = Field(default=None, validate_default=True)
    clip: Clip = 1.0
    delta: Delta | None = Field(default=None, validate_default=True)
    smashed_noise_multiplier: Multiplier | None = None
    epsilon_server: Target | None = Field(default=None, validate_default=True)
    smashed_clip: Clip = 1.0
    tail_clip: Clip = 1.0
    label_epsilon: Target | None = Field(default=None, validate_default=True)
    labels: Literal["private", "public"] = "private"
    clipping: Literal["per-part", "joint"] = "per-part"
    stop_at_epsilon: Target | None = None
    adaptive_quantile: Annotated[Number, Field(gt=0, lt=1)] | None = None
    adaptive_rate: Annotated[Number, Field(gt=0, le=100)] = 0.2
    adaptive_count_noise: Annotated[Factor, Field(gt=0)] | None = None

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """The mechanisms one by one; empty for none."""
        return () if self.mechanism == "none" else tuple(self.mechanism.split("+"))

    @property
    def unit(self) -> Literal["record", "clinic"]:
        """What is protected."""
        return "clinic" if self.mechanism == "clinic-level" else "record"

    @property
    def noises_rows(self) -> str | None:
        """The mechanism that clips and noises rows at the cut, if there is one."""
        return next((name for name in self.mechanisms if name in _ROWS), None)

    @property
    def releases_once(self) -> bool:
        """Whether each record's row leaves once, before training."""
        return self.noises_rows == "release-once"

    @property
    def row_noise(self) -> tuple[float | None, float | None, float]:
        """The rows' noise multiplier, their target epsilon against the server, and their clipping norm."""
        if "dp-sgd" in self.mechanisms:
            return self.smashed_noise_multiplier, self.epsilon_server, self.smashed_clip
        return self.noise_multiplier, self.epsilon, self.clip

    @property
    def opponent(self) -> Literal["model-user", "server"]:
        """The adversary against whom the mechanism is there for, and ``epsilon`` and ``stop_at_epsilon`` are stated."""
        return "server" if self.noises_rows and "dp-sgd" not in self.mechanisms else "model-user"

    @property
    def randomises_labels(self) -> float | None:
        """The epsilon with which each label is randomised before it leaves; None where labels are not randomised."""
        if self.mechanism == "label-rr":
            return self.epsilon if self.label_epsilon is None else self.label_epsilon
        return self.label_epsilon

    @field_validator("noise_multiplier", "epsilon", "stop_at_epsilon")
    @classmethod
    def _has_a_mechanism(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and info.data.get("mechanism") == "none":
            raise ValueError('has no effect without a mechanism; add mechanism = "dp-sgd"')
        return value

    @field_validator("noise_multiplier")
    @classmethod
    def _noise_is_not_for_labels(cls, noise: float | None, info: ValidationInfo) -> float | None:
        if noise is not None and info.data.get("mechanism") == "label-rr":
            raise ValueError("has no effect on labels; give label-epsilon")
        return noise

    @field_validator("epsilon")
    @classmethod
    def _target_or_noise(cls, epsilon: float | None, info: ValidationInfo) -> float | None:
        mechanism = info.data.get("mechanism")
        if mechanism not in ("none", "label-rr", None) and "noise_multiplier" in info.data:
            noise = info.data["noise_multiplier"]
            if epsilon is None and noise is None:
                raise ValueError("neither this nor noise-multiplier is given; add a target such as epsilon = 3")
            if epsilon is not None and noise is not None:
                raise ValueError("is given beside noise-multiplier; keep one of the two")
        return epsilon

    @field_validator("clip")
    @classmethod
    def _noise_needs_a_clip(cls, clip: float, info: ValidationInfo) -> float:
        if math.isinf(clip) and info.data.get("noise_multiplier", 0) != 0:
            raise ValueError("inf is only for noise-multiplier = 0; give a finite norm such as 1.0")
        return clip

    @field_validator("delta")
    @classmethod
    def _delta_is_stated(cls, delta: float | None, info: ValidationInfo) -> float | None:
        mechanism = info.data.get("mechanism")
        if mechanism in PURE:
            return 0.0
        if mechanism not in ("none", None) and not delta:
            problem = "is missing" if delta is None else "is 0"
            raise ValueError(f"{problem}; give one below 1 / (records of the smallest clinic), such as 1e-4")
        return delta

    @field_validator("epsilon_server")
    @classmethod
    def _target_or_noise_of_rows(cls, epsilon: float | None, info: ValidationInfo) -> float | None:
        names = str(info.data.get("mechanism", "none")).split("+")
        both = "dp-sgd" in names and any(name in _ROWS for name in names)
        noise = info.data.get("smashed_noise_multiplier")
        if not both and (epsilon is not None or noise is not None):
            raise ValueError("this and smashed-noise-multiplier are for rows beside dp-sgd; give epsilon alone")
        if both and "smashed_noise_multiplier" in info.data and (epsilon is None) == (noise is None):
            raise ValueError("give either this, for example 8, or smashed-noise-multiplier beside dp-sgd")
        return epsilon

    @field_validator("label_epsilon")
    @classmethod
    def _labels_are_randomised(cls, epsilon: float | None, info: ValidationInfo) -> float | None:
        mechanism = str(info.data.get("mechanism"))
        if "label-rr" not in mechanism.split("+"):
            if epsilon is not None:
                raise ValueError('has no effect without randomised labels; add mechanism = "label-rr"')
        elif mechanism == "label-rr" and (epsilon is None) == (info.data.get("epsilon") is None):
            raise ValueError("give either this, for example 2, or epsilon in its place")
        elif mechanism != "label-rr" and epsilon is None:
            raise ValueError("is missing beside label-rr; give the epsilon of one label, such as 2")
        return epsilon

    @field_validator("labels")
    @classmethod
    def _public_labels_need_no_noise(cls, labels: str, info: ValidationInfo) -> str:
        if labels == "public" and "label-rr" in str(info.data.get("mechanism")).split("+"):
            raise ValueError('"public" labels need no label-rr; keep one of the two')
        return labels

    @field_validator("smashed_clip", "tail_clip")
    @classmethod
    def _row_noise_needs_a_clip(cls, clip: float, info: ValidationInfo) -> float:
        if math.isinf(clip) and any(
            info.data.get(key) not in (None, 0)
            for key in ("noise_multiplier", "epsilon", "smashed_noise_multiplier", "epsilon_server")
        ):
            raise ValueError("inf is only for rows without noise; give a finite norm such as 1.0")
        return clip

    @field_validator("adaptive_quantile")
    @classmethod
    def _only_updates_adapt(cls, quantile: float | None, info: ValidationInfo) -> float | None:
        mechanism = info.data.get("mechanism")
        if quantile is not None and mechanism not in ("clinic-level", None):
            raise ValueError(f'the clip of {mechanism} is fixed; remove this, or take mechanism = "clinic-level"')
        if quantile is not None and math.isinf(info.data.get("clip", 1.0)):
            raise ValueError("a clip of inf cannot adapt; give a finite privacy.clip to begin with, such as 1.0")
        return quantile

    @field_validator("adaptive_count_noise")
    @classmethod
    def _counts_only_to_adapt(cls, noise: float | None, info: ValidationInfo) -> float | None:
        if noise is not None and info.data.get("adaptive_quantile", 0) is None:
            raise ValueError("has no effect without adaptive-quantile; add adaptive-quantile = 0.5")
        return noise

    @field_validator("clipping")
    @classmethod
    def _only_gradients_are_clipped_jointly(cls, clipping: str, info: ValidationInfo) -> str:
        mechanism = str(info.data.get("mechanism", "dp-sgd"))
        if clipping == "joint" and "dp-sgd" not in mechanism.split("+"):
            raise ValueError(f"joint is for the gradients of dp-sgd, and the mechanism is {mechanism}; remove it")
        return clipping
