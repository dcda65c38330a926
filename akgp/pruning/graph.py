"""Which filters of a network must go together: Torch-Pruning's dependency graph as groups of channels.

A group is a set of channels that one or several convolutions or linear layers write (several, where
their outputs are summed), with everything that reads them. Nothing is scored or removed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from akgp.models import ChannelMap

PRUNABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# Statistics over several channels: without some of them the others come out differently.
MIXING = (nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.MultiheadAttention)


class PruningError(ValueError):
    """A network cannot be pruned as asked; the message says what to change."""


@dataclass(frozen=True)
class Part:
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
class Group:
    """Channels that live and die together.

    Attributes:
        root: the module by whose filters the channels are numbered.
        width: how many channels.
        parts: every module that writes, normalises or reads them.
        reason: why none may be removed, else None.
    """

    root: nn.Module
    width: int
    parts: tuple[Part, ...]
    reason: str | None

    @property
    def layers(self) -> list[Part]:
        """The convolutions and linear layers whose filters the channels are."""
        return [part for part in self.parts if part.writes and isinstance(part.module, PRUNABLE)]

    def only(self, channels: Sequence[int]) -> list[Part]:
        """The parts, with the positions of these channels alone."""
        chosen = set(channels)
        return [
            replace(
                part,
                indices=tuple(i for i, c in zip(part.indices, part.channels, strict=True) if c in chosen),
                channels=tuple(c for c in part.channels if c in chosen),
            )
            for part in self.parts
        ]


class _ChannelMapPruner:
    """How Torch-Pruning cuts option A's shortcut: inputs and outputs may go independently."""

    pruning_dim = 1

    def prune_out_channels(self, layer: ChannelMap, idxs: Sequence[int]) -> nn.Module:
        layer.index = layer.index[_without(len(layer.index), idxs)]
        return layer

    def prune_in_channels(self, layer: ChannelMap, idxs: Sequence[int]) -> nn.Module:
        kept = _without(layer.in_channels, idxs)
        position = torch.full((layer.in_channels + 1,), -1)  # the last one stands for index -1
        position[kept] = torch.arange(len(kept))
        layer.index = position[layer.index]
        layer.in_channels = len(kept)
        return layer

    def get_out_channels(self, layer: ChannelMap) -> int:
        return len(layer.index)

    def get_in_channels(self, layer: ChannelMap) -> int:
        return layer.in_channels


class Graph:
    """The dependencies of `model`, which `remove` changes in place.

    Raises:
        PruningError: the network's graph cannot be traced.
    """

    def __init__(self, model: nn.Module, example_input: Tensor, skip: Sequence[str] = ()) -> None:
        self.names = {module: name for name, module in model.named_modules()}
        _check_skip(skip, list(self.names.values()))
        self.dependencies = _traced(model, example_input)
        self.groups = list(self._groups(skip))

    def _groups(self, skip: Sequence[str]) -> Iterator[Group]:
        """Groups in the order of the modules; every layer is a member of one or more."""
        seen: set[nn.Module] = set()
        for module in self.names:
            if module in seen or not isinstance(module, PRUNABLE) or module not in self._nodes:
                continue
            width = self.dependencies.get_out_channels(module)
            items = list(self._items(module, range(width)))
            parts = tuple(self._parts(items))
            group = Group(module, width, parts, self._reason(items, parts, width, skip))
            seen |= {part.module for part in group.layers}
            yield group

    @property
    def _nodes(self) -> dict[Any, Any]:
        return self.dependencies.module2node

    def _items(self, root: nn.Module, channels: Sequence[int]) -> Any:
        pruner = self.dependencies.get_pruner_of_module(root)
        return self.dependencies.get_pruning_group(root, pruner.prune_out_channels, list(channels))

    def _parts(self, items: Sequence[Any]) -> Iterator[Part]:
        for item in items:
            module = item.dep.target.module
            if module in self.names:
                yield Part(
                    self.names[module],
                    module,
                    self.dependencies.is_out_channel_pruning_fn(item.dep.handler),
                    tuple(item.idxs),
                    tuple(item.root_idxs),
                )

    def _reason(
        self, items: Sequence[Any], parts: Sequence[Part], width: int, skip: Sequence[str]
    ) -> str | None:
        """Why a group stays dense, or None."""
        readers = {part.module for part in parts if not part.writes}
        if any(not item.dep.target.outputs and item.dep.target.module not in readers for item in items):
            return "is the network's output"
        layers = [part.name for part in parts if part.writes and isinstance(part.module, PRUNABLE)]
        skipped = [name for name in layers if _skips(name, skip)]
        if skipped:
            return "skipped" if skipped == layers else f"summed with {skipped[0]}, which is skipped"
        for part in parts:
            groups = getattr(part.module, "groups", 1)
            if groups > 1 and groups != part.module.out_channels:
                return f"grouped convolution {part.name}"
            if isinstance(part.module, MIXING):
                return f"{type(part.module).__name__} {part.name} mixes the channels"
            if (
                part.writes
                and isinstance(part.module, PRUNABLE)
                and sorted(part.channels) != list(range(width))
            ):
                return f"shares only some channels with {part.name}"
        if any(isinstance(item.dep.target.module, nn.Parameter) for item in items):
            return "scaled by a parameter outside of a layer"
        return None

    def remove(self, group: Group, channels: Sequence[int]) -> None:
        """Remove `channels` of the group from every module of the network."""
        if channels:
            self._items(group.root, channels).prune(record_history=False)


def _traced(model: nn.Module, example_input: Tensor) -> Any:
    import torch_pruning

    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    try:
        with torch.enable_grad():  # it follows the gradient's graph
            for parameter in frozen:
                parameter.requires_grad_(True)
            return torch_pruning.DependencyGraph().build_dependency(
                model, example_input, customized_pruners={ChannelMap: _ChannelMapPruner()}, verbose=False
            )
    except Exception as error:  # whatever the user's forward pass or the tracer raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PruningError(
            f"{type(model).__name__} cannot be traced with an input of {list(example_input.shape)}: {reason}"
        ) from error
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def _check_skip(skip: Sequence[str], names: list[str]) -> None:
    for name in skip:
        if not name or name not in names:
            raise PruningError(f"skip: {name!r} is not a module of the network, such as {names[1]!r}")


def _skips(name: str, skip: Sequence[str]) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in skip)


def _without(count: int, removed: Sequence[int]) -> Tensor:
    kept = torch.ones(count, dtype=torch.bool)
    kept[list(removed)] = False
    return kept.nonzero().flatten()
