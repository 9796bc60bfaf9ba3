"""The table ``[model]``: the network, and where it is cut."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from sim.foundation.files import absolute
from sim.foundation.plugins import registered
from sim.foundation.problems import show
from sim.scenario.base import Number, Section, Whole, file_sha256, is_number, unique
from sim.scenario.lookup import MODELS, is_own_path

_LAYERS: Final = {"cnn1d": None, "cnn": None, "resnet18": 4}
"""Models with convolutions; how many widths their ``channels`` must have, if that is fixed."""
Widths = Annotated[tuple[Annotated[Whole, Field(gt=0, le=1_000_000)], ...], Field(min_length=1, max_length=1000)]


_Blocks = int | tuple[int, int] | tuple[int, int, int]


def _model_cut(value: object) -> object:
    parts = value if isinstance(value, list | tuple) and len(value) in (2, 3) else (value,)
    if not all(is_number(part) and isinstance(part, int) for part in parts):
        raise ValueError(f"{show(value)} is no cut; give a block number such as 1, or two such as [1, -1]")
    return tuple(parts) if len(parts) > 1 else value


class Model(Section):
    """The network, and where it is cut.

    ``hidden`` holds the widths of the hidden layers of ``mlp``; ``cnn`` has one hidden layer, of the first width.
    ``channels`` holds the widths of the convolutional layers, where they shall not be the model's own. ``freeze``
    names the parts of clinic and edge server that do not train: they keep their initial values, which are public.
    ``public_head`` says where a frozen head's come from: drawn from the seed (``random``); ``pca:FILE.npz``, the
    first ``components`` principal components of the public records ``x`` in that file, prepared as the model's inputs
    are, in front of the model; or ``FILE.safetensors``, which holds the head's parameters. ``batch_norm`` says what
    becomes of BatchNorm's running statistics: averaged with the part they belong to (``average``), or each clinic's
    own (``local``). ``cut_dropout`` sets that share of each row at the (first) cut to 0 in training; it promises
    nothing.
    """

    name: Literal["logistic", "mlp", "cnn1d", "cnn", "resnet18", "factory"]
    factory: str | None = Field(default=None, validate_default=True)
    hidden: Widths = (32, 16)
    channels: Widths | None = None
    cut: Annotated[_Blocks, BeforeValidator(_model_cut, json_schema_input_type=_Blocks)] = 1
    head: Literal["binary", "softmax"] = "binary"
    public_head: str = "random"
    components: Annotated[Whole, Field(gt=0, le=1_000_000)] | None = Field(default=None, validate_default=True)
    batch_norm: Literal["average", "local"] | None = None
    cut_dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    freeze: Annotated[tuple[Literal["head", "middle", "tail"], ...], AfterValidator(unique)] = ()

    @classmethod
    def _fault(cls, key: str, value: Any, given: Mapping[str, Any]) -> str:
        name, pca = given.get("name"), str(given.get("public_head", "pca:")).startswith("pca:")
        match key:
            case "factory" if value is None and name == "factory":
                return 'is missing; give the import path of your function, such as "package.module:function"'
            case "factory" if value is not None and name not in ("factory", None):
                return f'has no effect on "{name}"; remove it, or take name = "factory"'
            case "factory" if value is not None and not is_own_path(value) and value not in registered(MODELS):
                return f'{show(value)} is no import path; give one such as "package.module:function"'
            case "batch_norm" if value is not None and name not in ("factory", None):
                return f'has no effect on "{name}", which normalises record by record; remove it'
            case "components" if value is None and pca and "public_head" in given:
                return "is missing; give the number of principal components, such as 16"
            case "components" if value is not None and not pca:
                return 'has no effect without public-head = "pca:FILE.npz"; remove it'
            case "channels" if value is not None and name is not None and name not in _LAYERS:
                return f'has no effect on "{name}"; remove it'
            case "channels" if value is not None and _LAYERS.get(name or "") not in (None, len(value)):
                return f'"{name}" has {_LAYERS[str(name)]} layers, here are {len(value)} widths; give one a layer'
        return super()._fault(key, value, given)

    @field_validator("public_head")
    @classmethod
    def _public_source(cls, source: str, info: ValidationInfo) -> str:
        kind, _, name = source.rpartition("pca:")
        if source == "random":
            return source
        if not (kind == "" and name.endswith(".npz" if source.startswith("pca:") else ".safetensors")):
            raise ValueError(f'{show(source)} is no source; give "random", "pca:FILE.npz" or "FILE.safetensors"')
        return placed_head(source, info.context["folder"]) if info.context else source

    @property
    def public_file(self) -> Path | None:
        """The file that a public head comes from, if it comes from one."""
        return None if self.public_head == "random" else Path(self.public_head.removeprefix("pca:"))

    @property
    def public_note(self) -> str:
        """Where initial parameters come from, in words."""
        return "drawn from the seed" + (f"; the head from {self.public_file.name}" if self.public_file else "")

    def public_digest(self) -> str:
        """Return what identifies the public head: its kind and the SHA-256 of its file, empty if it cannot be read."""
        if self.public_file is None:
            return self.public_head
        try:
            digest = file_sha256(self.public_file)
        except (OSError, ValueError):
            digest = ""
        return f"{self.public_head.partition(':')[0] if self.components else 'file'}:{digest}"


def placed_head(source: str, folder: Path) -> str:
    """Return the source of a public head with its file beside the scenario."""
    kind = "pca:" if source.startswith("pca:") else ""
    return source if source == "random" else f"{kind}{absolute(folder, source.removeprefix(kind))}"
