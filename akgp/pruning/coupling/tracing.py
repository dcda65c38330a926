"""Follows a network's forward pass by autograd's graph of it, which Torch-Pruning reads.

A forward pass that turns gradients off, detaches or runs in inference mode leaves gaps in that graph; here
it is run as if it did not. Networks whose layers cannot be seen at all are refused.
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

STUBS = ("torch.ao.quantization.stubs", "torch.ao.quantization.observer")


class PruningError(ValueError):
    """A network cannot be pruned as asked; the message says what to change."""


class WithGradients(TorchFunctionMode):
    """Records every operation: no_grad, inference_mode, detach and data have no effect."""

    ALIASES = (torch.detach, Tensor.detach, Tensor.data.__get__)  # type: ignore[attr-defined]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.ALIASES:
            return args[0]
        with ordinary():
            return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def ordinary() -> Iterator[None]:
    """Tensors made here are ordinary ones and have gradients, whatever the caller has turned off."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextlib.contextmanager
def told(model: nn.Module, task: str) -> Iterator[None]:
    """Whatever is raised inside becomes a PruningError of one line."""
    try:
        yield
    except PruningError:
        raise
    except Exception as error:
        raise PruningError(f"{type(model).__name__} {task}: {message(error)}") from error


def refuse(model: nn.Module) -> None:
    """Raise PruningError for networks whose layers or weights cannot be seen."""
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


def copied(model: nn.Module) -> nn.Module:
    """A copy of ordinary tensors; parameters that share their memory share it in the copy too.

    Raises:
        PruningError: the network cannot be copied.
    """
    with told(model, "cannot be copied"), ordinary():
        twin = copy.deepcopy(model)
        first: dict[tuple[Any, ...], Tensor] = {}
        for old, new in zip(model.parameters(), twin.parameters(), strict=True):
            place = (old.untyped_storage()._cdata, old.storage_offset(), old.numel())
            if (base := first.setdefault(place, new)) is not new and old.numel():
                new.data = base.data.as_strided(old.shape, old.stride())
    return twin


def traced(model: nn.Module, example_input: Tensor) -> tuple[Any, set[nn.Module]]:
    """Torch-Pruning's graph of a network, and the modules that its forward pass calls.

    The network is not to be used afterwards: its parameters have gradients, its buffers may have a history.

    Raises:
        PruningError: the network does not run, or its graph cannot be followed.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    with told(model, f"cannot be traced with an input of {list(example_input.shape)}"), ordinary():
        try:
            with WithGradients():
                return _graph(model, example_input)
        except RuntimeError:  # a forward pass that writes to parameters under no_grad
            return _graph(model, example_input)


def _graph(model: nn.Module, example_input: Tensor) -> tuple[Any, set[nn.Module]]:
    import torch_pruning

    called: set[nn.Module] = set()
    handles = [
        module.register_forward_pre_hook(lambda module, _: called.add(module)) for module in model.modules()
    ]
    try:
        graph = torch_pruning.DependencyGraph().build_dependency(
            model,
            example_input,
            forward_fn=lambda network, images: network(images),
            customized_pruners={ChannelMap: _ChannelMaps()},
            verbose=False,
        )
    finally:
        for handle in handles:
            handle.remove()
    return graph, called


class _ChannelMaps:
    """Tells Torch-Pruning how wide option A's shortcut is; its inputs and outputs are separate channels."""

    pruning_dim = 1

    def prune_out_channels(self, layer: ChannelMap, idxs: Any) -> nn.Module:
        raise AssertionError("cutting.cut does this")

    def prune_in_channels(self, layer: ChannelMap, idxs: Any) -> nn.Module:
        raise AssertionError("cutting.cut does this")

    def get_out_channels(self, layer: ChannelMap) -> int:
        return len(layer.index)

    def get_in_channels(self, layer: ChannelMap) -> int:
        return layer.in_channels
