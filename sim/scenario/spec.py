"""One run of a study, and the list of all its runs."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import Any, Final, Literal

from pydantic import Field

from sim.foundation.plugins import registered
from sim.foundation.problems import ScenarioError
from sim.scenario.base import Scalar, Section
from sim.scenario.clinics import PROFILES as BUILT_IN_PROFILES
from sim.scenario.code import NOT_THEIRS, code_digest
from sim.scenario.data import DataFile, DataSpec, Loader
from sim.scenario.edges import Edge, goes_through_edges
from sim.scenario.file import Scenario, validated
from sim.scenario.lookup import (
    ATTACKS,
    MECHANISMS,
    METHODS,
    MODELS,
    PROFILES,
    SOURCES,
    at,
    is_flower_path,
    is_own_path,
)
from sim.scenario.model import Model
from sim.scenario.overrides import replaced
from sim.scenario.parties import Party, Region, as_clinics, clinics_of, is_of_clinics, other_patients
from sim.scenario.privacy import TRUST, Privacy
from sim.scenario.study import ClinicGroup, Cut, Scoring, Server, Strategy, Train

RESULTS_VERSION: Final = 8
"""Raised when the same spec would give other numbers, so that finished runs are not taken for current ones."""

TUNED: Final = "tuned."
"""How the columns of tuned keys begin."""
MOST_RUNS: Final = 10_000
_SAME_WITHOUT: Final[dict[str, tuple[tuple[str, object], ...]]] = {
    "train": (
        ("weight-decay", 0.0),
        ("schedule", "constant"),
        ("nopeek", 0.0),
        ("loss", None),
        ("huber-delta", None),
        ("quantile", None),
        ("smashed-top-k", 1.0),
        ("update-dtype", "float32"),
        ("update-top-k", 1.0),
        ("autocast", None),
    ),
    "data": (
        *(("layout", "horizontal"), ("regions", False), ("imaging", False)),
        *(
            (key, None)
            for key in ("outcome", "label", "grades", "label-range", "time", "event", "horizon", "intervals")
        ),
    ),
    "model": (("cut-dropout", 0.0),),
    "evaluation": (("groups", []),),
    "clinics": (("label-noise", 0.0), ("missing-columns", []), ("feature-shift", 0.0), ("hostile", None)),
    "parties": (("regions", None),),
    "privacy": (("rows-noised-at", "clinic"),),
}
"""By table, settings that a run would be the same without."""
_IF_ANY: Final = ("parties", "regions", "edges")
"""Lists of tables that a run is the same without where they are empty."""
_OF_THE_STUDY: Final = ("margin", "reference")
"""Settings of ``[evaluation]`` that change no run."""
REFERENCE: Final = "prevalence"
"""The strategy that is part of every study unless it says otherwise."""
_BEHAVIOUR: Final = ("availability", "drop_out", "straggler", "hostile", "hostile_strength")
_OF_RECORDS: Final = (".label-noise", ".feature-shift")
"""How swept keys of ``[[clinics]]`` end that change records."""
_BATCH: Final = 100
_TABLES: Final = ("data", "model", "train", "evaluation", "server", "clinics", "parties", "regions", "edges", "privacy")


class RunStrategy(Section):
    """The strategy of one run, with one cut."""

    name: str
    label: str = ""
    cut: Cut | None = None
    order: Literal["random", "fixed"] | None = None
    alternate: Literal["clinic", "mini-batch"] | None = None
    proximal_mu: float = 0.0
    options: dict[str, Scalar] = Field(default_factory=dict)


class RunSpec(Section):
    """Everything that decides a run's numbers, and the study it belongs to."""

    study: str
    seed: int
    data: DataSpec
    model: Model
    train: Train
    evaluation: Scoring
    server: Server
    clinics: tuple[ClinicGroup, ...]
    parties: tuple[Party, ...] = ()
    regions: tuple[Region, ...] = ()
    edges: tuple[Edge, ...] = ()
    privacy: Privacy
    strategy: RunStrategy
    swept: dict[str, Scalar] = Field(default_factory=dict)
    tuned: dict[str, Scalar] = Field(default_factory=dict)

    @property
    def run_id(self) -> str:
        """The run's name: the first 16 hexadecimal digits of its digest."""
        return self.digest[:16]

    @property
    def digest(self) -> str:
        """64 hexadecimal digits that depend on the spec's content alone.

        The study's name and the margin are left out, and a data file counts with its bytes, not with its place.
        """
        data = self.data.sha256() if isinstance(self.data, DataFile) else None
        return digest_of(self.model_dump(mode="json"), data, self.model.public_digest(), code_of(self), RESULTS_VERSION)


