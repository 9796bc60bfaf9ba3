"""What is predicted of a record: its class or grade, an amount, or the time until an event; what each is judged by."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from sim.foundation.problems import COUNTED, LISTED, show
from sim.scenario.base import Factor, Section, Whole, is_number, unique

Kind = Literal["classes", "ordinal", "amount", "time"]
STEPS: Final = 2**24
"""An amount travels as one of so many steps of its public range and one more: what a float32 tells apart."""
MOST_INTERVALS: Final = 127
"""Of times: interval and event then fit one byte."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What is predicted; every number here is public."""

    kind: Kind = "classes"
    edges: tuple[float, ...] = ()  # Of times: where each interval ends; the first begins at 0, the last is the horizon
    span: tuple[float, float] = (-1.0, 1.0)  # Of amounts: their range, which becomes -1 to 1

    @property
    def of_classes(self) -> bool:
        """Whether a record has a class; grades are classes in order."""
        return self.kind in ("classes", "ordinal")

    @property
    def headline(self) -> "Headline":
        """The score that methods are compared by."""
        return HEADLINES[self.kind]


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The names of a score within clinics, and of the same over all records."""

    within: str  # Column: of pairs, or of deviations, within clinics only
    pooled: str  # Column: over all records; a clinic's own has the same name
    word: str  # What a clinic's own is called in text

    @property
    def worst(self) -> str:
        """The column of the lowest score of a clinic."""
        return f"worst_clinic_{self.pooled}"


HEADLINES: Final = MappingProxyType(
    {
        "classes": Headline(within="within_clinic_auc", pooled="auc", word="AUC"),
        "ordinal": Headline(within="within_clinic_ordinal_auc", pooled="ordinal_auc", word="ordinal AUC"),
        "amount": Headline(within="within_clinic_r2", pooled="r2", word="R²"),
        "time": Headline(within="within_clinic_concordance", pooled="concordance", word="concordance"),
    }
)


_Positive = Annotated[Factor, Field(gt=0)]
_Edges = Annotated[tuple[_Positive, ...], Field(min_length=1, max_length=MOST_INTERVALS - 1)]
NEEDED_OF: Final[dict[str, tuple[str, ...]]] = {
    "time": ("time", "event", "horizon"),
    "amount": ("label", "label_range"),
    "ordinal": ("label", "grades"),
}
"""The keys that an outcome needs; classes need the label."""
MEASURED: Final = ("time", "amount")
"""The outcomes that have no classes."""
_ASKED_FOR: Final = {
    "label": "name the column to predict",
    "label_range": "state the public [lowest, highest] of the amounts, which scales them",
    "grades": "list the values of the label from the lowest grade to the highest",
    "time": "name the column of times until the event or the end of follow-up",
    "event": "name the column that says whether the event was seen (1) or follow-up ended before it (0)",
    "horizon": "state up to what time to predict, a public number in the unit of data.time",
}
LARGEST: Final = 1e30
"""Largest public constant or end of a range: what scaling makes of it stays finite."""
_INTERVALS: Final = 20
"""How many intervals of equal length times have unless stated."""


def _public_range(value: object) -> object:
    if isinstance(value, list | tuple) and len(value) == 2 and all(map(is_number, value)):
        low, high = map(float, value)
        if -LARGEST <= low < high <= LARGEST:
            return low, high
    dotted = "; put a column's name that has a dot into quotes" if isinstance(value, dict) else ""
    raise ValueError(f"{show(value)} is not a range; give [lowest, highest] as two numbers{dotted}")


def _words(value: object) -> object:
    words = value if isinstance(value, list | tuple) else (value,)
    if wrong := [word for word in words if not isinstance(word, int | str) or isinstance(word, bool)]:
        raise ValueError(f"{show(wrong[0])} is no value of a column; give text or a whole number")
    return tuple(str(word) for word in words)


Range = Annotated[tuple[float, float], BeforeValidator(_public_range)]
Words = Annotated[
    tuple[str, ...],
    Field(min_length=1),
    BeforeValidator(_words, json_schema_input_type=int | str | tuple[int | str, ...]),
    AfterValidator(unique),
]
Intervals = Annotated[
    Annotated[Whole, Field(ge=1, le=MOST_INTERVALS), Tag(COUNTED)] | Annotated[_Edges, Tag(LISTED)],
    Discriminator(lambda value: LISTED if isinstance(value, list | tuple) else COUNTED),
]


def _fault_of_the_outcome(key: str, value: object, outcome: str | None) -> str:
    needed = NEEDED_OF.get(outcome or "", ("label",))
    if value is None and key in needed:
        return f"is missing; {_ASKED_FOR[key]}"
    if value is not None and key not in needed:
        suited = " or ".join(f'"{name}"' for name, own in {**NEEDED_OF, "classes": ("label",)}.items() if key in own)
        shown = f'outcome = "{outcome}"' if outcome else "classes"
        return f"has no effect with {shown}; remove it, or set data.outcome to {suited}"
    return ""


class OutcomeKeys(Section):
    """What is predicted of a record of a table: the keys of ``[data]`` that say so."""

    outcome: Literal["binary", "classes", "ordinal", "amount", "time"] | None = None
    label: str | None = Field(default=None, validate_default=True)
    grades: Annotated[Words, Field(min_length=2)] | None = Field(default=None, validate_default=True)
    label_range: Range | None = Field(default=None, validate_default=True)
    time: str | None = Field(default=None, validate_default=True)
    event: str | None = Field(default=None, validate_default=True)
    horizon: _Positive | None = Field(default=None, validate_default=True)
    intervals: Intervals | None = None
    positive: Words | None = None

    @classmethod
    def _fault(cls, key: str, value: Any, given: Mapping[str, Any]) -> str:
        outcome = given.get("outcome")
        match key:
            case "label" | "grades" | "label_range" | "time" | "event" | "horizon" if "outcome" in given:
                return _fault_of_the_outcome(key, value, outcome)
            case "intervals" if value is not None and given.get("outcome", "time") != "time":
                return 'has no effect without times; remove it, or set data.outcome to "time"'
            case "intervals" if isinstance(value, tuple) and (horizon := given.get("horizon")) is not None:
                if any(high <= low for low, high in pairwise((0.0, *value, horizon))):
                    return f"{show(value)} do not ascend to the horizon {horizon:g}; write edges before it"
            case "positive" if value is not None and outcome in ("amount", "ordinal"):
                return f"has no effect on {'amounts' if outcome == 'amount' else 'grades'}; remove it"
        return super()._fault(key, value, given)

    @property
    def outcome_of_a_record(self) -> Outcome:
        """What is predicted."""
        if self.outcome == "amount" and self.label_range is not None:
            return Outcome(kind="amount", span=self.label_range)
        if self.outcome == "ordinal":
            return Outcome(kind="ordinal")
        if self.outcome != "time" or self.horizon is None:
            return Outcome()
        if isinstance(self.intervals, tuple):
            return Outcome(kind="time", edges=(*self.intervals, self.horizon))
        count = self.intervals or _INTERVALS
        return Outcome(kind="time", edges=tuple(self.horizon * (j + 1) / count for j in range(count)))

    @property
    def classes_column(self) -> str | None:
        """The column of words in which a record's class stands, or whether its event was seen."""
        return {"time": self.event, "amount": None}.get(self.outcome or "classes", self.label)

    @property
    def measured_column(self) -> str | None:
        """The column of numbers to predict: a time or an amount."""
        return {"time": self.time, "amount": self.label}.get(self.outcome or "classes")


def outcome_of(data: Mapping[str, Any]) -> Outcome:
    """Return what is predicted by the settings ``[data]`` of a finished run, in plain values."""
    if data.get("outcome") not in MEASURED:
        return Outcome(kind="ordinal" if data.get("outcome") == "ordinal" else "classes")
    keys = {key for field in OutcomeKeys.model_fields if (key := field.replace("_", "-")) in data}
    return OutcomeKeys.model_validate({key: data[key] for key in keys}).outcome_of_a_record
