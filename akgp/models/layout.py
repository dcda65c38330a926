"""Layers that read and write fewer channels than the activations around them hold.

Where a network's code fixes the layout of an activation (a reshape, a channel shuffle, statistics over all
channels), removed channels stay there as zeros, and the layers around it are cut: one that reads selects
its inputs, one that writes puts zeros in between. Both are forward hooks with an index each, a buffer that
is saved with the weights, so that the class of the layer and the names of its parameters stay.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

INPUTS, OUTPUTS = "kept_inputs", "output_channels"
"""Names of the buffers: positions that the layer reads; which of its outputs is where, -1 for zeros."""


def set_layout(module: nn.Module, inputs: Tensor | None, outputs: Tensor | None) -> None:
    """Let a convolution or linear layer read the channels `inputs`, and write channel outputs[j] as the j-th.

    Of a layer that has a layout they select from it.

    Args:
        inputs: [I], positions among the channels that arrive, or that were read; None: all of them.
        outputs: [C], positions among the layer's outputs, -1 for zeros; for each of those that it had, if it
            has a layout; None: they are written as they are.
    """
    device = next(module.parameters()).device
    if inputs is not None:
        if (read := module._buffers.get(INPUTS)) is None:
            module.register_forward_pre_hook(_select)
        else:
            inputs = read.cpu()[inputs]
        module.register_buffer(INPUTS, inputs.to(device))
    if outputs is not None:
        if (written := module._buffers.get(OUTPUTS)) is None:
            module.register_forward_hook(_spread)
        else:
            outputs = torch.cat([torch.tensor([-1]), outputs])[written.cpu() + 1]
        module.register_buffer(OUTPUTS, outputs.to(device))


def has_layout(module: nn.Module) -> bool:
    """Whether `set_layout` has been called on it."""
    return INPUTS in module._buffers or OUTPUTS in module._buffers


def layout_buffers(names: Iterable[str]) -> list[str]:
    """Those names of tensors that are buffers of layouts."""
    return [name for name in names if name.rpartition(".")[2] in (INPUTS, OUTPUTS)]


def _channels(module: nn.Module) -> int:
    """The dimension of channels, from the end."""
    return -1 - len(module.kernel_size) if isinstance(module, _ConvNd) else -1


def _select(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0].index_select(_channels(module), module.kept_inputs), *inputs[1:])


def _spread(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    dimension = _channels(module)
    # A channel of zeros in front is what -1 selects.
    padded = F.pad(output, (*(0, 0) * (-1 - dimension), 1, 0))
    assert isinstance(module.output_channels, torch.Tensor)
    return padded.index_select(dimension, module.output_channels + 1)
