"""What a network must be for its layers to be inspected and cut, and copies of it to work on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from akgp.io.errors import message
from akgp.models.copying import deep_copy
from akgp.models.inputs import Example, Inputs
from akgp.models.memory_format import format_of
from akgp.pruning.coupling.layers import PRUNABLE

# Modules of torch.ao that compute in floating point, or nothing at all: not yet quantized.
STUBS = ("torch.ao.quantization.stubs", "torch.ao.quantization.observer")


class PruningError(ValueError):
    """A network cannot be pruned with these arguments; the message says what to change."""


class NothingRemoved(PruningError):
    """No filter would be removed: the pruned network would be the given one."""


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


def on_device(model: nn.Module, example_input: Example) -> Inputs:
    """A copy of the example on the network's device, never inference tensors, which autograd refuses."""
    try:
        inputs = Inputs.of(model, example_input)
    except (TypeError, ValueError) as error:
        raise PruningError(f"example_input {error}") from None
    device = next(model.parameters()).device
    return inputs.map(lambda each: each.detach().clone().to(device))


def copy_network(model: nn.Module) -> nn.Module:
    """A deep copy without inference tensors; parameters that share memory share it in the copy too.

    Raises:
        PruningError: the network cannot be copied.
    """
    with as_pruning_error(model, "cannot be copied"), autograd_enabled():
        return deep_copy(model)


def contiguous(model: nn.Module) -> nn.Module:
    """`model`, or a copy of it if its weights are in channels-last order, as training leaves them.

    Strides then differ from what shapes say wherever a side is 1, and layers behind such an activation would
    keep its layout for nothing.
    """
    if format_of(model) == torch.contiguous_format:
        return model
    return copy_network(model).to(memory_format=torch.contiguous_format)
