"""Removes channels from a network's modules (`cut`), or sets them to zero (`mask`), the reference for a cut.

A parameter that is cut keeps its requires_grad, dtype, device and memory format. Which channels are
removed is decided elsewhere.
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
    """The positions of a group's channels among the outputs or inputs of one module.

    indices[i] is a position in the module, channels[i] the channel of the group at that position. A
    linear layer behind a flattened feature map has several positions a channel, one for each pixel.
    """

    name: str
    module: nn.Module
    writes: bool  # the positions are outputs of the module; otherwise inputs
    indices: tuple[int, ...]
    channels: tuple[int, ...]


@dataclass(frozen=True)
class Side:
    """How a kind of module stores its outputs or its inputs."""

    tensors: dict[str, int]  # tensor -> its dimension of channels
    widths: tuple[str, ...]  # attributes that hold the number of channels


CHANNELWISE = Side({"weight": 0, "bias": 0, "running_mean": 0, "running_var": 0}, ("num_features",))
# (kinds of modules, whether outputs, side); the first match counts, and PRUNABLE includes Linear. Outputs of
# transposed convolutions are missing because these are not pruned: they only read channels of others.
SIDES: tuple[tuple[type | tuple[type, ...], bool, Side], ...] = (
    (nn.Linear, True, Side({"weight": 0, "bias": 0}, ("out_features",))),
    (nn.Linear, False, Side({"weight": 1}, ("in_features",))),
    (_ConvTransposeNd, False, Side({"weight": 0}, ("in_channels",))),  # weight_IOHW
    (PRUNABLE, True, Side({"weight": 0, "bias": 0}, ("out_channels",))),
    (PRUNABLE, False, Side({"weight": 1}, ("in_channels",))),
    ((_BatchNorm, _InstanceNorm), True, CHANNELWISE),
    (nn.PReLU, True, Side({"weight": 0}, ("num_parameters",))),
)
# A depthwise convolution passes each channel through: removing one changes all three attributes.
DEPTHWISE = Side({"weight": 0, "bias": 0}, ("out_channels", "in_channels", "groups"))


def side_of(module: nn.Module, outputs: bool) -> Side | None:
    """How `module` stores its outputs or inputs; None if it cannot be cut there."""
    if isinstance(module, _ConvNd) and module.groups > 1:
        return DEPTHWISE if outputs and is_depthwise(module) else None
    return next((side for kind, of, side in SIDES if isinstance(module, kind) and of == outputs), None)


def is_depthwise(module: nn.Module) -> bool:
    """Whether a convolution has exactly one filter for each input channel (groups = inputs = outputs)."""
    return isinstance(module, PRUNABLE[:3]) and module.groups == module.in_channels == module.out_channels


def width_of(module: nn.Module, outputs: bool) -> int:
    """The number of a module's outputs or inputs; 1 where it cannot be cut."""
    side = side_of(module, outputs)
    return getattr(module, side.widths[0]) if side else 1


def cut(model: nn.Module, slices: Iterable[ChannelSlice]) -> None:
    """Remove the positions of `slices` from the modules of `model`, in place."""
    # Merged first, as a module can be in several groups, and a cut would shift the positions of the next.
    removed: dict[tuple[str, bool], set[int]] = defaultdict(set)
    for part in slices:
        removed[part.name, part.writes].update(part.indices)
    for (name, outputs), positions in removed.items():
        if not positions:
            continue
        module = model.get_submodule(name)
        if isinstance(module, ChannelMap):
            _cut_map(module, outputs, positions)
            continue
        side = side_of(module, outputs)
        assert side is not None, f"{name} cannot be cut, so its group has a reason to stay dense"
        kept = _without(width_of(module, outputs), positions)
        for tensor, dimension in side.tensors.items():
            _cut_tensor(module, tensor, dimension, kept)
        for attribute in side.widths:
            setattr(module, attribute, len(kept))


def mask(model: nn.Module, slices: Iterable[ChannelSlice]) -> None:
    """Zero the filters of `slices`, and γ and β of their BatchNorms, in place.

    Weights that read the channels stay: zeroing them too would hide a channel that is not zero.
    """
    with torch.no_grad():
        for part in slices:
            module = model.get_submodule(part.name)
            if part.writes and isinstance(module, (*PRUNABLE, *NORMS)):
                for parameter in module.parameters(recurse=False):
                    parameter[list(part.indices)] = 0


def tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of a module itself, without those of its submodules."""
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


def _cut_tensor(module: nn.Module, name: str, dimension: int, kept: Tensor) -> None:
    old = getattr(module, name)
    if old is None:  # no bias, no affine parameters, no statistics
        return
    values = old.detach().index_select(dimension, kept.to(old.device))
    if not old.is_contiguous():  # channels-last, or transposed: index_select lays its result out contiguously
        order = sorted(range(old.ndim), key=old.stride, reverse=True)
        values = torch.empty_permuted(values.shape, order, dtype=old.dtype, device=old.device).copy_(values)
    # A new parameter, so that no gradient of the old shape stays attached. requires_grad is passed on, which
    # Torch-Pruning does not do: there, a frozen layer that is cut becomes trainable.
    setattr(
        module, name, nn.Parameter(values, old.requires_grad) if isinstance(old, nn.Parameter) else values
    )


def _cut_map(module: ChannelMap, outputs: bool, removed: Iterable[int]) -> None:
    """Cut option A's shortcut, whose inputs and outputs can be removed independently of each other."""
    index = module.index
    if outputs:
        module.index = index[_without(len(index), removed).to(index.device)]
        return
    kept = _without(module.in_channels, removed)
    position = torch.full((module.in_channels + 1,), -1)  # the last entry maps -1 (zeros) to itself
    position[kept] = torch.arange(len(kept))  # outputs of a removed input get -1: zeros, as its mask gives
    module.index = position.to(index.device)[index]
    module.in_channels = len(kept)


def _without(count: int, removed: Iterable[int]) -> Tensor:
    kept = torch.ones(count, dtype=torch.bool)
    kept[list(removed)] = False
    return kept.nonzero().flatten()
