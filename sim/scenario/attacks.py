"""The tables ``[[attacks]]``: what is tried against finished runs."""

from pydantic import Field, ValidationInfo, field_validator

from sim.foundation.problems import show
from sim.scenario.base import Scalar, Section
from sim.scenario.lookup import attack_facts, check_options


class AttackTable(Section):
    """An attack on every run of the study to which it applies: one of Suture's, or one by its import path.

    It is made after the runs have ended and changes none of them.
    """

    name: str
    options: dict[str, Scalar] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _one_to_be_named(cls, name: str) -> str:
        if attack_facts(name).on_every_run:
            raise ValueError(f"{name} is made on every run; remove the table")
        return name

    @field_validator("options")
    @classmethod
    def _options_of_the_attack(cls, options: dict[str, Scalar], info: ValidationInfo) -> dict[str, Scalar]:
        if name := info.data.get("name"):
            known = attack_facts(name).options
            check_options(name, options, known)
            for key, value in options.items():
                default = known[key]
                least = min(default, 1) if type(default) is int else None
                if least is not None and not (type(value) is int and value >= least):
                    raise ValueError(f"{key}: {show(value)} is no count; give a whole number from {least}")
        return options
