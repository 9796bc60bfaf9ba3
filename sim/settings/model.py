"""The table ``[model]``: the network, and where it is cut."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from sim.problems import show
from sim.settings.base import Section, Whole, is_number


def _model_cut(value: object) -> object:
    parts = value if isinstance(value, list | tuple) and len(value) == 2 else (value,)
    if not all(is_number(part) and isinstance(part, int) for part in parts):
        raise ValueError(f"{show(value)} is no cut; give a block number such as 1, or two such as [1, -1]")
    return tuple(parts) if len(parts) == 2 else value


class Model(Section):
    """The network, and where it is cut."""

    name: Literal["logistic", "mlp"]
    hidden: Annotated[tuple[Annotated[Whole, Field(gt=0)], ...], Field(min_length=1)] = (32, 16)
    cut: Annotated[int | tuple[int, int], BeforeValidator(_model_cut)] = 1
    head: Literal["binary", "softmax"] = "binary"
