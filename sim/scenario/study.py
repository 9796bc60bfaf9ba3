"""The tables of a study: training, evaluation, server, clinics, strategies and attacks."""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    Strict,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from sim.foundation.plugins import registered
from sim.foundation.problems import show, suggest, unwritable
from sim.foundation.units import Compute, Duration, Memory, Power, Rate, parse_compute
from sim.scenario.base import Factor, Number, Scalar, Section, Sites, Whole, is_number, unique
from sim.scenario.clinics import COMPUTERS, PROFILES, Behaviour, ServerResources
from sim.scenario.lookup import METHODS, attack_facts, check_options, example, is_own_path, method_facts
from sim.scenario.lookup import PROFILES as OWN_PROFILES
from sim.scenario.model import placed_head

Cut = Literal["vanilla", "u-shaped", "multi-hop", "multi-hop-u-shaped"]
_HELD_OUT_KEYS: Final = ("test", "folds", "test-sites")
"""Of ``[data]``, what strategies may differ in: not the records."""


_STRENGTH: Final = 10.0
"""How many times as strong a hostile update is where nothing is said."""


class Train(Section):
    """How every strategy trains.

    ``weight_decay`` adds that times each parameter to its gradient, behind clipping and noise. ``schedule`` multiplies
    the learning rate of every place that trains by a factor of the round: ``cosine`` from 1 towards 0, ``warm-up``
    linearly up to 1 over the first tenth of the rounds, at least one. ``nopeek`` adds that times the distance
    correlation of a batch's records and smashed data to the clinic's loss (Vepakomma et al. 2020); it promises nothing.
    ``update_dtype`` and ``update_top_k`` compress what clinics send of the parts that are averaged: of each update the
    share of largest numbers, in 8 bits each; what is left out is added to the clinic's next one (Stich et al. 2018).
    ``autocast`` trains large convolutions by mixed precision (Micikevicius et al. 2018); parameters stay of 32 bits.
    """

    rounds: Whole = Field(ge=0, le=100_000)
    local_epochs: Whole = Field(default=1, ge=1, le=100_000)
    batch_size: Whole = Field(ge=1, le=10_000_000)
    optimizer: Literal["sgd", "momentum", "adam"] = "sgd"
    learning_rate: Factor = Field(gt=0)
    momentum: Number = Field(default=0.9, ge=0, lt=1)
    weight_decay: Factor = Field(default=0.0, ge=0)
    schedule: Literal["constant", "cosine", "warm-up"] = "constant"
    participation: Number = Field(default=1.0, gt=0, le=1)
    over_select: Factor = Field(default=1.0, ge=1)
    deadline: Duration | None = None
    loss: Literal["squared", "huber", "quantile"] | None = None
    huber_delta: Annotated[Factor, Field(gt=0)] | None = Field(default=None, validate_default=True)
    quantile: Annotated[Number, Field(gt=0, lt=1)] | None = Field(default=None, validate_default=True)
    class_weights: Annotated[tuple[Annotated[Factor, Field(ge=1e-6)], ...], Field(min_length=2)] | None = None
    smashed_dtype: Literal["float32", "float16", "bfloat16", "int8"] = "float32"
    smashed_top_k: Number = Field(default=1.0, gt=0, le=1)
    update_dtype: Literal["float32", "int8"] = "float32"
    update_top_k: Number = Field(default=1.0, gt=0, le=1)
    nopeek: Factor = Field(default=0.0, ge=0)
    autocast: Literal["bfloat16"] | None = None
    eval_every: Whole = Field(default=1, ge=1, le=100_000)

    @model_validator(mode="after")
    def _somebody_is_left_to_choose(self) -> "Train":
        if self.over_select > 1 and self.participation == 1:
            raise ValueError("over-select chooses more clinics than participation, which is all; lower participation")
        return self

    @classmethod
    def _fault(cls, key: str, value: Any, given: Mapping[str, Any]) -> str:
        loss = {"huber_delta": "huber", "quantile": "quantile"}.get(key)  # which needs the key, and alone has it
        if loss is not None and "loss" in given and (value is None) is (given["loss"] == loss):
            told = "is missing; give a number, which train.loss needs"
            return told if value is None else f'has no effect without train.loss = "{loss}"; remove it'
        return ""


