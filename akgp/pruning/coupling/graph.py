"""Which channels of a network must be removed together: Torch-Pruning's dependency graph as groups.

A group is a set of channels that one or several convolutions or linear layers write (several, where
their outputs are summed), with everything that reads them. Nothing is scored or removed here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils import parametrize

from akgp.models import ChannelMap
from akgp.pruning.coupling.tracing import PruningError, as_pruning_error, trace
from akgp.pruning.cutting import PRUNABLE, ChannelSlice, is_depthwise, side_of, tensors, width_of

SCOPES = ("inside", "all")
"""inside: channels in which layers are summed, the residual streams, stay dense; all: they are cut too."""

# Statistics over several channels: without some of them the others come out differently.
MIXING = (nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.MultiheadAttention)


@dataclass(frozen=True)
class Group:
    """Channels of one activation, each of which is removed everywhere or nowhere.

    Attributes:
        root: the layer whose filters number the channels.
        width: the number of channels.
        parts: every module that writes, normalises or reads them.
        reason: why none of them may be removed, else None.
    """

    root: nn.Module
    width: int
    parts: tuple[ChannelSlice, ...]
    reason: str | None

    @property
    def layers(self) -> list[ChannelSlice]:
        """The convolutions and linear layers that write the channels."""
        return [part for part in self.parts if part.writes and isinstance(part.module, PRUNABLE)]

    def only(self, channels: Sequence[int]) -> list[ChannelSlice]:
        """The parts, restricted to the positions of `channels`."""
        chosen = set(channels)
        return [
            replace(
                part,
                indices=tuple(i for i, c in zip(part.indices, part.channels, strict=True) if c in chosen),
                channels=tuple(c for c in part.channels if c in chosen),
            )
            for part in self.parts
        ]


class Graph:
    """The groups of channels of `model`, a copy that must not be run after it was traced.

    Attributes:
        groups: in the order of the modules; a layer is in one or more, as writer or reader.
        outside: name of a layer in no group -> why.

    Raises:
        PruningError: the network's graph cannot be traced or followed.
    """

    def __init__(
        self, model: nn.Module, example_input: Tensor, skip: Sequence[str] = (), scope: str = "all"
    ) -> None:
        if scope not in SCOPES:
            raise PruningError(f"scope must be one of {', '.join(SCOPES)}, got {scope!r}")
        self.scope = scope
        self.names = {module: name for name, module in model.named_modules()}
        self.skipped = _skipped(model, skip)
        self.tied = _tied(model)
        self.dependencies, called = trace(model, example_input)
        with as_pruning_error(model, "has connections that cannot be followed"):
            self.groups = list(self._groups())
        self.outside = {
            name: "no gradient passes through it" if module in called else "not reached from the input"
            for module, name in self.names.items()
            if isinstance(module, PRUNABLE) and module not in self.dependencies.module2node
        }

    def _groups(self) -> Iterator[Group]:
        seen: set[nn.Module] = set()
        for module in self.names:
            if module in seen or not isinstance(module, PRUNABLE):
                continue
            if module not in self.dependencies.module2node:
                continue
            # The group of all channels at once: which of them are coupled does not depend on how many go.
            width = self.dependencies.get_out_channels(module)
            items = list(self._items(module, range(width)))
            parts = tuple(self._parts(items))
            group = Group(module, width, parts, self._reason(items, parts, width))
            seen |= {part.module for part in group.layers}
            yield group

    def _items(self, root: nn.Module, channels: Sequence[int]) -> Any:
        pruner = self.dependencies.get_pruner_of_module(root)
        return self.dependencies.get_pruning_group(root, pruner.prune_out_channels, list(channels))

    def _parts(self, items: Sequence[Any]) -> Iterator[ChannelSlice]:
        for item in items:
            module = item.dep.target.module
            # Nodes of operations such as sums and splits have pseudo-modules, which the network does not
            # contain. A PReLU with one slope for all channels has nothing to cut.
            if module in self.names and not (isinstance(module, nn.PReLU) and module.num_parameters == 1):
                yield ChannelSlice(
                    self.names[module],
                    module,
                    self.dependencies.is_out_channel_pruning_fn(item.dep.handler),
                    tuple(item.idxs),
                    tuple(item.root_idxs),
                )

    def _reason(self, items: Sequence[Any], parts: Sequence[ChannelSlice], width: int) -> str | None:
        """Why a group stays dense, or None."""
        # A node without successors that reads nothing itself: the channels are returned by the forward pass.
        readers = {part.module for part in parts if not part.writes}
        if any(not item.dep.target.outputs and item.dep.target.module not in readers for item in items):
            return "is the network's output"
        layers = [part for part in parts if part.writes and isinstance(part.module, PRUNABLE)]
        skipped = [part.name for part in layers if part.module in self.skipped]
        if skipped:
            only_skipped = len(skipped) == len(layers)
            return "skipped" if only_skipped else f"summed with {skipped[0]}, which is skipped"
        for part in parts:
            if reason := self._uncuttable(part, width):
                return reason
        if any(isinstance(item.dep.target.module, nn.Parameter) for item in items):
            return "scaled by a parameter outside of a layer"
        if self.scope == "inside" and any(_is_sum(item.dep.target) for item in items):
            return "a residual stream, which scope inside leaves whole"
        return None

    def _uncuttable(self, part: ChannelSlice, width: int) -> str | None:
        """Why the channels of a group cannot be cut out of one of its modules, or None."""
        module, name, kind = part.module, part.name, type(part.module).__name__
        if isinstance(module, _ConvNd) and module.groups > 1 and not is_depthwise(module):
            return f"grouped convolution {name}"
        if isinstance(module, MIXING):
            return f"{kind} {name} mixes the channels"
        if isinstance(module, _InstanceNorm) and module.affine:
            return f"{kind} {name} adds a bias to channels that are zero"
        if isinstance(module, _BatchNorm) and not module.affine and module.track_running_stats:
            return f"{kind} {name} has no γ and β by which channels could be zero"
        if not isinstance(module, ChannelMap):
            side = side_of(module, part.writes)
            if side is None:
                return f"{kind} {name} cannot be cut"
            # Behind GLU or pixel_shuffle Torch-Pruning gives positions past the end of the layer.
            if max(part.indices) >= width_of(module, part.writes):
                return f"connected to {name} in a way that cannot be followed"
            if module in self.tied:
                return f"{name} shares {self.tied[module]}"
            if parametrize.is_parametrized(module) or "weight" not in module._parameters:
                return f"the weight of {name} is computed from other tensors"
            # A tensor of a subclass, such as a mask: nothing says along which dimension it has the channels.
            sizes = {each: tensor.numel() for each, tensor in tensors(module)}
            handled = (*side.tensors, *UNCUT)
            unknown = [each for each, size in sizes.items() if size > 1 and each not in handled]
            if unknown:
                return f"{name} holds {unknown[0]} beside its weight"
        if part.writes and isinstance(module, PRUNABLE) and sorted(part.channels) != list(range(width)):
            return f"shares only some channels with {name}"
        return None


def _is_sum(node: Any) -> bool:
    """Whether a node of Torch-Pruning's graph adds two activations; a bias or a constant is none."""
    # The operation's pseudo-module keeps the name of its autograd function and nothing else of it.
    operation = getattr(node.module, "_grad_fn", None) or ""
    return str(operation).startswith("AddBackward") and len(node.inputs) > 1