def digest_of(
    settings: Mapping[str, Any],
    data_sha256: str | None,
    public_head: str,
    code: Mapping[str, str],
    results_version: int,
) -> str:
    """Return the digest of a run with these settings, those of a :class:`RunSpec` in plain values.

    ``data_sha256`` is None where the data come from no file; ``public_head`` is as ``Model.public_digest``, ``code`` as
    :func:`code_of` returns it.
    """
    content: dict[str, Any] = {
        key: _telling(key, value) for key, value in settings.items() if key != "study" and (value or key not in _IF_ANY)
    }
    for key in _OF_THE_STUDY:
        content["evaluation"].pop(key, None)
    for group in content["clinics"]:
        if "hostile" not in group:
            group.pop("hostile-strength", None)
    content["model"]["public-head"] = public_head
    if data_sha256 is not None:
        content["data"]["path"] = data_sha256
    content |= {"results-version": results_version, **({"code": dict(code)} if code else {})}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _telling(table: str, value: Any) -> Any:
    """Return what a run's settings hold under a key without what it would be the same without."""
    if isinstance(value, Mapping):
        return {key: own for key, own in value.items() if (key, own) not in _SAME_WITHOUT.get(table, ())}
    return [_telling(table, own) for own in value] if table in ("clinics", *_IF_ANY) else value


def imports(study: Scenario | RunSpec, strategies: Iterable[Strategy | RunStrategy]) -> list[tuple[str, str]]:
    """Return what a scenario or a run imports by path: training it, or only planning it, runs that code.

    Each is a kind, such as ``factory``, ``method`` or ``strategy``, and the import path.
    """
    return [(kind, name) for kind, name in _named(study, strategies) if not _is_registered(kind, name)]


def code_of(spec: RunSpec) -> dict[str, str]:
    """Return the digest of each module of others that a run is made of: by path, and by registered name."""
    return code_digests(_named(spec, [spec.strategy]))


_GROUPS: Final = {
    "factory": MODELS,
    "loader": SOURCES,
    "profile": PROFILES,
    "method": METHODS,
    "attack": ATTACKS,
    "mechanism": MECHANISMS,
}
"""Where names of each kind are registered."""


def _named(study: Scenario | RunSpec, strategies: Iterable[Strategy | RunStrategy]) -> list[tuple[str, str]]:
    """Return all code by name or import path."""
    named = [("loader", str(study.data.path))] if isinstance(study.data, Loader) else []
    for group in (*study.clinics, *study.parties, *study.regions, *study.edges):
        profiles = [group.profile] if isinstance(group.profile, str) else group.profile or ()
        named += [("profile", name) for name in profiles if name not in BUILT_IN_PROFILES]
    named += [("mechanism", name) for name in study.privacy.mechanisms]
    named += [] if study.model.factory is None else [("factory", study.model.factory)]
    for strategy in strategies:
        own = getattr(strategy, "set", {}).get("model", {}).get("factory")
        named += [] if own is None else [("factory", str(own))]
        if is_own_path(strategy.name):
            named.append(("method", strategy.name))
        elif is_flower_path(strategy.name):
            inner = [value for key, value in strategy.options.items() if key == "strategy" and isinstance(value, str)]
            named += [("strategy", name) for name in (strategy.name, *inner)]
        elif _is_registered("method", strategy.name):
            named.append(("method", strategy.name))
    return list(dict.fromkeys(named))


def _is_registered(kind: str, name: str) -> bool:
    return kind in _GROUPS and name in registered(_GROUPS[kind])


