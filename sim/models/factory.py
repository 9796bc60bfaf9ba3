"""A network of a user's own: its factory is called, and what it returns is checked."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import UninitializedParameter

from sim.foundation.plugins import registered
from sim.foundation.problems import show
from sim.models.modules import Residual
from sim.models.network import Block, Network, Part, seeded
from sim.scenario.lookup import MODELS

_BLOCK_NAME = re.compile(r"[A-Za-z0-9_-]+")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_CONTAINERS = (nn.Sequential, Residual)


def factory_network(path: str, batch_norm: str | None, shape: tuple[int, ...], outputs: int) -> Network:
    """Build the network of a factory, given by its import path or its registered name.

    Raises
    ------
    ValueError
        In one line; see :func:`sim.models.build.build_network`.
    """
    # Modules draw initial values from PyTorch's global generator when they are made; ours come from a stream.
    with torch.random.fork_rng(devices=[]):
        build = _from_factory(path, shape, outputs)
        blocks = seeded(build, 0)
        for problem in _problems(blocks, shape, outputs, batch_norm):
            raise ValueError(f'factory "{path}" {problem}')
    return Network(blocks=blocks, input_shape=shape, outputs=outputs, build=build)


def _from_factory(path: str, shape: tuple[int, ...], outputs: int) -> Callable[[], tuple[Block, ...]]:
    label = f'factory "{path}"'
    try:
        if path in (known := registered(MODELS)):
            factory = known[path].load()
        else:
            module_name, _, name = path.partition(":")
            factory = getattr(importlib.import_module(module_name), name)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{label} cannot be imported: {_in_one_line(error)}") from error

    def build() -> tuple[Block, ...]:
        try:
            named = factory(shape, outputs)
        except (Exception, SystemExit) as error:
            raise ValueError(f"{label} failed on {shape}, {outputs}: {_in_one_line(error)}") from error
        if not isinstance(named, list | tuple) or not named or not all(map(_names_a_module, named)):
            raise ValueError(f"{label} returned {_in_one_line(named)}; return a list of (name, torch.nn.Module)")
        for module in (module for _, outer in named for module in outer.modules()):
            # The engine draws the masks and normalises batches; the modules do neither.
            module.train(not isinstance(module, nn.Dropout | _BatchNorm))
        return tuple(Block(*pair) for pair in named)

    return build


def _names_a_module(pair: object) -> bool:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        return False
    return isinstance(pair[0], str) and isinstance(pair[1], nn.Module)


def _problems(blocks: tuple[Block, ...], shape: tuple[int, ...], outputs: int, batch_norm: str | None) -> Iterator[str]:
    """Say what is wrong with blocks; each check takes it that those before it found nothing."""
    for name, count in Counter(block.name for block in blocks).items():
        if count > 1:
            yield f"gives the name {show(name)} to {count} blocks; name each once"
        if not _BLOCK_NAME.fullmatch(name):
            yield f"names a block {show(name)}; use letters, digits, '-' and '_'"
    for block in blocks:
        yield from _unfit_modules(block)
    normalised = bool(Part("model", blocks).statistics)
    if normalised and batch_norm is None:
        yield (
            "holds BatchNorm: say whose running statistics count with model.batch-norm, "
            '"average" or "local" (without a privacy mechanism), or use GroupNorm'
        )
    if batch_norm is not None and not normalised:
        yield "holds no BatchNorm, so that model.batch-norm has no effect; remove it"
    yield from _unfit_parameters(blocks)
    for rows in (1, 3):
        yield from misfits(blocks, shape, outputs, rows)
    try:
        mixed = _mixes_records(blocks, shape)
    except Exception as error:
        yield f"cannot run on records: {_in_one_line(error)}"
        return
    if mixed:
        yield "mixes the records of a batch, so that padding would count; normalise record by record, as GroupNorm does"


def _unfit_modules(block: Block) -> Iterator[str]:
    ruled = list(_ruled(block.module))
    for module in block.module.modules():
        held = f"holds {type(module).__name__} in block {show(block.name)}"
        if isinstance(module, _InstanceNorm) and module.track_running_stats:
            yield f"{held}, whose running statistics are no parameters; use track_running_stats=False or GroupNorm"
        if isinstance(module, _BatchNorm):
            if type(module) not in (nn.BatchNorm1d, nn.BatchNorm2d) or ruled.count(module) != 1:
                yield f"{held}; put nn.BatchNorm1d or nn.BatchNorm2d directly into an nn.Sequential, once"
            elif not module.track_running_stats or module.momentum is None:
                yield f"{held} without running statistics of a fixed momentum; the trained model needs them"
        if isinstance(module, _DropoutNd) and (type(module) is not nn.Dropout or module not in ruled):
            yield f"{held}, whose mask could not be repeated; put nn.Dropout directly into an nn.Sequential"


def needs_two_rows(network: Network) -> bool:
    """Say whether a BatchNorm sees one value a record, so that a batch of one has no variance."""
    chain = nn.Sequential(*(block.module for block in network.anew()))
    for module in chain.modules():
        module.train(isinstance(module, _BatchNorm))
    try:
        chain(torch.zeros(1, *network.input_shape))
    except ValueError:
        return True
    return False


def _ruled(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules that the engine runs by a rule of their own if it has one, not as the inside of another."""
    yield module
    if type(module) in _CONTAINERS:
        for child in module._modules.values():  # a module that stands in two places counts twice
            if child is not None:
                yield from _ruled(child)


