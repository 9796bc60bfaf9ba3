"""The table ``[data]``: where the records come from and how they are prepared."""

import hashlib
import math
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from sim.problems import ScenarioError, show
from sim.settings.base import Number, Section, Sites, is_number, unique


def _public_constant(value: object) -> object:
    if value == "drop" or (is_number(value) and math.isfinite(value)):  # type: ignore[arg-type]
        return value if value == "drop" else float(value)  # type: ignore[arg-type]
    raise ValueError(f'{show(value)} is no constant; give a number to fill in, or "drop" to drop the column')


def _public_range(value: object) -> object:
    if isinstance(value, list | tuple) and len(value) == 2 and all(map(is_number, value)):
        low, high = map(float, value)
        if -math.inf < low < high < math.inf:
            return low, high
    raise ValueError(f"{show(value)} is not a range; give [lowest, highest] as two numbers")


class _Data(Section):
    test_share: Number = Field(default=0.34, gt=0, lt=1)
    one_class: Literal["refuse", "keep"] = "refuse"
    sites: Sites | None = None


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
