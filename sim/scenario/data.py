"""The table ``[data]``: where the records come from, how they stand at clinics, and how they are prepared."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    Strict,
    TypeAdapter,
    ValidationInfo,
    field_validator,
    model_validator,
)

from sim.foundation.files import absolute
from sim.foundation.plugins import registered
from sim.foundation.problems import ScenarioError, show, suggest
from sim.scenario.base import Factor, Number, Scalar, Section, Sites, Whole, file_sha256, is_number, unique
from sim.scenario.lookup import SOURCES, is_own_path
from sim.scenario.outcomes import LARGEST, MEASURED, Outcome, OutcomeKeys, Range, Words

if TYPE_CHECKING:
    from sim.scenario.in_memory import InMemory

_NEEDED: Final[dict[str, tuple[str, ...]]] = {
    "natural": (),
    "iid": ("clinics",),
    "quantity": ("clinics", "alpha"),
    "dirichlet": ("clinics", "alpha"),
    "pathological": ("clinics", "classes_per_clinic"),
    "feature-shift": ("clinics", "shift"),
}
"""The keys that each split needs; it takes no others of them."""


def _public_constant(value: object) -> object:
    if value in ("drop", "unknown") or (is_number(value) and abs(value) <= LARGEST):  # type: ignore[arg-type]
        return value if isinstance(value, str) else float(value)  # type: ignore[arg-type]
    mend = 'give a number to fill in, "unknown" for a level of its own, or "drop" to drop the column'
    raise ValueError(f"{show(value)} is no constant; {mend}")


def _indicator(value: object) -> object:
    if isinstance(value, bool):
        return value
    if isinstance(value, list | tuple) and all(isinstance(column, str) for column in value):
        return unique(tuple(value))
    raise ValueError(f"{show(value)} is no choice; give true for all columns that are filled in, or a list of columns")


def _constants(value: object) -> object:
    return _CONSTANTS.validate_python(value) if isinstance(value, Mapping) else _public_constant(value)


_Missing = float | Literal["drop", "unknown"]
_Constant = Annotated[_Missing, BeforeValidator(_public_constant)]
_CONSTANTS: Final = TypeAdapter(dict[str, _Constant])
_Columns = Annotated[tuple[str, ...], AfterValidator(unique)]
_Positive = Annotated[Factor, Field(gt=0)]
_Spread = Annotated[Number, Field(ge=0, le=1000)]
_Count = Annotated[Whole, Field(ge=1, le=1_000_000)]


def _fault_of_the_split(key: str, value: object, split: str | None) -> str:
    if split is not None and value is None and key in _NEEDED[split]:
        return f'is missing; split = "{split}" needs it'
    if split is not None and value is not None and key not in _NEEDED[split]:
        suited = " or ".join(f'"{name}"' for name, needed in _NEEDED.items() if key in needed)
        return f'has no effect with split = "{split}"; remove it, or set data.split to {suited}'
    return ""


class _Data(Section):
    """What all sources share; the records of ``sites`` are used, or of all clinics of the source but ``exclude-sites``.

    Horizontally, each clinic holds all columns of its own patients; vertically, each of ``[[parties]]`` holds its
    columns of all patients; with ``regions`` what is a clinic otherwise is a region, with patients and parties of its
    own. Of clinics that are then left, or made, those with fewer than `min_records` records are left out.

    With ``test = "held-out-clinics"`` a run holds out all records of some clinics, which take no part in training:
    those of `test_sites`, or of one fold of `folds`, without which each clinic is left out in turn.

    Held-out and validation records are drawn without looking at labels, or within each class where ``stratified``: one
    label then decides where other records stand, which no guarantee covers.
    """

    layout: Literal["horizontal", "vertical"] = "horizontal"
    regions: Annotated[bool, Strict()] = False
    test_share: Number = Field(default=0.34, gt=0, lt=1)
    validation_share: Number = Field(default=0.0, ge=0, lt=1)
    test: Literal["held-out-records", "held-out-clinics"] = "held-out-records"
    folds: Annotated[Whole, Field(ge=2)] | None = None
    test_sites: Sites | None = None
    stratified: bool = False
    one_class: Literal["keep", "refuse"] = "keep"
    sites: Sites | None = None
    exclude_sites: Sites | None = None
    min_records: _Count | None = None
    split: Literal["natural", "iid", "quantity", "dirichlet", "pathological", "feature-shift"] = "natural"
    alpha: _Positive | None = Field(default=None, validate_default=True)
    classes_per_clinic: _Count | None = Field(default=None, validate_default=True)
    shift: _Positive | None = Field(default=None, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _placed_by_its_key(cls, written: Any) -> Any:
        """Write the absent key out: pydantic would place what is wrong with its default under the field's name."""
        if isinstance(written, Mapping) and "classes_per_clinic" not in written:
            return {"classes-per-clinic": None, **written}
        return written

    @property
    def outcome_of_a_record(self) -> Outcome:
        """What is predicted."""
        return Outcome()

    @classmethod
    def _fault(cls, key: str, value: Any, given: Mapping[str, Any]) -> str:
        match key:
            case "regions" if value and given.get("layout") == "horizontal":
                return 'has no effect on a horizontal layout; remove it, or set data.layout to "vertical"'
            case "exclude_sites" if value is not None and given.get("sites") is not None:
                return "has no effect beside data.sites, which are all that is used; remove one of the two"
            case "folds" | "test_sites" if value is not None and given.get("test") == "held-out-records":
                return 'has no effect on held-out records; remove it, or set data.test to "held-out-clinics"'
            case "test_sites" if value is not None and given.get("folds") is not None:
                return "has no effect beside data.folds, which hold out every clinic once; remove one of the two"
            case "alpha" | "classes_per_clinic" | "shift":
                return _fault_of_the_split(key, value, given.get("split"))
        return super()._fault(key, value, given)


