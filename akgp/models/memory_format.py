"""In which memory format a network computes: channels-last where that is asked for and its forward takes it.

The format is that of the network's weights, and images are laid out alike wherever it computes: in training,
in validation, in prediction and as a teacher.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from akgp.data.batches import laid_out
from akgp.models.eval_mode import eval_mode

log = logging.getLogger(__name__)


def settle(model: nn.Module, image_shape: Sequence[int], *, channels_last: bool) -> bool:
    """Lay out the weights of `model` on its device; returns whether channels-last.

    A forward that takes contiguous images alone, as by `x.view(len(x), -1)` behind a convolution, gets those,
    which is logged. What it raises on both is left to its training.

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
        log.warning("channels_last is not used, the network takes contiguous images alone: %s", refusal)
    return False


def format_of(model: nn.Module) -> torch.memory_format:
    """Channels-last if a weight is laid out so and not otherwise as well."""
    last = any(
        weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
        for weight in model.parameters()
        if weight.ndim == 4
    )
    return torch.channels_last if last else torch.contiguous_format


def as_weights(images_NCHW: Tensor, model: nn.Module) -> Tensor:
    """The images in the format of the network's weights; the same tensor if they are."""
    return laid_out(images_NCHW, format_of(model))


def _refusal(model: nn.Module, image_shape: Sequence[int], layout: torch.memory_format) -> str | None:
    """What `model`, its weights laid out like this, raises in eval mode on such images; None: nothing."""
    parameter = next(model.parameters(), torch.zeros(0))
    images = torch.zeros(2, *image_shape, device=parameter.device, dtype=parameter.dtype)
    try:
        model.to(memory_format=layout)
        with torch.no_grad(), eval_mode(model), torch.random.fork_rng(devices=[]):
            model(laid_out(images, layout))
    except Exception as error:  # whatever the user's forward raises, and torch on weights of five dimensions
        return " ".join(str(error).split()) or type(error).__name__
    return None