class Server(Section):
    """The server's computer and, where clinics share it as a bottleneck, its link."""

    compute: Compute = 10e12
    workers: Whole = Field(default=4, ge=1, le=1_000_000)
    uplink: Rate | None = None
    downlink: Rate | None = None

    def resources(self) -> ServerResources:
        """Return what the clock needs to know."""
        return ServerResources(self.compute, self.workers, self.uplink, self.downlink)


class GroupColumn(Section):
    """A column by which patients are grouped: by its values, or, where it holds numbers, by ascending bands."""

    column: str
    bands: Annotated[tuple[Number, ...], Field(min_length=1)] | None = None

    @classmethod
    def _fault(cls, key: str, value: Any, given: Mapping[str, Any]) -> str:
        if key == "bands" and any(high <= low for low, high in pairwise(value or ())):
            return f"{show(value)} does not ascend; write the edges from low to high"
        return ""


class Scoring(Section):
    """How held-out records are scored after the last round.

    ``specificity`` is the one at which the sensitivity is taken, ``threshold`` the probability from which the net
    benefit counts a record as treated, and ``margin`` the difference within which two methods count as equal.
    ``reference`` adds the strategy ``prevalence`` to the study. These two change no run. ``groups`` are columns of the
    source by which patients are scored apart.
    """

    specificity: Number = Field(default=0.9, gt=0, lt=1)
    threshold: Number = Field(default=0.5, gt=0, lt=1)
    margin: Number = Field(default=0.01, gt=0, le=0.5)
    reference: Annotated[bool, Strict()] = True
    groups: tuple[
        Annotated[
            GroupColumn,
            BeforeValidator(
                lambda own: {"column": own} if isinstance(own, str) else own, json_schema_input_type=str | GroupColumn
            ),
        ],
        ...,
    ] = ()

    @classmethod
    def _fault(cls, key: str, value: Any, given: Mapping[str, Any]) -> str:
        if key == "groups":
            unique(tuple(group.column for group in value))
        return ""


class Availability(Section):
    """In which rounds a clinic is there: a share of them, and for how many it stays away."""

    share: Number = Field(gt=0, le=1)
    mean_outage: Factor | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _can_be_a_chain(self) -> "Availability":
        # A clinic that leaves after every single round is still there for 1 of L + 1 rounds.
        if self.mean_outage is not None and 1 - self.share > self.share * self.mean_outage:
            least = 1 / (1 + self.mean_outage)
            raise ValueError(
                f"outages of {self.mean_outage:g} rounds on average leave a share of at least {least:.3g}, "
                f"and {self.share:g} is less; give longer outages"
            )
        return self


class Straggler(Section):
    """How often a clinic is slow for a round, and how many times slower."""

    chance: Number = Field(ge=0, le=1)
    slowdown: Number = Field(ge=1, le=1e6)


def _profile(value: object) -> object:
    shares = value if isinstance(value, dict) else {}
    for name, share in shares.items():
        if not is_number(share) or not 0 < share <= 1:
            raise ValueError(f'the share of "{name}" is {show(share)}; give a number greater than 0, at most 1')
    if value is not shares and not isinstance(value, str):
        raise ValueError(f"{show(value)} is neither a profile nor a table of shares; write a name in quotes")
    return value


def _computer(value: object) -> object:
    if isinstance(value, str) and value in COMPUTERS:
        return value
    try:
        return parse_compute(value)
    except ValueError as error:
        raise ValueError(f"{error}, or a class of computers: {', '.join(COMPUTERS)}") from None


def _name(name: str) -> str:
    if not name.strip() or unwritable(name):
        raise ValueError(f"{show(name)} is no name; give text without control characters")
    return name


Name = Annotated[str, Field(max_length=80), AfterValidator(_name)]


def _writable(label: str) -> str:
    if unwritable(label):
        raise ValueError(f"{show(label)} has a control or formatting character; take it out")
    return label


