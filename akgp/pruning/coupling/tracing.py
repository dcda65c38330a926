"""Traces a network's forward pass through the autograd graph, which Torch-Pruning reads.

A forward pass that turns gradients off, detaches or runs in inference mode would leave gaps in that graph;
here these have no effect. Networks whose layers cannot be inspected are refused.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from akgp.io.errors import message
from akgp.models import ChannelMap
from akgp.pruning.cutting import PRUNABLE

# Modules of torch.ao that compute in floating point, or nothing at all: not yet quantized.
STUBS = ("torch.ao.quantization.stubs", "torch.ao.quantization.observer")


class PruningError(ValueError):
    """A network cannot be pruned with these arguments; the message says what to change."""


class WithGradients(TorchFunctionMode):
    """Makes autograd record every operation: no_grad, inference_mode, detach and data have no effect."""

    ALIASES = (torch.detach, Tensor.detach, Tensor.data.__get__)  # type: ignore[attr-defined]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.ALIASES:
            return args[0]
        with autograd_enabled():
            return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def autograd_enabled() -> Iterator[None]:
    """Turn autograd on in the block, whatever the caller has set: no inference tensors are made in it."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextlib.contextmanager
def as_pruning_error(model: nn.Module, task: str) -> Iterator[None]:
    """Turn whatever the block raises into a PruningError of one line."""
    try:
        yield
    except PruningError:
        raise
    except Exception as error:
        raise PruningError(f"{type(model).__name__} {task}: {message(error)}") from error


def require_prunable(model: nn.Module) -> None:
    """Raise PruningError for networks whose layers or weights cannot be inspected or cut."""
    if not isinstance(model, nn.Module):
        raise PruningError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    kind = type(model).__name__
    for name, module in model.named_modules():
        where = f"its module {name}" if name else "it"
        package = type(module).__module__
        if isinstance(module, torch.jit.ScriptModule):
            raise PruningError(
                f"{kind} cannot be pruned: {where} is a scripted or traced module (torch.jit), whose layers "
                "cannot be cut; prune the network it was made from"
            )
        if package.startswith("torch.ao.") and not package.startswith(STUBS):
            raise PruningError(
                f"{kind} cannot be pruned: {where} is quantized ({type(module).__name__}); prune first"
            )
        if package.startswith("torch._dynamo"):
            raise PruningError(f"{kind} cannot be pruned: {where} is compiled; prune it before torch.compile")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if isinstance(tensor, (nn.UninitializedParameter, nn.UninitializedBuffer)):
            raise PruningError(f"{kind} cannot be pruned: {name} has no values yet; run the network once")
        if tensor.is_meta:
            raise PruningError(f"{kind} cannot be pruned: {name} has no values (device meta)")
        wrapper: bool = is_traceable_wrapper_subclass(tensor)
        if tensor.layout != torch.strided or wrapper:
            what = f"{type(tensor.data).__name__} of layout {tensor.layout}"
            raise PruningError(f"{kind} cannot be pruned: {name} is no ordinary tensor ({what}); prune first")
    if not any(isinstance(module, PRUNABLE) for module in model.modules()):
        raise PruningError(f"{kind} cannot be pruned: it has no convolution and no linear layer (torch.nn)")


def copy_network(model: nn.Module) -> nn.Module:
    """A deep copy without inference tensors; parameters that share memory share it in the copy too.

    Raises:
        PruningError: the network cannot be copied.
    """
    with as_pruning_error(model, "cannot be copied"), autograd_enabled():
        twin = copy.deepcopy(model)
        # deepcopy keeps one Parameter in two modules shared, but separates two that are views of one storage.
        first: dict[tuple[Any, ...], Tensor] = {}
        for old, new in zip(model.parameters(), twin.parameters(), strict=True):
            memory = (old.untyped_storage()._cdata, old.storage_offset(), old.numel())
            if (base := first.setdefault(memory, new)) is not new and old.numel():
                new.data = base.data.as_strided(old.shape, old.stride())
    return twin


def trace(model: nn.Module, example_input: Tensor) -> tuple[Any, set[nn.Module]]:
    """Torch-Pruning's dependency graph of a network, and the modules that its forward pass calls.

    Do not run the network afterwards: its parameters require gradients, its buffers may be part of a graph.

    Raises:
        PruningError: the network does not run, or its graph cannot be followed.
    """
    # A frozen layer would leave no node in the autograd graph. Only floating-point tensors have gradients.
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    with (
        as_pruning_error(model, f"cannot be traced with an input of {list(example_input.shape)}"),
        autograd_enabled(),
    ):
        try:
            with WithGradients():
                return _graph(model, example_input)
        except RuntimeError:  # as of a forward pass that writes to parameters, for which it needs its no_grad
            return _graph(model, example_input)


def _graph(model: nn.Module, example_input: Tensor) -> tuple[Any, set[nn.Module]]:
    import torch_pruning

    # Tells a module that no gradient passes through from one that is never called.
    called: set[nn.Module] = set()
    handles = [
        module.register_forward_pre_hook(lambda module, _: called.add(module)) for module in model.modules()
    ]
    try:
        graph = torch_pruning.DependencyGraph().build_dependency(
            model,
            example_input,
            # By default the example is unpacked, so that a batch of one loses its first dimension.
            forward_fn=lambda network, images: network(images),
            customized_pruners={ChannelMap: _ChannelMaps()},
            verbose=False,
        )
    finally:
        for handle in handles:
            handle.remove()
    return graph, called


class _ChannelMaps:
    """Torch-Pruning's interface for option A's shortcut: its inputs and outputs are different channels.

    Channels are removed by `cutting.cut` alone, so the pruning functions never run.
    """

    pruning_dim = 1

    def prune_out_channels(self, layer: ChannelMap, idxs: Any) -> nn.Module:
        raise AssertionError("cutting.cut does this")

    def prune_in_channels(self, layer: ChannelMap, idxs: Any) -> nn.Module:
        raise AssertionError("cutting.cut does this")

    def get_out_channels(self, layer: ChannelMap) -> int:
        return len(layer.index)

    def get_in_channels(self, layer: ChannelMap) -> int:
        return layer.in_channels