UNCUT = ("bias", "num_batches_tracked")
"""Tensors that no cut of a module's inputs changes; the bias is in the `Side` of its outputs."""


def _tied(model: nn.Module) -> dict[nn.Module, str]:
    """Module -> which of its tensors it shares, and with what, as words for a reason."""
    owners: dict[int, dict[nn.Module, str]] = defaultdict(dict)
    names = {module: name for name, module in model.named_modules()}
    for module, name in names.items():
        # By storage, so that views of one tensor (a transposed weight) count as shared too.
        for tensor_name, tensor in tensors(module):
            owners[tensor.untyped_storage()._cdata].setdefault(module, f"{name}.{tensor_name}")
    tied = {}
    for sharing in owners.values():
        for module, full_name in sharing.items():
            others = [other for each, other in sharing.items() if each is not module]
            if others:
                tied[module] = f"its {full_name.rpartition('.')[2]} with {', '.join(others)}"
    return tied


def _skipped(model: nn.Module, skip: Sequence[str]) -> set[nn.Module]:
    names = dict(model.named_modules(remove_duplicate=False))
    if isinstance(skip, str):
        raise PruningError(f"skip must be a list of names of modules, got {skip!r}")
    for name in skip:
        if not name or name not in names:
            like = f", such as {list(names)[1]!r}" if len(names) > 1 else ""  # the first is "", the network
            raise PruningError(f"skip: {name!r} is not a module of the network{like}")
    return {module for name in skip for module in names[name].modules()}
