"""The table ``[tune]``: which keys each method tunes, over which values, and on which share of the records."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import product
from typing import Annotated, Any, Final

from pydantic import ConfigDict, Field, PlainValidator, Strict, model_serializer

from sim.foundation.problems import show, suggest
from sim.foundation.rng import stream
from sim.scenario.base import SCALARS, Number, Scalar, Section, is_number, unique
from sim.scenario.model import Model
from sim.scenario.privacy import Privacy
from sim.scenario.study import Train

MOST_DRAWS: Final = 1000
_TABLES: Final[dict[str, type[Section]]] = {"model": Model, "train": Train, "privacy": Privacy}
_CLIPS: Final = ("privacy.clip", "privacy.smashed-clip", "privacy.tail-clip", "privacy.adaptive-rate")
_OF_A_STRATEGY: Final = ("proximal-mu", "order", "alternate", "options")
_SETTINGS: Final = ("validation-share", "refit")


class Range(Section):
    """An interval that values are drawn from, evenly or (``log``) evenly in the logarithm."""

    low: int | float
    high: int | float
    log: bool = False
    trials: int

    def draws(self, key: str) -> tuple[Scalar, ...]:
        """Return ``trials`` values, the same for every method, seed and study: one from each of equal slices.

        Between whole numbers they are whole, otherwise they have three significant digits.
        """
        random = stream(0, f"tune {key}")
        shares = (random.permutation(self.trials) + random.random(self.trials)) / self.trials
        low, high = (math.log(end) if self.log else end for end in (self.low, self.high))
        values = [low + share * (high - low) for share in shares.tolist()]
        values = [math.exp(value) for value in values] if self.log else values
        if isinstance(self.low, int) and isinstance(self.high, int):
            return tuple(round(value) for value in values)
        return tuple(min(max(float(f"{value:.3g}"), self.low), self.high) for value in values)


def _range(written: Mapping[str, Any]) -> Range:
    for key in written:
        if key not in ("low", "high", "log", "trials"):
            raise ValueError(f"unknown key {show(key)}; {suggest(key, ('low', 'high', 'log', 'trials'))}")
    low, high, trials, log = (written.get(key) for key in ("low", "high", "trials", "log"))
    for key, end in (("low", low), ("high", high)):
        if not is_number(end) or not math.isfinite(end or 0):
            raise ValueError(f"{key} is {'missing' if end is None else show(end)}; give a finite number")
    if not is_number(trials) or not isinstance(trials, int) or not 2 <= trials <= MOST_DRAWS:
        given = "missing" if trials is None else show(trials)
        raise ValueError(f"trials is {given}; give how many values to draw, 2 to {MOST_DRAWS:,}")
    if log not in (None, True, False):
        raise ValueError(f"log is {show(log)}; write true or false")
    if not (low or 0) < (high or 0):
        raise ValueError(f"low {show(low)} is not below high {show(high)}; exchange them")
    if log and (low or 0) <= 0:
        raise ValueError(f"low is {show(low)}; with log = true give one greater than 0")
    return Range.model_validate(dict(written))


def _values(written: object) -> tuple[Scalar, ...] | Range:
    if isinstance(written, Range):
        return written
    if isinstance(written, Mapping):
        return _range(written)
    if not isinstance(written, list | tuple) or not written:
        raise ValueError(f"{show(written)} is no list of values; give some, or {{ low, high, log, trials }}")
    if wrong := [value for value in written if not isinstance(value, SCALARS) or value != value]:
        raise ValueError(f"{show(wrong[0])} is not a single value; give a number, text, true or false")
    return unique(tuple(written))


Values = Annotated[Any, PlainValidator(_values, json_schema_input_type=tuple[Scalar, ...] | Range)]


class Tune(Section):
    """How each method tunes: every key beside these two is a dotted one with the values to try.

    ``validation_share`` is the share of each clinic's training records that trials are scored on and not trained on;
    ``refit`` says whether the chosen setting then trains on both.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Values] = Field(init=False)
    validation_share: Number = Field(default=0.25, gt=0, lt=1)
    refit: Annotated[bool, Strict()] = True

    @property
    def keys(self) -> dict[str, tuple[Scalar, ...] | Range]:
        """The tuned keys, in the order in which they are written."""
        return dict(self.__pydantic_extra__)

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        keys = {key: own.model_dump() if isinstance(own, Range) else list(own) for key, own in self.keys.items()}
        return {"validation-share": self.validation_share, "refit": self.refit, **keys}

    def settings(self, keys: Sequence[str]) -> list[dict[str, Scalar]]:
        """Return the joint settings of some of the keys: the grid of the lists by the joint draws from the ranges."""
        lists = {key: own for key, own in self.keys.items() if key in keys and isinstance(own, tuple)}
        drawn = {key: own.draws(key) for key, own in self.keys.items() if key in keys and isinstance(own, Range)}
        grid = [dict(zip(lists, values, strict=True)) for values in product(*lists.values())]
        joint = [dict(zip(drawn, values, strict=True)) for values in zip(*drawn.values(), strict=True)] or [{}]
        return [{**point, **draw} for point in grid for draw in joint]