class _Found(_Data):
    """Records that exist, and are dealt out to `clinics` unless the split is natural."""

    clinics: _Count | None = Field(default=None, validate_default=True)

    @classmethod
    def _fault(cls, key: str, value: Any, given: Mapping[str, Any]) -> str:
        if key == "clinics":
            return _fault_of_the_split(key, value, given.get("split"))
        return super()._fault(key, value, given)


class HeartDisease(_Found):
    """The bundled heart-disease records of four real centres."""

    source: Literal["heart-disease"] = "heart-disease"
    scaling: Literal["public", "per-clinic", "pooled"] = "public"
    imaging: Annotated[bool, Strict()] = False
    outcome: Literal["binary", "ordinal"] | None = None
    held_out: Literal["seeded", "flamby"] = "seeded"

    @property
    def outcome_of_a_record(self) -> Outcome:
        """What is predicted: disease or none, or its severity of 0 to 4."""
        return Outcome(kind="ordinal" if self.outcome == "ordinal" else "classes")

    @classmethod
    def _fault(cls, key: str, value: Any, given: Mapping[str, Any]) -> str:
        if key == "held_out" and value == "flamby" and given.get("test") == "held-out-clinics":
            return 'names records, and data.test = "held-out-clinics" holds out clinics; remove one of them'
        return super()._fault(key, value, given)


class DataFile(_Found):
    """A file of the user's own; `clinic` and `patient` name columns or arrays."""

    path: Path
    clinic: str | None = Field(default=None, validate_default=True)
    patient: str | None = None

    @field_validator("path")
    @classmethod
    def _beside_the_scenario(cls, path: Path, info: ValidationInfo) -> Path:
        return absolute(info.context["folder"], path) if info.context else path

    @classmethod
    def _fault(cls, key: str, value: Any, given: Mapping[str, Any]) -> str:
        if key != "clinic" or value is not None:
            return super()._fault(key, value, given)
        for other in ("sites", "exclude-sites"):
            if given.get(other.replace("-", "_")) is not None:
                return f"is missing; name what holds the clinics, or remove data.{other}"
        one_place = given.get("layout") == "vertical" and not given.get("regions")
        if given.get("split") == "natural" and not one_place:
            return 'is missing; name what holds the clinics, or deal the records out with split = "iid"'
        return ""

    def sha256(self) -> str:
        """Return the SHA-256 of the file's bytes; raise ``ScenarioError`` if it cannot be read."""
        try:
            return file_sha256(self.path)
        except ValueError as error:
            raise ScenarioError(f"scenario: data.path: {self.path} {error}") from None
        except OSError as error:
            raise ScenarioError(
                f"scenario: data.path: {self.path} cannot be read ({error.strerror}); check the path"
            ) from None


class TableFile(OutcomeKeys, DataFile):
    """A table of the user's own, one row a record; see ``sim.data.table`` for what the keys mean."""

    max_records_per_patient: _Count | None = None
    features: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(unique)] | None = None
    exclude: _Columns = ()
    categorical: _Columns = ()
    levels: dict[str, Words] = Field(default_factory=dict)
    missing: Annotated[dict[str, _Missing] | _Missing, BeforeValidator(_constants)] = Field(default_factory=dict)
    missing_indicator: Annotated[bool | tuple[str, ...], BeforeValidator(_indicator)] = False
    ranges: dict[str, Range] = Field(default_factory=dict)
    scaling: Literal["public", "per-clinic", "pooled", "none"] = "public"

    @model_validator(mode="after")
    def _without_classes(self) -> Self:
        if self.outcome not in MEASURED:
            return self
        for key, value, other in (
            ("stratified", self.stratified, False),
            ("one-class", self.one_class, "keep"),
            ("split", self.split if self.split in ("dirichlet", "pathological") else "natural", "natural"),
        ):
            if value != other:
                raise ValueError(f'{key} = {json.dumps(value)} needs classes, and outcome = "{self.outcome}" has none')
        return self

    @classmethod
    def _fault(cls, key: str, value: Any, given: Mapping[str, Any]) -> str:
        match key:
            case "max_records_per_patient" if value is not None and given.get("patient") is None:
                return "has no effect without patients; name their column in data.patient"
            case "features":
                for role in ("label", "time", "event", "clinic", "patient"):
                    if given.get(role) in (value or ()):
                        return f'"{given[role]}" is the {role} column; take it out of the features'
            case "exclude" if value and given.get("features") is not None:
                return "has no effect beside data.features; remove one of the two"
            case "levels":
                if unknown := [column for column in value if column not in given.get("categorical", value)]:
                    return f'"{unknown[0]}" is not one of data.categorical; add it there, or remove its levels'
        return super()._fault(key, value, given)


