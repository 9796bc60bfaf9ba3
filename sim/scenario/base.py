"""What all tables share: the frozen base class and the kinds of values."""

import math
from collections.abc import Mapping
from functools import lru_cache
from hashlib import file_digest
from pathlib import Path
from typing import Annotated, Any, Final

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
)

from sim.foundation.files import status
from sim.foundation.problems import show

SCALARS: Final = (bool, int, float, str)


def is_number(value: object) -> bool:
    """Say whether a TOML value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _revive(value: object) -> object:
    return float(value) if value in ("inf", "-inf") and isinstance(value, str) else value


def plain(value: object) -> object:
    """Return a value as JSON can hold it: infinities as text."""
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
    """Return the values; raise ``ValueError`` if one comes twice."""
    if len(set(values)) < len(values):
        raise ValueError(f"{show(values)} has a value twice; name each once")
    return values


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of an ordinary file, once until it changes; ``ValueError`` or ``OSError`` if there is none."""
    found = status(path)
    return _sha256(path, found.st_mtime_ns, found.st_ctime_ns, found.st_size)


@lru_cache(maxsize=32)
def _sha256(path: Path, modified_ns: int, changed_ns: int, size: int) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


Scalar = Annotated[
    bool | int | float | str,
    BeforeValidator(_scalar),
    PlainSerializer(plain, when_used="json"),
]
Whole = Annotated[int, Strict()]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Factor = Annotated[Number, Field(le=1e6)]
"""A number whose products with others stay finite in single precision."""
Unbounded = Annotated[float, Strict(), BeforeValidator(_revive), PlainSerializer(plain, when_used="json")]
Sites = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(unique)]
SweptValues = Annotated[
    tuple[bool | int | float | str, ...],
    BeforeValidator(_swept),
    PlainSerializer(lambda values: [plain(value) for value in values], when_used="json"),
]


class Section(BaseModel):
    """A table of the scenario file: frozen, kebab-case, no unknown keys."""

    model_config = ConfigDict(
        alias_generator=lambda name: name.replace("_", "-"),
        extra="forbid",
        defer_build=True,
        frozen=True,
        serialize_by_alias=True,
        validate_by_alias=True,
        validate_by_name=True,
    )

    @classmethod
    def _fault(cls, key: str, value: Any, given: Mapping[str, Any]) -> str:
        """Say what is wrong with a field's value, beside those of the fields before it; empty if nothing is."""
        return ""

    @field_validator("*")
    @classmethod
    def _without_fault(cls, value: Any, info: ValidationInfo) -> Any:
        if said := cls._fault(str(info.field_name), value, info.data):
            raise ValueError(said)
        return value
