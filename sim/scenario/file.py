"""The scenario file: which clinics, which data, which model, and which strategies to compare.

TOML with kebab-case keys, checked into frozen objects; everything wrong is reported at once, in one line each.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, TypeVar, get_args

from pydantic import (
    AfterValidator,
    Field,
    Strict,
    ValidationError,
    model_validator,
)

from sim.foundation.problems import ScenarioError, problem_lines, show, suggest
from sim.scenario.base import SCALARS, Section, SweptValues, unique
from sim.scenario.data import DataSpec
from sim.scenario.edges import Edge, edges_fault, unused_or_missing
from sim.scenario.lookup import attack_facts
from sim.scenario.model import Model
from sim.scenario.overrides import Override, override_key, parsed_override, replaced
from sim.scenario.parties import Party, Region, layout_fault, regions_fault
from sim.scenario.privacy import Privacy
from sim.scenario.reading import read_toml, shape_problems
from sim.scenario.study import AttackTable, ClinicGroup, Scoring, Server, Strategy, Train
from sim.scenario.tune import Tune, flat, key_faults, tune_problems, tuned_in, way_to, without_tuned

_Checked = TypeVar("_Checked", bound=Section)
_NAME: Final = re.compile(r"(?!.*\.\.)[a-z0-9][a-z0-9._-]{0,63}")


_SWEPT_TABLES: Final = ("data", "model", "train", "server", "privacy")
_SWEPT_OF_CLINICS: Final = ("label-noise", "feature-shift", "hostile", "hostile-strength")


def _may_be_swept(key: str) -> bool:
    table, _, rest = key.partition(".")
    number, _, of_clinics = rest.partition(".")
    if table == "clinics":
        return number.isdecimal() and of_clinics in _SWEPT_OF_CLINICS
    return ".".join(key.split(".")[:2]) in _SWEPT_KEYS


def _swept_key(key: str) -> str:
    if _may_be_swept(key):
        return key
    table = key.partition(".")[0]
    if table == "clinics":
        known = ", ".join(f"clinics.0.{own}" for own in _SWEPT_OF_CLINICS)
        raise ValueError(f"cannot be swept; of [[clinics]] sweep {known}, or of a group with another number")
    if table not in _SWEPT_TABLES:
        tables = ", ".join(f"[{name}]" for name in _SWEPT_TABLES)
        raise ValueError(f"cannot be swept; choose a key of {tables} or [[clinics]]")
    raise ValueError(f"unknown key; {suggest(key, _SWEPT_KEYS)}")


def name_of_a_folder(name: str) -> str:
    """Return a study's name; raise ``ValueError`` if it cannot name its folder."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{show(name)} cannot name a folder; use up to 64 of a-z, 0-9, '-', '_' and single '.', "
            "the first a letter or digit"
        )
    return name


