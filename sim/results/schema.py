"""What the files of a results folder must hold before anything is made of them: types, ranges, and names that agree.

Keys that are not named here may stand beside those that are, except columns of the table.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    TypeAdapter,
    ValidationError,
    create_model,
)

from sim.privacy.ledger import Adversary
from sim.results.columns import EVERY_COLUMN, NOISE_KEYS, UNITS, in_range, is_measured, is_setting, unit_of
from sim.results.kinds import (
    Amount,
    Bound,
    Count,
    Hash,
    Name,
    Names,
    Real,
    Rounds,
    RunId,
    Seed,
    Share,
    StudyName,
    Text,
    revived,
)
from sim.results.reading import parsed_json, refuse
from sim.scenario.base import Scalar

_OF_A_PLAN: Final = (
    "strategy", "method", "sim_seconds", "bytes_up", "bytes_down", "unit", "mechanism",
    "epsilon_model_user", "epsilon_peer", "epsilon_server",
)  # fmt: skip
"""What every run has, since its plan says it."""
_MOST_REPEATS: Final = 10**12
_LEAST_SCALE: Final = 1e-12


def kind_of(column: str) -> Any:
    """Return what a column of the table, of the rounds or of the clinics may hold, by its name."""
    if column in _FIXED:
        return _FIXED[column]
    if column.endswith(("auc", "auprc", "accuracy", "sensitivity", "share", "calibration_error", "concordance")):
        return Share
    if column.startswith("epsilon") or column.endswith("loss"):
        return Bound
    if column.endswith("kappa"):
        return Real
    if unit := unit_of(column):
        least, most = UNITS[unit]
        return Annotated[float, Strict(), Field(ge=least, le=most, allow_inf_nan=False)]
    return Amount


@lru_cache(maxsize=256)
def _value(column: str) -> TypeAdapter[Any]:
    return TypeAdapter(kind_of(column) | None)


_FIXED: Final[dict[str, Any]] = {
    "run_id": RunId,
    "study": StudyName,
    "seed": Seed,
    "status": Literal["ok", "failed"],
    "rounds": Rounds,
    "round": Rounds,
    "records": Count,
    "test_records": Count,
    "pairs": Count,
    "training_records": Count,
    **dict.fromkeys(("calibration_intercept", "calibration_slope", "net_benefit"), Real),
    **dict.fromkeys(("horizon_calibration", "validation_horizon_calibration", "best_horizon_calibration"), Real),
    "adjacency": Literal["", "zero-out", "replace-one"],
    "delta": Share,
    "error": Text,
    "held_out": Names,
    **dict.fromkeys(("strategy", "method", "cut", "worst_clinic", "unit", "mechanism"), Name),
    **dict.fromkeys(("name", "clinic", "group", "level"), Name),
}


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="allow",
        alias_generator=lambda name: name.replace("_", "-"),
        validate_by_alias=True,
        hide_input_in_errors=True,
    )


_NEEDED: Final = ("run_id", "study", "seed", "status", "rounds")
_Row: Final[Any] = create_model(  # type: ignore[call-overload]  # its stub knows no fields by name
    "_Row",
    __config__=ConfigDict(extra="allow", hide_input_in_errors=True),
    **{
        column: (kind_of(column), ...) if column in _NEEDED else (kind_of(column) | None, None)
        for column in EVERY_COLUMN
    },
)
_SWEPT: Final[TypeAdapter[Any]] = TypeAdapter(dict[Name, Scalar])
_NOISE: Final[TypeAdapter[Any]] = TypeAdapter(dict[Name, Annotated[Bound, Field(gt=0)]])


class _Clinic(_Part):
    name: Name
    records: Count


class _Plan(_Part):
    unit: Literal["record", "clinic"]
    delta: Share | None
    bytes: dict[Annotated[Name, Field(pattern="^(up|down) ")], Count]
    phase_seconds: Annotated[dict[Name, Amount], Field(alias="phase_seconds")]
    clinics: Annotated[list[_Clinic], Field(min_length=1)]
    counts: dict[Name, list[Count]]


class _Seen(_Part):
    meaning: Name
    noised: Annotated[bool, Strict()]


class _Adversary(_Part):
    adversary: Name
    sees: list[_Seen]
    epsilon: Bound
    clinic: Name
    adjacency: Name | None
    reasons: list[Name]
    advantage: Share
    true_positive_rates: dict[Literal["0.001", "0.01", "0.1"], Share]


_Pair = Annotated[list[Bound], Field(min_length=2, max_length=2)]


class _Mechanism(_Part):
    what: Name
    seen_by: list[Name]
    mechanism: Name
    noise: _Pair
    noise_is: Name
    sample_rate: _Pair | None
    times: _Pair
    counted_in: Name
    adjacency: Name


class _Outside(_Part):
    what: Name
    marking: Name
    note: Text


def _measures(entry: object) -> object:
    """Check what an attack measured, whatever it is."""
    for name, value in entry.items() if isinstance(entry, dict) else ():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if unit_of(name) and value is not None and not (number and in_range(name, value)):
            raise ValueError("holds a measure that is out of range")
    return entry


class _Attack(_Part):
    attack: Name


class _Statement(_Part):
    delta: Share | None
    adversaries: Annotated[list[_Adversary], Field(min_length=3, max_length=5)]
    mechanisms: list[_Mechanism]
    outside: list[_Outside]
    attacks: list[Annotated[_Attack, BeforeValidator(_measures)]]
    accountant: Text
    generator: Text


def _in_range(key: str, number: float) -> bool:
    """Say whether a number of an event can be counted with: a probability, a count, or a scale of noise."""
    if "prob" in key or key == "noise_parameter":
        return 0 <= number <= 1
    if "count" in key:
        return 1 <= number <= _MOST_REPEATS
    return number in (0, math.inf) or _LEAST_SCALE <= number <= 1 / _LEAST_SCALE


def _event(value: object) -> object:
    """Check the numbers of an event, whichever mechanism it is."""
    parts = [("", value)]
    for key, part in parts:
        if isinstance(part, Mapping):
            parts += part.items()
        elif isinstance(part, list):
            parts += [(key, each) for each in part]
        elif key == "class" or isinstance(part, bool) or part is None:
            continue
        elif not isinstance(number := revived(part), int | float):
            raise ValueError("holds text where a number must be")
        elif not _in_range(key, number):
            raise ValueError("holds a number that is out of range")
    return value


class _Release(_Part):
    clinic: Count
    what: Name
    adversaries: list[Adversary]
    event: Annotated[dict[str, Any], AfterValidator(_event)]
    adjacency: Literal["add-or-remove", "replace"]
    unit: Literal["record", "clinic", "label"]
    reason: Text


_RELEASES: Final = TypeAdapter(list[_Release])


class _AuditLog(_Part):
    lines: Count
    head: Hash


class _Privacy(_Part):
    releases: Annotated[str, Strict()]
    statistics: dict[Name, Name]
    statement: _Statement
    audit_log: _AuditLog | None = None


class _Record(_Part):
    spec: dict[str, Any]
    plan: _Plan
    privacy: _Privacy
    provenance: dict[Name, Name | None]
    row: dict[str, Any]


class _Listed(_Part):
    run_id: Annotated[RunId, Field(alias="run_id")]
    strategy: Name
    cut: Name
    seed: Seed
    rounds: Rounds
    estimated_seconds: Annotated[Amount, Field(alias="estimated_seconds")]


class _Trial(_Part):
    run_id: Annotated[RunId, Field(alias="run_id")]
    estimated_seconds: Annotated[Amount, Field(alias="estimated_seconds")]


class _Study(_Part):
    margin: Annotated[float, Strict(), Field(gt=0, le=0.5)]
    table: list[RunId]
    trials: list[_Trial] = []
    runs: list[_Listed]


class _Line(_Part):
    event: Literal["start", "round", "end"]
    pid: Annotated[int, Strict(), Field(gt=0, lt=2**31)] | None = None
    host: Name | None = None
    round: Rounds = 0


class _Command(_Part):
    time: Name
    command: Text
    scenario_sha256: Hash


class _Bar(_Part):
    row: Name
    phase: Name
    start: Amount
    end: Amount


class _Round(_Part):
    method: Name
    words: Text
    bars: Annotated[list[_Bar], Field(min_length=1)]


_FILES: Final[dict[str, TypeAdapter[Any]]] = {
    "run": TypeAdapter(_Record),
    "study": TypeAdapter(_Study),
    "log": TypeAdapter(list[_Line]),
    "commands": TypeAdapter(list[_Command]),
    "rounds": TypeAdapter(dict[RunId, _Round]),
}


def hold(adapter: Any, value: object, label: Path | str, place: Sequence[str] = ()) -> Any:
    """Return what an adapter or a model makes of a value; refuse one that does not fit, in one line."""
    try:
        return adapter.validate_python(value) if isinstance(adapter, TypeAdapter) else adapter.model_validate(value)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        parts = [*place, *(str(part) for part in detail["loc"])]
        where = ".".join(part for part in parts if part != "[key]")[:100]
        why = detail["msg"].removeprefix("Value error, ").removeprefix("Input ").replace("\n", " ")
        why = "should be a table" if detail["type"] in ("dataclass_type", "model_type") else why
        refuse(label, f"{where or 'the whole'}: {why}; restore the original file, or run again")


def checked(kind: str, value: Any, label: Path | str) -> Any:
    """Return what was read from a file if it is what the file must hold.

    Raises ScenarioError in one line: the first place that does not fit, and why; never what stands there.

    Parameters
    ----------
    kind : {"run", "study", "log", "commands", "rounds"}
    value : object
        As :func:`sim.results.reading.parsed_json` returns it.
    """
    hold(_FILES[kind], value, label)
    if kind == "run":
        checked_rows([value["row"]], label, finished=True)
        releases = parsed_json(value["privacy"]["releases"], f"{label}: privacy.releases")
        hold(_RELEASES, releases, label, ("privacy", "releases"))
        clinics = len(value["plan"]["clinics"])
        if any(release["clinic"] >= clinics for release in releases):
            refuse(label, "privacy.releases: names a clinic that is not in the plan; run again")
        if any(len(counts) != clinics for counts in value["plan"]["counts"].values()):
            refuse(label, "plan.counts: does not have one number per clinic; run again")
        _once([clinic["name"] for clinic in value["plan"]["clinics"]], label, "plan.clinics")
    if kind == "study":
        _once([run["run_id"] for run in value["runs"]], label, "runs")
        _once(value["table"], label, "table")
    return value


def _once(names: Sequence[str], label: Path | str, place: str) -> None:
    if len(set(names)) < len(names):
        refuse(label, f"{place}: has a duplicate name; restore the original file, or run again")


def checked_rows(rows: Sequence[Any], label: Path | str, *, finished: bool = False) -> None:
    """Refuse rows of the table that do not fit; those that are finished must say all that a plan says."""
    for row in rows:
        hold(_Row, row, label, ("row",))
        for name in filter(is_measured, row):
            hold(_value(name), row[name], label, ("row", name))
        extra = {name: value for name, value in row.items() if is_setting(name)}
        for name in (each for each in extra if "." not in each):
            refuse(label, f"row: unknown column {json.dumps(name)[:60]}; take it out")
        hold(_SWEPT, extra, label, ("row",))
        hold(_NOISE, {name: extra[name] for name in NOISE_KEYS if name in extra}, label, ("row",))
        if finished and (lacking := [name for name in _OF_A_PLAN if row.get(name) in (None, "")]):
            refuse(label, f"row.{lacking[0]}: is missing; restore the original file, or run again")
    _once([row["run_id"] for row in rows], label, "run_id")