def _unfit_parameters(blocks: tuple[Block, ...]) -> Iterator[str]:
    seen: set[int] = set()
    for block in blocks:
        for name, parameter in block.module.named_parameters(remove_duplicate=False):
            place = f'"{block.name}.{name}"'
            if id(parameter) in seen:
                yield f"uses the parameter {place} in two places; give each module its own"
            if not parameter.requires_grad:
                yield f"has the frozen parameter {place}; every parameter is trained"
            if parameter.dtype != torch.float32:
                yield f"has the parameter {place} of type {parameter.dtype}; use torch.float32"
            if isinstance(parameter, UninitializedParameter):
                yield f"has the parameter {place} without a shape; state it in place of a lazy module"
            elif parameter.device.type != "cpu":
                yield f"has the parameter {place} on the device {parameter.device}; build it on the CPU"
            elif not parameter.isfinite().all():
                yield f"begins with a value in the parameter {place} that is not finite; initialise it"
            seen.add(id(parameter))
    if not seen:
        yield "has no parameter to train"


def misfits(blocks: tuple[Block, ...], shape: tuple[int, ...], outputs: int, rows: int) -> Iterator[str]:
    """Say why blocks cannot run on a batch of so many records, or which parameter plays no part in their outputs."""
    x = torch.empty(1, rows, *shape, device="meta")
    parameters: dict[str, Tensor] = {}
    for block in blocks:
        own = {n: torch.empty(1, *p.shape, device="meta").requires_grad_() for n, p in block.module.named_parameters()}
        parameters |= {f"{block.name}.{name}": value for name, value in own.items()}
        before = list(x.shape[1:])
        try:
            x = _over_lanes(block.module, own, x)
        except Exception as error:
            yield f"cannot run block {show(block.name)} on a batch of shape {before}: {_in_one_line(error)}"
            return
    if x.shape != (1, rows, outputs):
        yield f"gives outputs of shape {list(x.shape[1:])} for a batch of {rows}; [{rows}, {outputs}] is needed"
        return
    used = torch.autograd.grad(x, list(parameters.values()), torch.ones_like(x), allow_unused=True)
    for name, gradient in zip(parameters, used, strict=True):
        if gradient is None:
            yield f'has the parameter "{name}", which plays no part in the outputs; remove it'


def _over_lanes(module: nn.Module, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
    buffers = {name: buffer.to("meta") for name, buffer in module.named_buffers()}
    outputs = vmap(lambda own, rows: functional_call(module, (own, buffers), (rows,)))(parameters, x)
    if not isinstance(outputs, Tensor):
        raise TypeError(f"it returned {type(outputs).__name__}, not one tensor")
    return outputs


@torch.no_grad()
def _mixes_records(blocks: tuple[Block, ...], shape: tuple[int, ...]) -> bool:
    chain = nn.Sequential(*(block.module for block in blocks))
    rows = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([chain(rows[i : i + 1]) for i in range(len(rows))])
    return not torch.allclose(chain(rows), alone, rtol=1e-3, atol=1e-5, equal_nan=True)


def _in_one_line(what: object) -> str:
    text = f"{type(what).__name__}: {what}" if isinstance(what, BaseException) else repr(what)
    line = " ".join(_ADDRESS.sub("", text).split())
    return line if len(line) <= 200 else line[:197] + "..."