class Scenario(Section):
    """A study: everything that a scenario file says.

    A table whose keys are swept holds the first value of each, and one whose keys are tuned too where it has none.
    """

    name: Annotated[str, AfterValidator(name_of_a_folder)]
    seeds: Annotated[
        tuple[Annotated[int, Strict(), Field(ge=0, lt=2**63)], ...], Field(min_length=1), AfterValidator(unique)
    ]
    data: DataSpec
    model: Model
    train: Train
    evaluation: Scoring = Scoring()
    server: Server = Server()
    clinics: Annotated[tuple[ClinicGroup, ...], Field(min_length=1)] = (ClinicGroup(profile="hospital"),)
    parties: Annotated[tuple[Party, ...], Field(validate_default=True)] = ()
    regions: tuple[Region, ...] = ()
    edges: tuple[Edge, ...] = ()
    privacy: Privacy = Privacy()
    strategies: Annotated[tuple[Strategy, ...], Field(min_length=1)]
    sweep: dict[Annotated[str, AfterValidator(_swept_key)], SweptValues] = Field(default_factory=dict)
    tune: Tune | None = None
    attacks: tuple[AttackTable, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _hold_first_values(cls, written: Any) -> Any:
        """Put the first value of each swept key, and of each tuned key without one, in its place."""
        held = written if isinstance(written, Mapping) else {}
        if isinstance(held.get("sweep"), Mapping):
            held = {**held, "sweep": flat(held["sweep"])}
            for key, values in held["sweep"].items():
                if _may_be_swept(key) and isinstance(values, list | tuple) and values:
                    with suppress(ValueError):  # what is no table is reported as such
                        held = replaced(held, key.split("."), values[0])
        if isinstance(held.get("tune"), Mapping):
            held = without_tuned(held, ())
            for key, values in tuned_in(held).items():
                first = values.get("low") if isinstance(values, Mapping) else values
                if isinstance(values, list | tuple):
                    first = next(iter(values), None)
                keys = way_to(key, held.get("strategies"))
                with suppress(ValueError):  # likewise
                    held = held if _holds(held, keys) or first is None else replaced(held, keys, first)
        return held if isinstance(written, Mapping) else written

    @classmethod
    def _fault(cls, key: str, value: Any, given: Mapping[str, Any]) -> str:
        data, parties = given.get("data"), given.get("parties")
        match key:
            case "clinics" if sum(group.sites is None and group.count is None for group in value) > 1:
                return "more than one group has no sites; name the sites, or give the count, of all groups but one"
            case "parties" if data is not None:
                own_clinics = given.get("clinics", ()) != cls.model_fields["clinics"].default
                return layout_fault(data, value, own_clinics=own_clinics)
            case "regions" if parties is not None:
                return regions_fault(value, parties, there=getattr(data, "regions", True))
            case "edges":
                return edges_fault(value, vertical=bool(parties))
            case "attacks":
                return _fault_of_attacks(value, vertical=bool(parties))
            case "strategies":
                return _twice(value) or (unused_or_missing(given["edges"], value) if "edges" in given else "")
        return ""


def _fault_of_attacks(attacks: Sequence[AttackTable], *, vertical: bool) -> str:
    for attack in attacks if vertical else ():
        if "vertical" not in getattr(attack_facts(attack.name), "layouts", ()):
            return f"{attack.name} is not made on a vertical layout yet; take party-labels"
    twice = [attack.name for place, attack in enumerate(attacks) if attack in attacks[:place]]
    return f'"{twice[0]}" is listed twice with the same options; list it once' if twice else ""


def _twice(strategies: Sequence[Strategy]) -> str:
    runs = [(strategy.label or strategy.name, cut) for strategy in strategies for cut in strategy.cut or (None,)]
    twice = [shown for place, (shown, cut) in enumerate(runs) if (shown, cut) in runs[:place]]
    return f'"{twice[0]}" is listed twice; list it once, or give each a label of its own' if twice else ""


def _tables(model: type[Section], place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], type[Section]]]:
    """Yield each table's place, which has the kind of a source in it, and its model."""
    yield place, model
    for name, field in model.model_fields.items():
        for own in _sections_in(field.annotation):
            kind = [own.model_fields["source"].default] if "source" in own.model_fields else []
            yield from _tables(own, (*place, field.alias or name, *kind))


