"""The table ``[privacy]``: the mechanisms that protect patients, and how strongly."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from sim.foundation.problems import show, suggest
from sim.scenario.base import Factor, Number, Section, Unbounded
from sim.scenario.lookup import Place, at, mechanism_facts, mechanisms

MIN_DELTA: Final = 1e-12
"""Below it the rounding of the accountant's Fourier transform, not the mechanism, sets epsilon."""
_BESIDE: Final = frozenset({"smashed_noise_multiplier", "epsilon_server", "smashed_clip"})
"""Keys of rows at the cut that are noised beside gradients, which have the other ones then."""
TRUST: Final = frozenset({"trust", "secure_aggregation", "tolerated_drop_outs", "colluding_clinics"})
"""Keys that say who trusts whom, whatever is noised."""
TOLERATED: Final = frozenset({"clip", "delta", "smashed_clip", "tail_clip", "rows_noised_at", "labels"}) | TRUST
"""Keys that a scenario may write although no mechanism uses them: a sweep's baseline has none, for example."""


def split_up(mechanism: str) -> tuple[str, ...]:
    """Return the mechanisms of a combination ``a+b`` one by one; empty for none."""
    return () if mechanism == "none" else tuple(mechanism.split("+"))


def is_pure(mechanism: str) -> bool:
    """Whether the epsilon of a mechanism, or of a combination, needs no delta."""
    return mechanism != "none" and all(mechanism_facts(name).pure for name in split_up(mechanism))


def keys_of(mechanism: str) -> frozenset[str]:
    """Return the keys, by field, to which a mechanism or a combination gives an effect."""
    acting = split_up(mechanism)
    keys = {key for name in acting for key in mechanism_facts(name).keys}
    if at("gradients", acting) and at("rows", acting):
        keys |= _BESIDE
    if acting and not is_pure(mechanism):
        keys.add("delta")
    return frozenset(keys)


def _combined(value: object) -> object:
    """Write a list of mechanisms as one name, ``a+b``, which a sweep can hold too."""
    given = value.split("+") if isinstance(value, str) else value
    if not isinstance(given, list | tuple) or not all(isinstance(name, str) for name in given) or not given:
        raise ValueError(f"{show(value)} is no mechanism; give one such as dp-sgd, or a list of them")
    if list(given) == ["none"]:
        return "none"
    known = ("none", *mechanisms())
    if unknown := [name for name in given if name not in known]:
        raise ValueError(f"{show(unknown[0])} does not exist; {suggest(unknown[0], known)}")
    if len(set(given)) < len(given) or "none" in given:
        raise ValueError(f"{show(value)} cannot be combined: name each once, and none alone")
    places = {name: mechanism_facts(name).place for name in given}
    if len(given) > 1 and (others := [name for name in given if mechanism_facts(name).unit != "record"]):
        raise ValueError(f"{show(value)} cannot be combined: {others[0]} protects another unit, and stands alone")
    for place in places.values():
        if len(alike := [name for name in given if places[name] == place]) > 1:
            raise ValueError(
                f"{show(value)} cannot be combined: {place} get one kind of noise; keep one of {', '.join(alike)}"
            )
    return "+".join(sorted(given, key=lambda name: get_args(Place).index(places[name])))


Mechanisms = Annotated[str, BeforeValidator(_combined, json_schema_input_type=str | tuple[str, ...])]


def _within(least: float, most: float, other: float, mend: str) -> AfterValidator:
    """Refuse numbers out of a span but one: what rounds to nothing, or whose products overflow."""

    def check(value: float) -> float:
        if value != other and not least <= value <= most:
            raise ValueError(f"{show(value)} is out of range; give {least:g} to {most:g}, or {mend}")
        return value

    return AfterValidator(check)


Opponent = Literal["model-user", "server", "server-and-peers"]
Target = Annotated[Unbounded, Field(gt=0), _within(1e-6, 1e3, math.inf, "inf for no protection")]
Multiplier = Annotated[Number, Field(ge=0), _within(1e-9, 1e9, 0.0, "0 for no noise")]
Clip = Annotated[Unbounded, Field(gt=0), _within(1e-9, 1e9, math.inf, "inf without noise")]
Delta = Annotated[Number, Field(ge=0, lt=1), _within(MIN_DELTA, 1.0, 0.0, "0 where all noise is of pure epsilon")]


_TUNING: Final = frozenset({"mechanism", "adaptive_rate", "adaptive_count_noise"})
"""What says of itself whether it has an effect."""
_OF_ROWS: Final = ("noise_multiplier", "epsilon", "smashed_noise_multiplier", "epsilon_server")
"""What may give rows noise."""


def _without_effect(key: str, mechanism: str) -> str:
    """Say that a key has no effect, and how to give it one."""
    if mechanism == "none":
        return 'has no effect without a mechanism; add mechanism = "dp-sgd"'
    users = [name for name in mechanisms() if key in mechanism_facts(name).keys]
    mend = f"remove it, or add mechanism = {' or '.join(show(name) for name in users)}"
    if key in _BESIDE:
        mend = "it is for rows noised beside gradients; remove it, or take dp-sgd and smashed-noise together"
    return f"has no effect with mechanism {mechanism}; {mend}"


