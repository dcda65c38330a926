"""The memory format of a network: channels-last if requested and if its forward pass works with it.

The weights have that format, and images are converted to it wherever the network computes: in training,
validation, prediction and as a teacher.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from akgp.data.normalization import in_memory_format
from akgp.io.errors import message_or_type
from akgp.models.eval_mode import eval_mode

log = logging.getLogger(__name__)


def settle(model: nn.Module, image_shape: Sequence[int], *, channels_last: bool) -> bool:
    """Convert the weights of `model` to the memory format in which it works; returns whether channels-last.

    A forward pass that needs contiguous images, as for `x.view(len(x), -1)` behind a convolution, gets these,
    with a warning. An error in both formats is left to the training to report.

    Args:
        image_shape: (C, H, W).
    """
    if not channels_last or all(weight.ndim != 4 for weight in model.parameters()):
        model.to(memory_format=torch.contiguous_format)
        return False
    refusal = _refusal(model, image_shape, torch.channels_last)
    if refusal is None:
        return True
    if _refusal(model, image_shape, torch.contiguous_format) is None:
        log.warning("channels_last is not used, the network takes only contiguous images: %s", refusal)
    return False


def format_of(model: nn.Module) -> torch.memory_format:
    """Channels-last if any weight is stored so."""
    # A 1×1 kernel or a single input channel is contiguous in both formats and says nothing.
    last = any(
        weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
        for weight in model.parameters()
        if weight.ndim == 4
    )
    return torch.channels_last if last else torch.contiguous_format


def to_format(model: nn.Module, layout: torch.memory_format) -> None:
    """Convert the weights of four dimensions to a format, in place; of five, channels-last is another one."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=layout)


def as_weights(images_NCHW: Tensor, model: nn.Module) -> Tensor:
    """The images in the memory format of the network's weights."""
    return in_memory_format(images_NCHW, format_of(model))


def _refusal(model: nn.Module, image_shape: Sequence[int], layout: torch.memory_format) -> str | None:
    """The error of a forward pass in eval mode with weights and images of this format; None if it works."""
    parameter = next(model.parameters(), torch.zeros(0))
    images = torch.zeros(2, *image_shape, device=parameter.device, dtype=parameter.dtype)
    try:
        model.to(memory_format=layout)
        with torch.no_grad(), eval_mode(model), torch.random.fork_rng(devices=[]):
            model(in_memory_format(images, layout))
    except Exception as error:  # whatever the user's forward raises, and torch on weights of five dimensions
        return message_or_type(error)
    return None
