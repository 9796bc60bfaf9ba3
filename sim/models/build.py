"""From a scenario's ``[model]`` to a network; nothing of PyTorch is needed for a built-in architecture."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache

from sim.models.architectures import ARCHITECTURES
from sim.models.closed_form import UnknownLayerError, passage
from sim.models.network import Block, Network, Part
from sim.models.public_head import behind_components
from sim.scenario.model import Model as ModelSettings
from sim.scenario.outcomes import Outcome

_OF_CLASSES = Outcome()


def build_network(
    settings: ModelSettings, input_shape: tuple[int, ...], classes: int, outcome: Outcome = _OF_CLASSES
) -> Network:
    """Build the network that a scenario asks for, and see that records of this shape fit it.

    Parameters
    ----------
    input_shape : tuple of int
        Shape of one record: ``(feature,)``, ``(channel, length)`` or ``(channel, height, width)``.
    classes : int
        How many there are; of no use for other outcomes.
    outcome : Outcome, optional
        Of times there is one output an interval, of grades one each but the highest, of amounts one in all.

    Raises
    ------
    ValueError
        In one line: if records of this shape do not fit the model, a factory fails or returns something else, the
        outputs are not those needed, a record's output depends on its batch, or a module cannot be trained over lanes.
    """
    outputs = {"time": len(outcome.edges), "amount": 1, "ordinal": classes - 1}.get(outcome.kind, classes)
    if outcome.kind == "classes" and classes == 2 and settings.head == "binary":
        outputs = 1
    shape = tuple(input_shape)
    if settings.components is not None and settings.public_file is not None:
        behind = settings.model_copy(update={"components": None})
        inner = build_network(behind, (settings.components,), classes, outcome)
        return behind_components(inner, settings.public_file, shape)
    if settings.factory is not None:
        from sim.models.factory import factory_network

        return factory_network(settings.factory, settings.batch_norm, shape, outputs)
    blocks, problems = _built_in(settings, shape, outputs)
    for problem in problems:
        raise ValueError(f'model "{settings.name}" {problem}')
    return Network(blocks=blocks, input_shape=shape, outputs=outputs, build=lambda: _anew(blocks))


@lru_cache(maxsize=32)
def _built_in(
    settings: ModelSettings, shape: tuple[int, ...], outputs: int
) -> tuple[tuple[Block, ...], tuple[str, ...]]:
    """Return a built-in model's blocks and its problems: once for all runs."""
    architecture = ARCHITECTURES[settings.name]
    if architecture.axes and len(architecture.axes) != len(shape):
        wanted = ", ".join(architecture.axes)
        raise ValueError(f'model "{settings.name}" takes records of shape [{wanted}]; these are of shape {list(shape)}')
    channels = settings.channels or architecture.channels
    blocks = tuple(Block(*named) for named in architecture.make(settings, channels, shape, outputs))
    with suppress(UnknownLayerError):
        if passage(Part("", blocks), shape).output_shape == (outputs,):
            return blocks, ()
    from sim.models.factory import misfits

    return blocks, tuple(misfits(blocks, shape, outputs, rows=1))


def _anew(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    """Return blocks of modules, with initial values from PyTorch's generator."""
    from sim.models.modules import made

    return tuple(Block(block.name, made(block.layer)) for block in blocks)
