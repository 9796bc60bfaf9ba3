"""The tables of a scenario file as frozen objects, each checked by itself."""

import hashlib
import math
import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    Strict,
    ValidationInfo,
    field_validator,
    model_validator,
)

from sim.clinics import PROFILES
from sim.problems import ScenarioError, show, suggest
from sim.units import Compute, Duration, Rate

__all__ = [
    "BUILT_IN_STRATEGIES",
    "SCALARS",
    "ClinicGroup",
    "Csv",
    "Cut",
    "DataSpec",
    "HeartDisease",
    "Model",
    "Privacy",
    "Scalar",
    "Section",
    "Server",
    "Strategy",
    "SweptValues",
    "Train",
    "unique",
]

BUILT_IN_STRATEGIES: Final = ("centralised", "local", "fedavg", "splitfed-v1")
SCALARS: Final = (bool, int, float, str)
_SPLIT_STRATEGIES: Final = ("splitfed-v1",)
_IMPORT_PATH: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _revive(value: object) -> object:
    return float(value) if value in ("inf", "-inf") and isinstance(value, str) else value


def _plain(value: object) -> object:
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def _scalar(value: object) -> object:
    if not isinstance(value, SCALARS) or value != value:
        raise ValueError(f"{show(value)} is not a single value; give a number, text, true or false")
    return _revive(value)


def _swept(values: object) -> tuple[object, ...]:
    if not isinstance(values, list | tuple) or not values:
        raise ValueError(f"{show(values)} is not a list of values; give at least one in square brackets")
    if wrong := [value for value in values if not isinstance(value, SCALARS)]:
        raise ValueError(f"{show(wrong[0])} is not a single value; give a number, text, true or false")
    return unique(tuple(_revive(value) for value in values))


def unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the values if none comes twice.

    Parameters
    ----------
    values : tuple
        What a list of the scenario holds.

    Returns
    -------
    tuple
        The same.

    Raises
    ------
    ValueError
        If a value comes twice.
    """
    if len(set(values)) < len(values):
        raise ValueError(f"{show(values)} has a value twice; name each once")
    return values


def _public_constant(value: object) -> object:
    if value == "drop" or (_is_number(value) and math.isfinite(value)):  # type: ignore[arg-type]
        return value if value == "drop" else float(value)  # type: ignore[arg-type]
    raise ValueError(f'{show(value)} is no constant; give a number to fill in, or "drop" to drop the column')


def _public_range(value: object) -> object:
    if isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_number, value)):
        low, high = map(float, value)
        if -math.inf < low < high < math.inf:
            return low, high
    raise ValueError(f"{show(value)} is not a range; give [lowest, highest] as two numbers")


def _model_cut(value: object) -> object:
    parts = value if isinstance(value, list | tuple) and len(value) == 2 else (value,)
    if not all(_is_number(part) and isinstance(part, int) for part in parts):
        raise ValueError(f"{show(value)} is no cut; give a block number such as 1, or two such as [1, -1]")
    return tuple(parts) if len(parts) == 2 else value


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Scalar = Annotated[
    bool | int | float | str,
    BeforeValidator(_scalar),
    PlainSerializer(_plain, when_used="json"),
]
Cut = Literal["vanilla", "u-shaped"]
_Whole = Annotated[int, Strict()]
_Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
_Unbounded = Annotated[float, Strict(), BeforeValidator(_revive), PlainSerializer(_plain, when_used="json")]
_Sites = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(unique)]
SweptValues = Annotated[
    tuple[bool | int | float | str, ...],
    BeforeValidator(_swept),
    PlainSerializer(lambda values: [_plain(value) for value in values], when_used="json"),
]


class Section(BaseModel):
    """A table of the scenario file: frozen, kebab-case, no unknown keys."""

    model_config = ConfigDict(
        alias_generator=lambda name: name.replace("_", "-"),
        extra="forbid",
        frozen=True,
        serialize_by_alias=True,
        validate_by_alias=True,
        validate_by_name=True,
    )


class _Data(Section):
    test_share: _Number = Field(default=0.34, gt=0, lt=1)
    one_class: Literal["refuse", "keep"] = "refuse"
    sites: _Sites | None = None


class HeartDisease(_Data):
    """The bundled heart-disease records of four real centres."""

    source: Literal["heart-disease"] = "heart-disease"
    scaling: Literal["public", "per-clinic", "pooled"] = "public"
    held_out: Literal["seeded", "flamby"] = "seeded"


class Csv(_Data):
    """A table of the user's own, one row a record."""

    source: Literal["csv"] = "csv"
    path: Path
    label: str
    clinic: str
    features: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(unique)]
    missing: dict[str, Annotated[float | Literal["drop"], BeforeValidator(_public_constant)]] = Field(
        default_factory=dict
    )
    ranges: dict[str, Annotated[tuple[float, float], BeforeValidator(_public_range)]] = Field(default_factory=dict)
    scaling: Literal["public", "per-clinic", "pooled", "none"] = "public"

    @field_validator("path")
    @classmethod
    def _beside_the_scenario(cls, path: Path, info: ValidationInfo) -> Path:
        return Path(info.context["folder"], path).resolve() if info.context else path

    @field_validator("features")
    @classmethod
    def _features_only(cls, features: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for role in ("label", "clinic"):
            if info.data.get(role) in features:
                raise ValueError(f'"{info.data[role]}" is the {role} column; take it out of the features')
        return features

    def sha256(self) -> str:
        """Return the SHA-256 of the file's bytes.

        Returns
        -------
        str
            In hexadecimal.

        Raises
        ------
        ScenarioError
            If the file cannot be read.
        """
        try:
            status = self.path.stat()
            return _sha256(self.path, status.st_mtime_ns, status.st_size)
        except FileNotFoundError:
            raise ScenarioError([f"scenario: data.path: {self.path} does not exist; check the path"]) from None
        except OSError as error:
            raise ScenarioError(
                [f"scenario: data.path: {self.path} cannot be read ({error.strerror}); check the path"]
            ) from None


@lru_cache(maxsize=32)
def _sha256(path: Path, modified_ns: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


DataSpec = Annotated[HeartDisease | Csv, Field(discriminator="source")]


class Model(Section):
    """The network, and where it is cut."""

    name: Literal["logistic", "mlp"]
    hidden: Annotated[tuple[Annotated[_Whole, Field(gt=0)], ...], Field(min_length=1)] = (32, 16)
    cut: Annotated[int | tuple[int, int], BeforeValidator(_model_cut)] = 1
    head: Literal["binary", "softmax"] = "binary"


class Train(Section):
    """How every strategy trains."""

    rounds: _Whole = Field(ge=0)
    local_epochs: _Whole = Field(default=1, ge=1)
    batch_size: _Whole = Field(ge=1)
    optimizer: Literal["sgd", "momentum", "adam"] = "sgd"
    learning_rate: _Number = Field(gt=0)
    momentum: _Number = Field(default=0.9, ge=0, lt=1)
    participation: _Number = Field(default=1.0, gt=0, le=1)


class Server(Section):
    """The server's computer."""

    compute: Compute = 10e12
    workers: _Whole = Field(default=4, ge=1)


class ClinicGroup(Section):
    """Clinics with the same link and computer."""

    profile: str | None = None
    sites: _Sites | None = None
    uplink: Rate | None = None
    downlink: Rate | None = None
    latency: Duration | None = None
    compute: Compute | None = None

    @field_validator("profile")
    @classmethod
    def _known_profile(cls, profile: str | None) -> str | None:
        if profile is not None and profile not in PROFILES:
            raise ValueError(f'unknown profile "{profile}"; {suggest(profile, PROFILES)}')
        return profile

    @model_validator(mode="after")
    def _no_silent_zero(self) -> "ClinicGroup":
        absent = [key for key in ("uplink", "downlink", "latency", "compute") if getattr(self, key) is None]
        if self.profile is None and absent:
            raise ValueError(f"{', '.join(absent)} not given; name a profile, or give all four rates")
        return self


class Privacy(Section):
    """The mechanism that protects patients, and how strongly."""

    mechanism: Literal["none", "dp-sgd"] = "none"
    noise_multiplier: Annotated[_Number, Field(ge=0)] | None = None
    epsilon: Annotated[_Unbounded, Field(gt=0)] | None = Field(default=None, validate_default=True)
    clip: Annotated[_Unbounded, Field(gt=0)] = 1.0
    delta: Annotated[_Number, Field(gt=0, lt=1)] | None = Field(default=None, validate_default=True)

    @field_validator("noise_multiplier")
    @classmethod
    def _noise_has_a_mechanism(cls, noise: float | None, info: ValidationInfo) -> float | None:
        if noise is not None and info.data.get("mechanism") == "none":
            raise ValueError('has no effect without a mechanism; add mechanism = "dp-sgd"')
        return noise

    @field_validator("epsilon")
    @classmethod
    def _target_or_noise(cls, epsilon: float | None, info: ValidationInfo) -> float | None:
        if epsilon is not None and info.data.get("mechanism") == "none":
            raise ValueError('has no effect without a mechanism; add mechanism = "dp-sgd"')
        if info.data.get("mechanism") == "dp-sgd" and "noise_multiplier" in info.data:
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
        if delta is None and info.data.get("mechanism") == "dp-sgd":
            raise ValueError("is missing; give one below 1 / (records of the smallest clinic), such as 1e-4")
        return delta


class Strategy(Section):
    """A strategy to compare: one of Suture's, or a Flower strategy by its import path."""

    name: str
    cut: Annotated[tuple[Cut, ...], BeforeValidator(_as_tuple), AfterValidator(unique)] = Field(
        default=(), validate_default=True
    )
    options: dict[str, Scalar] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _known_name(cls, name: str) -> str:
        if name not in BUILT_IN_STRATEGIES and not _IMPORT_PATH.fullmatch(name):
            raise ValueError(f'unknown strategy "{name}"; {suggest(name, BUILT_IN_STRATEGIES)}')
        return name

    @field_validator("cut")
    @classmethod
    def _cut_where_split(cls, cut: tuple[Cut, ...], info: ValidationInfo) -> tuple[Cut, ...]:
        if info.data.get("name") in _SPLIT_STRATEGIES:
            return cut or ("vanilla",)
        if cut and "name" in info.data:
            raise ValueError(f"{info.data['name']} does not cut the model; remove cut, or take splitfed-v1")
        return cut

    @field_validator("options")
    @classmethod
    def _options_for_imported(cls, options: dict[str, Scalar], info: ValidationInfo) -> dict[str, Scalar]:
        if options and info.data.get("name") in BUILT_IN_STRATEGIES:
            raise ValueError(f"{info.data['name']} takes none; remove them, or name a strategy by its import path")
        return options
