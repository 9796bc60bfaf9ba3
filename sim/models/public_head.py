"""Heads that are public: principal components of public records, or values from a file."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sim.foundation.lazy import Lazy
from sim.models.layers import Flatten, Linear, Shape, chain
from sim.models.network import Block, Network, Parameters

if TYPE_CHECKING:
    import torch
else:
    torch = Lazy("torch")


def behind_components(body: Network, path: Path, input_shape: tuple[int, ...]) -> Network:
    """Put the principal components of public records in front of a network that takes them as its inputs.

    The file is an npz archive whose ``x`` is ``[record, *feature]``, prepared as the model's inputs are. The first
    block of the result is named ``pca``: the projection of a record less the mean.

    Raises
    ------
    ValueError
        If the file holds no such records, or too few for so many components.
    """
    [components] = body.input_shape
    x = _public_records(path, input_shape)
    if components > min(len(x), x.shape[1]):
        raise ValueError(f"{path} has no {components} principal components: its x is {list(x.shape)}; give fewer")
    mean = x.mean(0)
    axes = np.linalg.svd(x - mean, full_matrices=False)[2][:components]
    axes *= np.sign(np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], 1))
    given = {"pca.1.weight": axes, "pca.1.bias": -axes @ mean}
    first = chain(Flatten(), Linear(x.shape[1], components))

    def build() -> tuple[Block, ...]:
        from sim.models.modules import made

        behind = body.anew()  # before the projection, whose own values are not drawn
        return Block("pca", made(first)), *behind

    return Network(
        blocks=(Block("pca", first), *body.blocks),
        input_shape=input_shape,
        outputs=body.outputs,
        build=build,
        given={name: torch.from_numpy(value).float()[None] for name, value in given.items()},
    )


def stored_values(path: Path, shapes: Mapping[str, Shape]) -> Parameters:
    """Read parameters, ``[*shape]`` or ``[1, *shape]`` as in a run's own model, from a safetensors file.

    Raises ``ValueError`` if the file does not hold all of them in these shapes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as safetensors ({type(error).__name__}); check the file") from None
    for name, shape in shapes.items():
        if name not in stored or stored[name].shape not in (shape, (1, *shape)):
            found = list(stored[name].shape) if name in stored else "nothing"
            raise ValueError(f'{path} must hold "{name}" of shape {list(shape)}, and holds {found}')
    values = {name: stored[name].float().reshape(1, *shape) for name, shape in shapes.items()}
    for name, value in values.items():
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f'{path} holds values of "{name}" that are no finite numbers')
    return values


def _public_records(path: Path, input_shape: tuple[int, ...]) -> NDArray[np.float64]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            x = np.asarray(archive["x"], dtype=np.float64)
    except KeyError:
        raise ValueError(f'{path} holds no array "x" of public records') from None
    except (OSError, EOFError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path} cannot be read as numbers from npz ({type(error).__name__}); check the file"
        ) from None
    if x.shape[1:] != tuple(input_shape) or not len(x) or not np.isfinite(x).all():
        shape = ", ".join(map(str, ("record", *input_shape)))
        raise ValueError(f"{path} has an x of shape {list(x.shape)}; give finite numbers of shape [{shape}]")
    return x.reshape(len(x), -1)
