"""The tables ``[[attacks]]``: what is tried against finished runs."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from sim.foundation.problems import show
from sim.scenario.base import Scalar, Section
from sim.scenario.lookup import attack_facts, check_options


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
