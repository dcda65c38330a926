"""Takes channels out of a network's modules, or sets them to zero: the cut, and the mask to compare it with.

A parameter that gets smaller stays what it is otherwise: requires_grad, dtype, device, the order of its
dimensions in memory. Which channels go is decided elsewhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm

from akgp.models import ChannelMap

PRUNABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORMS = (_BatchNorm,)


@dataclass(frozen=True)
class ChannelSlice:
    """One module of a group: which of its channels belong to the group.

    indices: positions in the module, channels: those in the group that they belong to, alike in
    length. A linear layer behind a flattened feature map has many positions for a channel.
    """

    name: str
    module: nn.Module
    writes: bool  # its outputs are the group's channels; otherwise they are among its inputs
    indices: tuple[int, ...]
    channels: tuple[int, ...]


@dataclass(frozen=True)
class Side:
    """The outputs or the inputs of a kind of module."""

    tensors: dict[str, int]  # tensor -> the dimension that they lie along
    widths: tuple[str, ...]  # attributes that hold their number


CHANNELWISE = Side({"weight": 0, "bias": 0, "running_mean": 0, "running_var": 0}, ("num_features",))
SIDES: tuple[tuple[type | tuple[type, ...], bool, Side], ...] = (
    (nn.Linear, True, Side({"weight": 0, "bias": 0}, ("out_features",))),
    (nn.Linear, False, Side({"weight": 1}, ("in_features",))),
    (_ConvTransposeNd, False, Side({"weight": 0}, ("in_channels",))),
    (PRUNABLE, True, Side({"weight": 0, "bias": 0}, ("out_channels",))),
    (PRUNABLE, False, Side({"weight": 1}, ("in_channels",))),
    ((_BatchNorm, _InstanceNorm), True, CHANNELWISE),
    (nn.PReLU, True, Side({"weight": 0}, ("num_parameters",))),
)
DEPTHWISE = Side({"weight": 0, "bias": 0}, ("out_channels", "in_channels", "groups"))


def side(module: nn.Module, outputs: bool) -> Side | None:
    """How the outputs or inputs of `module` are cut; None if that is unknown here."""
    if isinstance(module, _ConvNd) and module.groups > 1:
        return DEPTHWISE if outputs and is_depthwise(module) else None
    return next((side for kind, of, side in SIDES if isinstance(module, kind) and of == outputs), None)


def is_depthwise(module: nn.Module) -> bool:
    """One filter for each channel, neither shared nor multiplied."""
    return isinstance(module, PRUNABLE[:3]) and module.groups == module.in_channels == module.out_channels


def width_of(module: nn.Module, outputs: bool) -> int:
    """How many outputs or inputs a module has that can be cut."""
    known = side(module, outputs)
    return getattr(module, known.widths[0]) if known else 1


def cut(model: nn.Module, gone: Iterable[ChannelSlice]) -> None:
    """Remove the positions that the parts name from modules of `model`, in place."""
    removed: dict[tuple[str, bool], set[int]] = defaultdict(set)
    for part in gone:
        removed[part.name, part.writes].update(part.indices)
    for (name, outputs), positions in removed.items():
        if not positions:
            continue
        module = model.get_submodule(name)
        if isinstance(module, ChannelMap):
            _cut_map(module, outputs, positions)
            continue
        known = side(module, outputs)
        assert known is not None, f"{name} was never to be cut"
        kept = _without(width_of(module, outputs), positions)
        for tensor, dimension in known.tensors.items():
            _cut_tensor(module, tensor, dimension, kept)
        for attribute in known.widths:
            setattr(module, attribute, len(kept))


def mask(model: nn.Module, gone: Iterable[ChannelSlice]) -> None:
    """Set filters, and γ and β of BatchNorms, to zero in place of removing them."""
    with torch.no_grad():
        for part in gone:
            module = model.get_submodule(part.name)
            if part.writes and isinstance(module, (*PRUNABLE, *NORMS)):
                for parameter in module.parameters(recurse=False):
                    parameter[list(part.indices)] = 0


def tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """A module's own parameters and buffers."""
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


def _cut_tensor(module: nn.Module, name: str, dimension: int, kept: Tensor) -> None:
    old = getattr(module, name)
    if old is None:  # no bias, no affine parameters, no statistics
        return
    values = old.detach().index_select(dimension, kept.to(old.device))
    if not old.is_contiguous():  # channels-last, or transposed
        order = sorted(range(old.ndim), key=old.stride, reverse=True)
        values = torch.empty_permuted(values.shape, order, dtype=old.dtype, device=old.device).copy_(values)
    setattr(
        module, name, nn.Parameter(values, old.requires_grad) if isinstance(old, nn.Parameter) else values
    )


def _cut_map(module: ChannelMap, outputs: bool, removed: Iterable[int]) -> None:
    """Inputs and outputs of option A's shortcut may go independently."""
    index = module.index
    if outputs:
        module.index = index[_without(len(index), removed).to(index.device)]
        return
    kept = _without(module.in_channels, removed)
    position = torch.full((module.in_channels + 1,), -1)  # the last one stands for index -1
    position[kept] = torch.arange(len(kept))
    module.index = position.to(index.device)[index]
    module.in_channels = len(kept)


def _without(count: int, removed: Iterable[int]) -> Tensor:
    kept = torch.ones(count, dtype=torch.bool)
    kept[list(removed)] = False
    return kept.nonzero().flatten()
