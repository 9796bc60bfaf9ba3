"""The table ``[model]``: the network, and where it is cut."""

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from sim.problems import show
from sim.settings.base import Section, Whole, is_number, unique

_LAYERS: Final = {"cnn1d": None, "cnn": None, "resnet18": 4}
"""Models with convolutions; how many widths their ``channels`` must have, if that is fixed."""
_FACTORY: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
Widths = Annotated[tuple[Annotated[Whole, Field(gt=0)], ...], Field(min_length=1)]


def _model_cut(value: object) -> object:
    parts = value if isinstance(value, list | tuple) and len(value) == 2 else (value,)
    if not all(is_number(part) and isinstance(part, int) for part in parts):
        raise ValueError(f"{show(value)} is no cut; give a block number such as 1, or two such as [1, -1]")
    return tuple(parts) if len(parts) == 2 else value


class Model(Section):
    """The network, and where it is cut.

    ``hidden`` holds the widths of the hidden layers of ``mlp``; ``cnn`` has one hidden layer, of the first width.
    ``channels`` holds the widths of the convolutional layers, where they shall not be the model's own. ``freeze`` names
    the clinic's parts that do not train: they keep their initial values, which are public.
    """

    name: Literal["logistic", "mlp", "cnn1d", "cnn", "resnet18", "factory"]
    factory: str | None = Field(default=None, validate_default=True)
    hidden: Widths = (32, 16)
    channels: Widths | None = None
    cut: Annotated[int | tuple[int, int], BeforeValidator(_model_cut, json_schema_input_type=int | tuple[int, int])] = 1
    head: Literal["binary", "softmax"] = "binary"
    freeze: Annotated[tuple[Literal["head", "tail"], ...], AfterValidator(unique)] = ()

    @field_validator("factory")
    @classmethod
    def _factory_by_import_path(cls, factory: str | None, info: ValidationInfo) -> str | None:
        name = info.data.get("name")
        if factory is None and name == "factory":
            raise ValueError('is missing; give the import path of your function, such as "package.module:function"')
        if factory is not None and name not in ("factory", None):
            raise ValueError(f'has no effect on "{name}"; remove it, or take name = "factory"')
        if factory is not None and not _FACTORY.fullmatch(factory):
            raise ValueError(f'{show(factory)} is no import path; give one such as "package.module:function"')
        return factory

    @field_validator("channels")
    @classmethod
    def _channels_of_convolutions(cls, channels: tuple[int, ...] | None, info: ValidationInfo) -> object:
        name = info.data.get("name")
        if channels is None or name is None:
            return channels
        if name not in _LAYERS:
            raise ValueError(f'has no effect on "{name}"; remove it')
        if _LAYERS[name] not in (None, len(channels)):
            raise ValueError(f'"{name}" has {_LAYERS[name]} layers, here are {len(channels)} widths; give one a layer')
        return channels
