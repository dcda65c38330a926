"""Pixels as networks take them: normalized, in a memory format.

Letters of shapes: N images, C channels, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

NCHW = torch.contiguous_format


def normalize(
    pixels: Tensor, mean: Sequence[float], std: Sequence[float], *, channels_last: bool = False
) -> Tensor:
    """(pixels / 255 − mean) / std, by channel.

    Args:
        pixels: uint8 [N, C, H, W].
        mean, std: [C], in units of 255.
    """
    shape = (1, len(mean), 1, 1)
    # pixels · scale − shift: one product and one difference a pixel.
    scale = 1 / (255 * torch.tensor(std, device=pixels.device).view(shape))
    shift = torch.tensor(mean, device=pixels.device).view(shape) / torch.tensor(
        std, device=pixels.device
    ).view(shape)
    return in_memory_format(pixels.float() * scale - shift, torch.channels_last if channels_last else NCHW)


def in_memory_format(images_NCHW: Tensor, memory_format: torch.memory_format) -> Tensor:
    """The images in this memory format, strides included; copied only if they are in another.

    With one channel both formats have the same memory, so `contiguous` leaves the strides unchanged; but a
    convolution chooses the format of its output by the strides. `view` sets them.
    """
    if memory_format is NCHW:
        return images_NCHW.contiguous().flatten().view(images_NCHW.shape)
    images_NHWC = images_NCHW.permute(0, 2, 3, 1).contiguous()
    return images_NHWC.flatten().view(images_NHWC.shape).permute(0, 3, 1, 2)