class Equipment(Section):
    """A link and a computer, or what they are drawn from."""

    _one_place: ClassVar[str] = ""  # What has one profile and no shares; empty where there may be shares
    profile: Annotated[str | dict[str, Annotated[Number, Field(gt=0)]], BeforeValidator(_profile)] | None = None
    uplink: Rate | None = None
    downlink: Rate | None = None
    latency: Duration | None = None
    compute: (
        Annotated[
            float | str,
            BeforeValidator(_computer),
            PlainSerializer(lambda own: own if isinstance(own, str) else f"{own!r} FLOP/s", return_type=str),
            WithJsonSchema({"type": "string", "examples": ["2 TFLOP/s", *COMPUTERS]}),
        ]
        | None
    ) = None
    memory: Memory | None = None
    idle_power: Power | None = None
    busy_power: Power | None = None

    @classmethod
    def _fault(cls, key: str, value: Any, given: Mapping[str, Any]) -> str:
        if key != "profile" or value is None:
            return ""
        for name in value if isinstance(value, dict) else [value]:
            if name not in PROFILES and name not in (own := registered(OWN_PROFILES)) and not is_own_path(name):
                return f'unknown profile "{name}"; {suggest(name, (*PROFILES, *own))}'
        if isinstance(value, dict) and abs((total := math.fsum(value.values())) - 1) > 1e-6:
            return f"the shares add up to {total:.6g}; give shares that add up to 1"
        if isinstance(value, dict) and cls._one_place:
            return f"{cls._one_place} is one place; name one profile"
        return ""

    @model_validator(mode="after")
    def _no_silent_zero(self) -> "Equipment":
        absent = [key for key in ("uplink", "downlink", "latency", "compute") if getattr(self, key) is None]
        if self.profile is None and absent:
            raise ValueError(f"{', '.join(absent)} not given; name a profile, or give all four rates")
        if self.idle_power is not None and self.busy_power is not None and self.idle_power > self.busy_power:
            raise ValueError("idle-power is more than busy-power; exchange them")
        return self


class Place(Equipment):
    """A link and a computer, and how reliable they are."""

    availability: Annotated[
        Availability,
        BeforeValidator(
            lambda own: {"share": own} if is_number(own) else own, json_schema_input_type=float | Availability
        ),
    ] = Availability(share=1.0)
    drop_out: Number = Field(default=0.0, ge=0, le=1)
    straggler: Straggler = Straggler(chance=0.0, slowdown=1.0)

    def behaviour(self) -> Behaviour:
        """Return what decides who is there and who is lost."""
        there, slow = self.availability, self.straggler
        return Behaviour(
            availability=there.share,
            mean_outage=there.mean_outage,
            drop_out=self.drop_out,
            straggler_chance=slow.chance,
            slowdown=slow.slowdown,
        )


class ClinicGroup(Place):
    """Clinics with the same link and computer, or drawn from a mixture of profiles.

    ``profile`` is a name, or a table of names and shares that add up to 1; ``spread`` is the standard deviation of the
    logarithm of the clinics' rates. See ``sim.data.at_clinics`` for what sets their records apart, and
    ``clients.updates`` for what hostile ones send.
    """

    sites: Sites | None = None
    count: Annotated[Whole, Field(ge=1)] | None = None
    spread: Annotated[Number, Field(ge=0, le=5)] = 0.0
    label_noise: Number = Field(default=0.0, ge=0, le=1)
    missing_columns: Annotated[tuple[str, ...], AfterValidator(unique)] = ()
    feature_shift: Number = Field(default=0.0, ge=0, le=10)
    hostile: Literal["sign-flip", "scaled", "noise", "label-flip", "row-noise"] | None = None
    hostile_strength: Annotated[Number, Field(ge=0, le=1e6)] | None = Field(default=None, validate_default=True)

    @classmethod
    def _fault(cls, key: str, value: Any, given: Mapping[str, Any]) -> str:
        match key:
            case "count" if value is not None and given.get("sites") is not None:
                return "has no effect beside sites, which say how many there are; remove one of them"
            case "hostile_strength" if value is not None and "hostile" in given and given["hostile"] is None:
                return "has no effect without hostile, which says what these clinics send; add it"
            case "hostile_strength" if value is not None and given.get("hostile") == "label-flip":
                return "has no effect on labels, which are all flipped; remove it"
        return super()._fault(key, value, given)

    @field_validator("hostile_strength")
    @classmethod
    def _unless_told(cls, strength: float | None, info: ValidationInfo) -> float | None:
        if info.data.get("hostile") in (None, "label-flip"):
            return None
        return _STRENGTH if strength is None else strength