def _sections_in(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for part in get_args(annotation):
        yield from _sections_in(part)


_MODELS: Final = dict(_tables(Scenario))
_SWEPT_KEYS: Final = tuple(
    dict.fromkeys(
        f"{table}.{field.alias}"
        for table in _SWEPT_TABLES
        for place, model in _MODELS.items()
        if place[:1] == (table,)
        for field in model.model_fields.values()
    )
)


def load_scenario(path: str | Path, overrides: Sequence[Override] = (), only: Sequence[str] = ()) -> Scenario:
    """Read a scenario file; relative paths in it are relative to its folder.

    Parameters
    ----------
    overrides : sequence of str or of pairs
        ``"key=value"`` with a dotted key and a TOML value, for example ``"train.rounds=5"`` or
        ``"clinics.0.profile=hospital"``; text that is no TOML value is taken as a string. Or a dotted key and its
        value. A key that is set is no longer swept or tuned.
    only : sequence of str
        Names of the strategies to keep; all if empty.

    Raises
    ------
    ScenarioError
        With one line for each problem.
    """
    return _altered(read_toml(Path(path), str(path)), Path(path).parent, str(path), overrides, only)


def parse_scenario(
    mapping: Mapping[str, Any], folder: Path, overrides: Sequence[Override] = (), only: Sequence[str] = ()
) -> Scenario:
    """Check what a scenario file holds; relative paths start at the folder, and the rest is as of `load_scenario`."""
    return _altered(mapping, folder, "scenario", overrides, only)


def _altered(
    mapping: Mapping[str, Any], folder: Path, label: str, overrides: Sequence[Override], only: Sequence[str]
) -> Scenario:
    problems: list[str] = []
    for override in overrides:
        try:
            mapping = overridden(mapping, override)
        except ValueError as error:
            key = override_key(override)
            problems.append(f"{label}: {key if len(key) <= 60 else key[:57] + '...'}: {error}")
    problems += [f"{label}: strategies: {sentence}" for sentence in _not_listed(mapping.get("strategies"), only)]
    return picked(_checked(mapping, folder, label, problems), only)


def picked(scenario: Scenario, only: Sequence[str]) -> Scenario:
    """Return a scenario with those of its strategies alone that have one of the names; with all if there is none."""
    if not only:
        return scenario
    kept = tuple(strategy for strategy in scenario.strategies if strategy.name in only)
    return scenario.model_copy(update={"strategies": kept})


def validated(
    model: type[_Checked],
    mapping: Mapping[str, Any],
    label: str = "scenario",
    folder: Path | None = None,
    swept: Mapping[str, str] = MappingProxyType({}),
) -> _Checked:
    """Check a mapping with kebab-case keys against a model that has the tables of a scenario.

    Parameters
    ----------
    label : str
        What the lines of an error start with.
    folder : pathlib.Path, optional
        Where relative paths start; without it they stay as they are.
    swept : mapping of str to str
        Dotted keys whose values come from ``[sweep]`` or ``[tune]``, and the place there.

    Raises
    ------
    ScenarioError
        With one line for each problem.
    """
    try:
        return model.model_validate(mapping, context=folder and {"folder": folder}, by_alias=True, by_name=False)
    except ValidationError as error:
        raise ScenarioError(problem_lines(error, label, _MODELS, swept)) from None


def _swept_in(mapping: Mapping[str, Any]) -> dict[str, Any]:
    sweep = mapping.get("sweep")
    return flat(sweep) if isinstance(sweep, Mapping) else {}


def _holds(mapping: Mapping[str, Any], keys: Sequence[str]) -> bool:
    node: Any = mapping
    for key in keys:
        if not isinstance(node, Mapping) or key not in node:
            return isinstance(node, list)  # of a list's elements those keys have defaults
        node = node[key]
    return True


def _checked(mapping: Mapping[str, Any], folder: Path, label: str, problems: list[str]) -> Scenario:
    if wrong := [f"{label}: {problem}" for problem in shape_problems(mapping)]:
        raise ScenarioError([*problems, *wrong])
    sweep, strategies = _swept_in(mapping), mapping.get("strategies")
    problems += [f"{label}: {problem}" for problem in (*_unplaced(mapping, sweep), *tune_problems(mapping))]
    if faults := key_faults(mapping, sweep):
        problems += [f"{label}: tune.{key}: {fault}" for key, fault in faults.items()]
        mapping = without_tuned(mapping, faults)
    tuned = tuned_in(mapping)
    places = {key: f"sweep.{key}" for key in sweep} | {
        ".".join(way_to(key, strategies)): f"tune.{key}" for key in tuned
    }
    later_values = (
        {**mapping, "sweep": {**sweep, key: [value]}}
        for key, values in sweep.items()
        if isinstance(values, list | tuple)
        for value in values[1:]
        if isinstance(value, SCALARS)
    )
    checked: list[Scenario] = []
    for variant in (mapping, *later_values, *_with_tuned_values(mapping, tuned)):
        try:
            checked.append(validated(Scenario, variant, label, folder, places))
        except ScenarioError as error:
            problems.extend(error.problems)
    if problems:
        raise ScenarioError(problems)
    return checked[0]


def _with_tuned_values(mapping: Mapping[str, Any], tuned: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the tables with each tuned value, and both ends of each range, in its place."""
    for key, values in tuned.items():
        ends = [values.get("low"), values.get("high")] if isinstance(values, Mapping) else values
        for value in ends if isinstance(ends, list | tuple) else ():
            if isinstance(value, SCALARS):
                with suppress(ValueError):  # what is no table is reported as such
                    yield replaced(mapping, way_to(key, mapping.get("strategies")), value)


def _unplaced(mapping: Mapping[str, Any], sweep: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each swept key that lies behind a value, and so in no table."""
    for key in sweep:
        try:
            replaced(mapping, key.split("."), None)
        except ValueError as error:
            yield f"sweep.{key}: {error}"


def overridden(mapping: Mapping[str, Any], override: Override) -> dict[str, Any]:
    """Return a copy of a scenario's tables with one value set; a key that is set is no longer swept or tuned.

    Raises ``ValueError`` if it is no override or there is no such place.
    """
    keys, value = parsed_override(override)
    key, swept = ".".join(keys), _swept_in(mapping)
    if swept.pop(key, None) is not None:
        mapping = {**mapping, "sweep": swept}
    if key in tuned_in(mapping):
        mapping = without_tuned(mapping, (key,))
    return replaced(mapping, keys, value)


def _not_listed(strategies: object, only: Sequence[str]) -> Iterator[str]:
    tables = strategies if isinstance(strategies, list) else []
    listed = [str(table["name"]) for table in tables if isinstance(table, dict) and "name" in table]
    for name in only:
        if listed and name not in listed:
            yield f'"{name}" is not listed, so it cannot be picked; {suggest(name, listed)}'
