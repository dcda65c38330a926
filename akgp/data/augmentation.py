"""Random changes of training images, made for a whole batch at once on its device.

What is random is drawn first, on the CPU, one row an image (`draw`); `augmented` then computes from it, so
that the same draws give the same images on every device and in every order. The policy's operations are in
`trivial_augment`, mixtures of two images in `mixing`.

Letters of shapes: B images of a batch, C channels, H, W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from akgp.data import trivial_augment
from akgp.params import Augment

Draws = Mapping[str, Tensor]
"""By name, on the CPU; the first dimension of each is the image."""

CROP_RATIO = (3 / 4, 4 / 3)
"""Width over height of a resized crop (Szegedy et al. 2015)."""
ERASED_AREA, ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)
"""Share of the image and height over width of an erased rectangle (Zhong et al. 2020, as in torchvision)."""


def draw(params: Augment, count: int, size: tuple[int, int], generator: torch.Generator) -> dict[str, Tensor]:
    """The random numbers by which `augmented` changes `count` images of `size` (H, W).

    Args:
        generator: on the CPU; what is turned off draws nothing.
    """
    height, width = size
    draws: dict[str, Tensor] = {}
    if params.resized_crop is not None:
        draws["crop"] = _crop_boxes(params.resized_crop, count, size, generator)
    elif params.crop_padding:
        pad = params.crop_padding
        draws["offset"] = torch.randint(-pad, pad + 1, (2, count), generator=generator).T
    if params.flip:
        draws["mirrored"] = torch.rand(count, generator=generator) < 0.5
    if params.color_jitter:
        draws["jitter"] = 1 + params.color_jitter * _uniform((count, 3), (-1, 1), generator)
    if params.policy == "trivial":
        draws |= trivial_augment.draw(count, generator)
    if params.erasing:
        draws["erased"] = _erased(params.erasing, count, size, generator)
    if params.cutout:
        draws["centre"] = torch.stack(
            [torch.randint(0, side, (count,), generator=generator) for side in (height, width)], 1
        )
    return draws


def augmented(pixels: Tensor, params: Augment, draws: Draws) -> Tensor:
    """Crops, flips, colours, a policy, erased rectangles and cutout, in this order.

    Args:
        pixels: uint8 [B, C, H, W].

    Returns:
        uint8 [B, C, H, W]; what is cut out or erased has the mean colour of the batch.
    """
    if "crop" in draws:
        pixels = _resized_crop(pixels, draws["crop"], draws.get("mirrored"))
    else:
        pixels = _shifted(pixels, draws.get("offset"), draws.get("mirrored"))
    if "jitter" in draws:
        for name, factor in zip(("brightness", "contrast", "color"), draws["jitter"].T, strict=True):
            pixels = trivial_augment.BLENDS[name](pixels, factor)
    if params.policy == "trivial":
        pixels = trivial_augment.apply(pixels, draws)
    if "erased" in draws:
        pixels = _filled(pixels, draws["erased"])
    if "centre" in draws:
        low = draws["centre"] - params.cutout // 2
        # A square whose centre is near the border is cut off there, as in DeVries & Taylor 2017.
        pixels = _filled(pixels, torch.cat([low, low + params.cutout], 1))
    return pixels


def _shifted(pixels: Tensor, offset: Tensor | None, mirrored: Tensor | None) -> Tensor:
    """Crops after reflection padding [B, 2] and flips [B]: together one gather of pixels."""
    if offset is None and mirrored is None:
        return pixels
    (count, _, height, width), device = pixels.shape, pixels.device
    # Source rows [B, H] and columns [B, W] of every output pixel.
    rows, columns = torch.arange(height).expand(count, -1), torch.arange(width).expand(count, -1)
    if offset is not None:
        rows, columns = (
            _reflected(rows + offset[:, :1], height),
            _reflected(columns + offset[:, 1:], width),
        )
    if mirrored is not None:
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    sample = torch.arange(count, device=device)[:, None, None]
    # Channels last, so that one index reads all channels of a pixel.
    images_NHWC = pixels.permute(0, 2, 3, 1)
    grid = images_NHWC[sample, rows.to(device)[:, :, None], columns.to(device)[:, None, :]]
    return grid.permute(0, 3, 1, 2)


def _reflected(position: Tensor, size: int) -> Tensor:
    """Positions reflected into [0, size), as often as needed, at border pixels, which are not repeated."""
    period = max(2 * (size - 1), 1)
    position = position.abs() % period
    return torch.where(position >= size, period - position, position)


def _crop_boxes(smallest: float, count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """[count, 4] top, left, height, width in pixels: a uniform share of the area, a log-uniform ratio.

    Torchvision's RandomResizedCrop draws again where a box does not fit; here it is clamped to the image.
    """
    height, width = size
    area = _uniform((count,), (smallest, 1), generator) * height * width
    low, high = (math.log(ratio) for ratio in CROP_RATIO)
    ratio = _uniform((count,), (low, high), generator).exp()
    tall, wide = (area / ratio).sqrt().clamp(1, height), (area * ratio).sqrt().clamp(1, width)
    top, left = torch.rand((2, count), generator=generator) * torch.stack([height - tall, width - wide])
    return torch.stack([top, left, tall, wide], 1)


def _resized_crop(pixels: Tensor, boxes: Tensor, mirrored: Tensor | None) -> Tensor:
    """The box of each image, enlarged to the whole by bilinear interpolation, and flips."""
    height, width = pixels.shape[2:]
    top, left, tall, wide = boxes.T
    theta = torch.zeros(len(pixels), 2, 3)
    # In affine_grid's units the image is [-1, 1], borders of pixels included.
    theta[:, 0, 0], theta[:, 0, 2] = wide / width, (2 * left + wide) / width - 1
    theta[:, 1, 1], theta[:, 1, 2] = tall / height, (2 * top + tall) / height - 1
    if mirrored is not None:
        theta[:, 0, 0] = torch.where(mirrored, -theta[:, 0, 0], theta[:, 0, 0])
    grid = F.affine_grid(theta.to(pixels.device), list(pixels.shape), align_corners=False)
    sampled = F.grid_sample(pixels.float(), grid, padding_mode="border", align_corners=False)
    return sampled.round().to(torch.uint8)


def _erased(share: float, count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """[count, 4] top, left, bottom, right of a rectangle in a `share` of the images, empty in the others."""
    height, width = size
    area = _uniform((count,), ERASED_AREA, generator) * height * width
    low, high = (math.log(ratio) for ratio in ERASED_RATIO)
    ratio = _uniform((count,), (low, high), generator).exp()
    tall = (area * ratio).sqrt().round().clamp(1, height)
    wide = (area / ratio).sqrt().round().clamp(1, width)
    top, left = torch.rand((2, count), generator=generator) * torch.stack(
        [height - tall + 1, width - wide + 1]
    )
    top, left = top.floor(), left.floor()
    chosen = torch.rand(count, generator=generator) < share
    return (torch.stack([top, left, top + tall, left + wide], 1) * chosen[:, None]).long()


def rectangles(boxes: Tensor, height: int, width: int) -> Tensor:
    """bool [B, 1, H, W]: the pixels inside of boxes [B, 4] of top, left, bottom, right (excluded)."""
    top, left, bottom, right = (edge[:, None] for edge in boxes.T)
    rows, columns = torch.arange(height), torch.arange(width)
    vertical, horizontal = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return vertical[:, None, :, None] & horizontal[:, None, None, :]


def _filled(pixels: Tensor, boxes: Tensor) -> Tensor:
    fill = pixels.float().mean((0, 2, 3), keepdim=True).round().to(torch.uint8)
    return torch.where(rectangles(boxes, *pixels.shape[2:]).to(pixels.device), fill, pixels)


def _uniform(shape: tuple[int, ...], bounds: tuple[float, float], generator: torch.Generator) -> Tensor:
    low, high = bounds
    return low + (high - low) * torch.rand(shape, generator=generator)