class Strategy(Section):
    """A strategy to compare: one of Suture's, or a Flower strategy by its import path.

    ``set`` holds keys of ``[model]``, ``[train]`` and ``[privacy]``, and of ``[data]`` those that say what is held out,
    that are otherwise for this strategy; a key that is set is not swept for it.
    """

    name: str
    label: Annotated[str, Field(max_length=80, validate_default=True), AfterValidator(_writable)] = ""
    cut: Annotated[
        tuple[Cut, ...],
        BeforeValidator(
            lambda own: (own,) if isinstance(own, str) else own, json_schema_input_type=Cut | tuple[Cut, ...]
        ),
        AfterValidator(unique),
    ] = Field(default=(), validate_default=True)
    order: Literal["random", "fixed"] | None = Field(default=None, validate_default=True)
    alternate: Literal["clinic", "mini-batch"] | None = Field(default=None, validate_default=True)
    proximal_mu: Annotated[Factor, Field(ge=0)] = 0.0
    options: dict[str, Scalar] = Field(default_factory=dict)
    set: dict[Literal["data", "model", "train", "privacy"], dict[str, Any]] = Field(default_factory=dict)

    @classmethod
    def _fault(cls, key: str, value: Any, given: Mapping[str, Any]) -> str:
        name = given.get("name", "")
        facts = method_facts(value if key == "name" else name) if name or key == "name" else None
        cuts, takes = getattr(facts, "cuts", ()), getattr(facts, "takes", ())
        match key:
            case "label" if value != name and value in registered(METHODS):
                return f"{show(value)} is the name of a method; choose another label"
            case "cut" if value and name and not cuts:
                return f"{name} does not cut the model; remove cut, or take {example('cut')}"
            case "cut" if wrong := [own for own in value if name and own not in cuts]:
                return f"{name} has no cut {show(wrong[0])}; {suggest(wrong[0], cuts)}"
            case "order" | "alternate" if value is not None and name and key not in takes:
                return f"{name} does not serve its clinics in turn; remove {key}, or take {example(key)}"
            case "proximal_mu" if value and name and "proximal-mu" not in takes:
                return f"belongs to {example('proximal-mu')}; remove it, or take {example('proximal-mu')}"
            case "options" if facts:
                check_options(name, value, facts.options)
            case "set":
                if others := [own for own in value.get("data", {}) if own not in _HELD_OUT_KEYS]:
                    return f"data.{others[0]} is the same for all; of [data] set only {', '.join(_HELD_OUT_KEYS)}"
        return ""

    @field_validator("set")
    @classmethod
    def _beside_the_scenario(cls, tables: dict[str, dict[str, Any]], info: ValidationInfo) -> dict[str, Any]:
        head = tables.get("model", {}).get("public-head")
        if not isinstance(head, str) or not info.context:
            return tables
        placed = placed_head(head, info.context["folder"])
        return {**tables, "model": {**tables["model"], "public-head": placed}}

    @field_validator("label", "cut", "order", "alternate")
    @classmethod
    def _as_usual(cls, value: Any, info: ValidationInfo) -> Any:
        name, key = info.data.get("name", ""), str(info.field_name)
        facts = method_facts(name) if name else None
        if key == "label":
            return value or (getattr(facts, "label", "") if is_own_path(name) else "")
        if key == "cut":
            return value or getattr(facts, "cuts", ())[:1]
        usual = {"order": "random", "alternate": "clinic"}[key] if key in getattr(facts, "takes", ()) else None
        return value or usual


class AttackTable(Section):
    """An attack on every run of the study to which it applies: one of Suture's, or one by its import path.

    It is made after the runs have ended and changes none of them.
    """

    name: str
    options: dict[str, Scalar] = Field(default_factory=dict)

    @classmethod
    def _fault(cls, key: str, value: Any, given: Mapping[str, Any]) -> str:
        if key == "name" and attack_facts(value).on_every_run:
            return f"{value} is made on every run; remove the table"
        if key == "options" and (name := given.get("name")):
            known = attack_facts(name).options
            check_options(name, value, known)
            for option, own in value.items():
                default = known[option]
                least = min(default, 1) if type(default) is int else None
                if least is not None and not (type(own) is int and own >= least):
                    return f"{option}: {show(own)} is no count; give a whole number from {least}"
        return ""