class Csv(TableFile):
    """Comma-separated text, also compressed (.gz, .bz2, .xz, .zip)."""

    source: Literal["csv"] = "csv"


class Parquet(TableFile):
    """A Parquet file."""

    source: Literal["parquet"] = "parquet"


class Loader(TableFile):
    """What a function of the user's own returns, which `path` names; `options` are its arguments.

    It returns what :func:`sim.scenario.in_memory.in_memory` takes. Arrays and columns of its own making are called
    ``x``, ``y``, ``clinic`` and ``patient``. No file is written that outlives the process, unless that is
    killed.
    """

    source: Literal["loader"] = "loader"
    options: dict[str, Scalar] = Field(default_factory=dict)

    @field_validator("path")
    @classmethod
    def _beside_the_scenario(cls, path: Path, info: ValidationInfo) -> Path:
        if not is_own_path(str(path)) and str(path) not in (known := registered(SOURCES)):
            mend = f"{suggest(path, known)}, or" if known else "give"
            raise ValueError(f'"{path}" is no loader; {mend} an import path such as "package.module:function"')
        return path

    def sha256(self) -> str:
        """Return the SHA-256 of what it returns; raise ``ScenarioError`` if it cannot be used."""
        return self._records()[0].digest

    def as_file(self) -> "Csv | Npz":
        """Return the source that the file of what it returns is; raises as :meth:`sha256`."""
        records, path = self._records()
        own = self.model_dump(exclude={"source", "path", "options"}, exclude_defaults=True, by_alias=False)
        if records.settings["source"] == "csv":
            return Csv(**own, path=path)
        if faults := [key for key in own if key not in Npz.model_fields]:
            raise ScenarioError(f"scenario: data.{faults[0].replace('_', '-')}: has no effect on arrays; remove it")
        return Npz(**own, path=path, x="x")

    def _records(self) -> "tuple[InMemory, Path]":
        from sim.scenario.in_memory import records_of

        return records_of(str(self.path), json.dumps(self.options, sort_keys=True))


class Npz(DataFile):
    """Images or signals in a NumPy archive; MedMNIST's arrays need no names. See ``sim.data.arrays``."""

    source: Literal["npz"] = "npz"
    x: str | None = None
    label: str | None = Field(default=None, validate_default=True)
    range: Range | None = None

    @classmethod
    def _fault(cls, key: str, value: Any, given: Mapping[str, Any]) -> str:
        x = given.get("x")
        if key == "label" and (x is None) != (value is None):
            return "data.x and data.label belong together; name both, or neither for MedMNIST's arrays"
        for role in ("clinic", "patient"):
            if key == "label" and x is None and given.get(role) is not None:
                return f"is missing; beside data.{role} name the arrays of records (data.x) and of labels"
        return super()._fault(key, value, given)


class Synthetic(_Data):
    """Made-up patients of clinics that differ; see ``sim.data.synthetic`` for the law."""

    source: Literal["synthetic"] = "synthetic"
    clinics: _Count
    records: Annotated[Whole, Field(ge=1, le=10**12)]
    features: _Count = 20
    classes: Annotated[Whole, Field(ge=2, le=256)] = 2
    prevalence: Annotated[Number, Field(gt=0, lt=1)] | None = None
    size_spread: Annotated[Number, Field(ge=0, le=10)] = 1.0
    feature_shift: _Spread = 0.5
    intercept_shift: _Spread = 0.5
    signal: _Spread = 1.5

    @classmethod
    def _fault(cls, key: str, value: Any, given: Mapping[str, Any]) -> str:
        if key == "records" and value < 2 * given.get("clinics", 0):
            return f"{value} are too few for {given['clinics']} clinics; give at least two a clinic"
        return super()._fault(key, value, given)


DataSpec = Annotated[HeartDisease | Csv | Parquet | Loader | Npz | Synthetic, Field(discriminator="source")]