def flat(table: Mapping[str, Any], whole: Collection[str] = ()) -> dict[str, Any]:
    """Return a table with dotted keys; a table with one of the keys in ``whole`` stays one value."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping) and value.keys().isdisjoint(whole):
            found |= {f"{key}.{rest}": own for rest, own in flat(value, whole).items()}
        else:
            found[key] = value
    return found


def tuned_in(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tuned keys of a scenario's tables, dotted, with what is written for each."""
    table = mapping.get("tune")
    written = flat(table, ("low", "high", "trials")) if isinstance(table, Mapping) else {}
    return {key: value for key, value in written.items() if key not in _SETTINGS}


def without_tuned(mapping: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """Return a scenario's tables with dotted tuned keys less some, and without the table when no key is left."""
    left = {key: value for key, value in tuned_in(mapping).items() if key not in keys}
    rest = {name: table for name, table in mapping.items() if name != "tune"}
    if not left and keys:
        return rest
    return {**rest, "tune": {**{key: mapping["tune"][key] for key in _SETTINGS if key in mapping["tune"]}, **left}}


def way_to(key: str, strategies: object) -> list[str]:
    """Return the way to a tuned key in a scenario's tables; of a strategy's key through the number of the first one."""
    for number, rest in of_strategies(key, strategies):
        return ["strategies", str(number), *rest.split(".")]
    return key.split(".")


def of_strategies(key: str, strategies: object) -> Iterator[tuple[int, str]]:
    """Yield which of the strategies a key ``strategies.<label or name>.<key of a strategy>`` is of, and that key."""
    for number, strategy in enumerate(strategies if isinstance(strategies, list | tuple) else ()):
        for name in ("label", "name"):
            own = strategy.get(name) if isinstance(strategy, Mapping) else getattr(strategy, name, None)
            if own and key.startswith(prefix := f"strategies.{own}."):
                yield number, key.removeprefix(prefix)
                break


def key_faults(mapping: Mapping[str, Any], swept: Mapping[str, Any]) -> dict[str, str]:
    """Return the tuned keys that cannot be tuned, with what is wrong and how to mend it."""
    faults = {}
    for key in tuned_in(mapping):
        if key in swept:
            faults[key] = "is swept too; take it out of [sweep] or out of [tune]"
        elif fault := _fault(key, mapping.get("strategies")):
            faults[key] = fault
    return faults


def tune_problems(mapping: Mapping[str, Any]) -> Iterator[str]:
    """Yield ``place: what is wrong; how to mend it`` for what concerns more than one key."""
    if not isinstance(mapping.get("tune"), Mapping):
        return
    keys = tuned_in(mapping)
    if not keys:
        yield 'tune: names no key; add one such as "train.learning-rate" = [0.05, 0.1, 0.3]'
    counts = {v.get("trials") for v in keys.values() if isinstance(v, Mapping)}
    if len(counts) > 1:
        yield "tune: ranges are drawn from together; give them the same trials"
    data = mapping.get("data")
    if isinstance(data, Mapping) and data.get("validation-share"):
        yield "data.validation-share: has no effect beside [tune]; remove it, tune.validation-share takes its place"


def _fault(key: str, strategies: object) -> str:
    table, *rest = key.split(".")
    if table == "strategies":
        own = [found for _, found in of_strategies(key, strategies)]
        if not own:
            return "names no strategy that is listed; write strategies.<its label or name>.<key>"
        name = own[0].partition(".")[0]
        return "" if name in _OF_A_STRATEGY else f"cannot be tuned; {suggest(name, _OF_A_STRATEGY)}"
    if table not in _TABLES:
        tables = ", ".join(f"[{name}]" for name in _TABLES)
        return f"cannot be tuned; choose a key of {tables}, or strategies.<label or name>.<key>"
    known = [f"{table}.{field.alias}" for field in _TABLES[table].model_fields.values()]
    if ".".join([table, *rest[:1]]) not in known:
        return f"unknown key; {suggest(key, known)}"
    if table == "privacy" and key not in _CLIPS:
        return f"decides what is guaranteed, so it is no matter of scores; sweep it, or tune {', '.join(_CLIPS)}"
    return ""