def code_digests(named: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the digest of the code behind each name or import path of a user's own, without importing it.

    See :func:`sim.scenario.code.code_digest`. What comes with Suture or with Flower is known by its version.
    """
    found = {}
    for kind, path in named:
        module = path.rpartition(".")[0] if kind == "strategy" else path.partition(":")[0]
        if _is_registered(kind, path):
            module = registered(_GROUPS[kind])[path].module
        if module.partition(".")[0] not in NOT_THEIRS and (digest := code_digest(module)) is not None:
            found[path] = digest
    return found


def expand(scenario: Scenario) -> list[RunSpec]:
    """Return the runs of a scenario.

    Strategies, within them cuts, within them the product of the swept values, within it seeds; each in the order in
    which it is written. A target of ``epsilon = inf`` has become mechanism ``none``, or what is left of a combination
    with ``label-rr``.

    Raises
    ------
    ScenarioError
        With one line for each combination of swept values, or of what a strategy sets, that cannot be run.
    """
    cuts = sum(len(strategy.cut) or 1 for strategy in scenario.strategies)
    runs = math.prod([cuts, len(scenario.seeds), *map(len, scenario.sweep.values())])
    if runs > MOST_RUNS:
        raise ScenarioError(f"scenario: sweep: {runs:,} runs, and a study has at most {MOST_RUNS:,}; sweep less")
    if scenario.parties:
        scenario = scenario.model_copy(update={"clinics": clinics_of(scenario.parties)})
    common = _settings(scenario, {}, "scenario")
    of_clinics = _with_regions_as_clinics(scenario)
    specs: list[RunSpec] = []
    problems: list[str] = []
    for number, strategy in enumerate(scenario.strategies):
        if study_fault := other_patients(scenario.data.regions, scenario.parties, strategy.name):
            problems.append(f"scenario: strategies.{number}.name: {study_fault}")
            continue
        if strategy.name == REFERENCE:
            specs += _references(scenario, strategy, f"scenario: strategies.{number}.set")
            continue
        try:
            study = of_clinics if is_of_clinics(strategy.name) else scenario
            alike = study is scenario and not strategy.set
            own = common if alike else _settings(study, strategy.set, f"scenario: strategies.{number}.set")
        except ScenarioError as error:
            problems.extend(error.problems)
            continue
        specs += [
            setting.model_copy(update={"strategy": run_strategy, "seed": seed, "edges": _edges(setting, run_strategy)})
            for run_strategy in _cuts(strategy)
            for setting in own
            for seed in scenario.seeds
        ]
    if problems:
        raise ScenarioError(problems)
    if scenario.evaluation.reference and all(strategy.name != REFERENCE for strategy in scenario.strategies):
        specs += _references(scenario, Strategy(name=REFERENCE), "scenario: strategies")
    return specs


def _with_regions_as_clinics(scenario: Scenario) -> Scenario:
    """Return the study in which each region is one clinic with all columns; the same where there are no regions."""
    if not scenario.data.regions:
        return scenario
    clinics = as_clinics(scenario.parties, scenario.clinics, scenario.regions)
    data = scenario.data.model_copy(update={"layout": "horizontal", "regions": False})
    return scenario.model_copy(update={"data": data, "clinics": tuple(clinics), "parties": (), "regions": ()})


def _references(scenario: Scenario, strategy: Strategy, label: str) -> list[RunSpec]:
    """Return the runs of the line of reference: one for each seed and each setting of the data.

    Nothing else changes what a clinic counts: model, training and privacy are the same in all, so that a run is
    finished for every study on the same records. No clinic is away, and nothing is noised.
    """
    there: dict[str, Any] = {key: ClinicGroup.model_fields[key].default for key in _BEHAVIOUR}
    alike = scenario.model_copy(
        update={
            "model": Model(name="logistic"),
            "train": Train(rounds=1, batch_size=_BATCH, learning_rate=1.0),
            "clinics": tuple(group.model_copy(update=there) for group in scenario.clinics),
            "edges": (),
            "privacy": Privacy(delta=scenario.privacy.delta),
            "sweep": {
                key: values
                for key, values in scenario.sweep.items()
                if key.startswith("data.") or key.endswith(_OF_RECORDS)
            },
        }
    )
    unnoised = {"privacy.epsilon": math.inf} if "privacy.epsilon" in scenario.sweep else {}
    [named] = _cuts(strategy)
    return [
        setting.model_copy(update={"strategy": named, "seed": seed, "swept": setting.swept | unnoised})
        for setting in _settings(alike, strategy.set, label)
        for seed in scenario.seeds
    ]


def _edges(setting: RunSpec, strategy: RunStrategy) -> tuple[Edge, ...]:
    """Return the edge servers, for a strategy that has a place for them."""
    return setting.edges if goes_through_edges(strategy.name, strategy.cut) else ()


def _cuts(strategy: Strategy) -> Iterator[RunStrategy]:
    for cut in strategy.cut or (None,):
        yield RunStrategy(**strategy.model_dump(by_alias=False, exclude={"cut", "set"}), cut=cut)


def _settings(scenario: Scenario, own: Mapping[Any, Mapping[str, Any]], label: str) -> list[RunSpec]:
    tables: dict[str, Any] = scenario.model_dump(include={*_TABLES})
    for table, values in own.items():
        kept = {"folds": None, "test-sites": None} if table == "data" else {}  # the strategy says anew what is held out
        tables = {**tables, table: {**tables[table], **kept, **values}}
    taken = {f"{table}.{key}" for table, values in own.items() for key in values}
    sweep = {key: values for key, values in scenario.sweep.items() if key not in taken}
    settings: list[RunSpec] = []
    problems: list[str] = []
    for combination in product(*sweep.values()):
        swept = dict(zip(sweep, combination, strict=True))
        try:
            settings.append(_setting(scenario, tables, swept, label))
        except ScenarioError as error:
            problems.extend(error.problems)
    if problems:
        raise ScenarioError(list(dict.fromkeys(problems)))
    return settings


def _setting(scenario: Scenario, tables: Mapping[str, Any], swept: Mapping[str, Any], label: str) -> RunSpec:
    for key, value in swept.items():
        tables = replaced(tables, key.split("."), value)
    first = next(_cuts(scenario.strategies[0]))
    spec = validated(
        RunSpec,
        {**tables, "study": scenario.name, "seed": scenario.seeds[0], "strategy": first, "swept": swept},
        label,
        swept={key: f"sweep.{key}" for key in swept},
    )
    if spec.privacy.epsilon == math.inf:
        given = spec.privacy
        rest = at("labels", given.mechanisms) if given.label_epsilon is not None else None
        unprotected = Privacy(
            mechanism=rest or "none",
            label_epsilon=given.label_epsilon,
            labels=given.labels,
            clip=given.clip,
            delta=given.delta,
            **{key: getattr(given, key) for key in TRUST},
        )
        spec = spec.model_copy(update={"privacy": unprotected})
    return spec