class Privacy(Section):
    """The mechanisms that protect patients, and how strongly.

    ``noise_multiplier`` and ``clip`` belong to what acts on gradients or updates, or to noise on rows at the cut alone.
    Beside gradients the rows have ``smashed_noise_multiplier`` and ``smashed_clip``. ``rows_noised_at`` an edge server,
    which then sees them without noise, are those that it sends on to the cloud. A multiplier is the noise's
    standard deviation over the clipping norm, for laplace its scale over the L1 norm.
    ``epsilon`` is a target against whom the mechanism is there for: the model user (gradients, updates) or the server
    (rows alone); ``stop_at_epsilon`` ends the run before it spends more than that against the same one;
    ``epsilon_server`` is one against the server beside gradients. ``label_epsilon`` is the whole guarantee of a label
    that is randomised; where nothing else is noised, ``epsilon`` may be written for it. Labels that are ``public`` are
    outside the guarantee: neighbours then have the same labels. Where all noise is of pure epsilon (laplace, label-rr),
    ``delta`` is 0, whatever is written. With ``clipping = "joint"`` the parts of a cut network exchange the norms of
    each record's gradient, un-noised. With ``adaptive_quantile`` the clip of updates starts at ``clip`` and follows
    that quantile of their norms.

    ``trust`` says what the server is taken to be: trusted, honest but curious, or active, which may lie. With
    ``secure_aggregation`` it sees the sum of what clinics train and nothing else of it, and they share the noise that
    this sum needs; a round opens none if more than ``tolerated_drop_outs`` clinics are away or lost.
    ``colluding_clinics`` of them, alone and with the server, are adversaries of their own.
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
    rows_noised_at: Literal["clinic", "edge"] = "clinic"
    label_epsilon: Target | None = Field(default=None, validate_default=True)
    labels: Literal["private", "public"] = "private"
    clipping: Literal["per-part", "joint"] = "per-part"
    stop_at_epsilon: Target | None = None
    adaptive_quantile: Annotated[Number, Field(gt=0, lt=1)] | None = None
    adaptive_rate: Annotated[Number, Field(gt=0, le=100)] = 0.2
    adaptive_count_noise: Annotated[Factor, Field(gt=0)] | None = None
    trust: Literal["trusted", "curious", "active"] = "curious"
    secure_aggregation: bool = False
    tolerated_drop_outs: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    colluding_clinics: Annotated[int, Field(ge=0, le=1_000_000)] = 0

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """The mechanisms one by one; empty for none."""
        return split_up(self.mechanism)

    @property
    def unit(self) -> Literal["record", "clinic"]:
        """What is protected."""
        return next((mechanism_facts(name).unit for name in self.mechanisms), "record")

    @property
    def noises_gradients(self) -> str | None:
        """The mechanism that clips and noises gradients, if there is one."""
        return at("gradients", self.mechanisms)

    @property
    def noises_rows(self) -> str | None:
        """The mechanism that clips and noises rows at the cut, if there is one."""
        return at("rows", self.mechanisms)

    @property
    def row_noise(self) -> tuple[float | None, float | None, float]:
        """The rows' noise multiplier, their target epsilon against the server, and their clipping norm."""
        if self.noises_gradients:
            return self.smashed_noise_multiplier, self.epsilon_server, self.smashed_clip
        return self.noise_multiplier, self.epsilon, self.clip

    def opponent(self, cut: str | None) -> Opponent:
        """Return the adversary against whom ``epsilon`` and ``stop_at_epsilon`` are stated, for a cut or without."""
        if self.secure_aggregation and cut is None:
            return "server-and-peers" if self.colluding_clinics else "server"
        return "server" if self.noises_rows and not self.noises_gradients else "model-user"

    @property
    def labels_alone(self) -> bool:
        """Whether nothing but labels is noised."""
        return len(self.mechanisms) == 1 and at("labels", self.mechanisms) is not None

    @property
    def randomises_labels(self) -> float | None:
        """The epsilon with which each label is randomised before it leaves; None where labels are not randomised."""
        return self.epsilon if self.labels_alone and self.label_epsilon is None else self.label_epsilon

    @classmethod
    def _fault(cls, key: str, value: Any, given: Mapping[str, Any]) -> str:
        mechanism = given.get("mechanism")
        without = value is None or value == cls.model_fields[key].default
        if mechanism is not None and not without and key not in TOLERATED | keys_of(mechanism) | _TUNING:
            return _without_effect(key, mechanism)
        for name in split_up(mechanism or "none"):
            if problem := mechanism_facts(name).problem(key, value, given):
                return problem
        match key:
            case "epsilon" if mechanism and "noise_multiplier" in keys_of(mechanism) and "noise_multiplier" in given:
                if value is None and given["noise_multiplier"] is None:
                    return "neither this nor noise-multiplier is given; add a target such as epsilon = 3"
                if value is not None and given["noise_multiplier"] is not None:
                    return "is given beside noise-multiplier; keep one of the two"
            case "clip" if math.isinf(value) and given.get("noise_multiplier", 0) != 0:
                return "inf is only for noise-multiplier = 0; give a finite norm such as 1.0"
            case "delta" if mechanism not in ("none", None) and not is_pure(mechanism) and not value:
                problem = "is missing" if value is None else "is 0"
                return f"{problem}; give one below 1 / (records of the smallest clinic), such as 1e-4"
            case "smashed_clip" | "tail_clip" if math.isinf(value) and any(given.get(key) for key in _OF_ROWS):
                return "inf is only for rows without noise; give a finite norm such as 1.0"
            case "secure_aggregation" if value and given.get("adaptive_quantile") is not None:
                return "goes with a fixed clip: the server learns no count of updates; drop adaptive-quantile"
            case "tolerated_drop_outs" if value and not given.get("secure_aggregation", True):
                return "has no effect without secure-aggregation = true"
            case "adaptive_count_noise" if value is not None and given.get("adaptive_quantile", 0) is None:
                return "has no effect without adaptive-quantile; add adaptive-quantile = 0.5"
        return ""

    @field_validator("delta")
    @classmethod
    def _none_of_pure_noise(cls, delta: float | None, info: ValidationInfo) -> float | None:
        return 0.0 if is_pure(info.data.get("mechanism", "none")) else delta
