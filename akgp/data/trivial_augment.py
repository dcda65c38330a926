"""TrivialAugment (Müller & Hutter 2021) for a whole batch: one random operation an image, of random strength.

The fourteen operations and the ranges of the wide space are those of torchvision's TrivialAugmentWide.
Departures: the strength is continuous, not one of 31 steps; what is moved is interpolated bilinearly.

Letters of shapes: B images, C channels, H, W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Operation = Callable[[Tensor, Tensor], Tensor]
"""(uint8 [B, C, H, W], strength [B]) -> uint8 [B, C, H, W]"""

LUMINANCE = (0.2989, 0.587, 0.114)
"""Shares of red, green and blue in an image's brightness (ITU-R BT.601)."""


def draw(count: int, generator: torch.Generator) -> dict[str, Tensor]:
    """An operation's number and a strength in [-1, 1] for each image."""
    return {
        "operation": torch.randint(len(OPERATIONS), (count,), generator=generator),
        "strength": 2 * torch.rand(count, generator=generator) - 1,
    }


def apply(pixels: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
    """The images [B, C, H, W], each changed by its operation; the given tensor stays as it is."""
    pixels = pixels.clone()
    # Chosen on the CPU, where the draws are: a GPU would have to be waited for.
    for number, operation in enumerate(OPERATIONS.values()):
        (index,) = (draws["operation"] == number).nonzero(as_tuple=True)
        if len(index):
            on_device = index.to(pixels.device)
            pixels[on_device] = operation(pixels[on_device], draws["strength"][index])
    return pixels


def blended(other: Callable[[Tensor], Tensor]) -> Operation:
    """Images blended with `other` of them: f · x + (1 − f) · other(x), clamped; f [B] is 0 and above."""

    def operation(pixels: Tensor, factor: Tensor) -> Tensor:
        images, factor = pixels.float(), factor.to(pixels.device)[:, None, None, None]
        return (factor * images + (1 - factor) * other(images)).clamp(0, 255).to(torch.uint8)

    return operation


def _gray(images: Tensor) -> Tensor:
    """[B, 1, H, W]"""
    if images.shape[1] == 1:
        return images
    shares = torch.tensor(LUMINANCE, device=images.device)[:, None, None]
    return (images * shares).sum(1, keepdim=True).floor()


def _blurred(images: Tensor) -> Tensor:
    """Smoothed by a kernel of 3×3 with 5 of 13 in the middle; the border stays as it is."""
    channels, (height, width) = images.shape[1], images.shape[2:]
    if height < 3 or width < 3:
        return images
    kernel = torch.ones(3, 3, device=images.device)
    kernel[1, 1] = 5
    inner = F.conv2d(images, (kernel / 13).expand(channels, 1, 3, 3), groups=channels).round()
    out = images.clone()
    out[:, :, 1:-1, 1:-1] = inner
    return out


BLENDS: dict[str, Operation] = {
    "brightness": blended(torch.zeros_like),
    "color": blended(_gray),
    "contrast": blended(lambda images: _gray(images).mean((1, 2, 3), keepdim=True)),
    "sharpness": blended(_blurred),
}
"""By a factor around 1, which leaves an image as it is."""


def moved(matrix: Callable[[Tensor, int, int], Tensor]) -> Operation:
    """Images seen through a linear map: output position p, in pixels from the centre, shows matrix · (p, 1).

    Args:
        matrix: (strength [B], H, W) -> [B, 2, 3], rows and columns being x and y.
    """

    def operation(pixels: Tensor, strength: Tensor) -> Tensor:
        height, width = pixels.shape[2:]
        in_pixels = matrix(strength, height, width)
        # affine_grid measures in halves of the image, so that x and y have other units than a pixel.
        half = torch.tensor([width / 2, height / 2])
        theta = in_pixels / half[:, None] * torch.tensor([width / 2, height / 2, 1.0])
        grid = F.affine_grid(theta.to(pixels.device), list(pixels.shape), align_corners=False)
        return F.grid_sample(pixels.float(), grid, align_corners=False).round().to(torch.uint8)

    return operation


def _matrix(a: Any, b: Any, tx: Any, c: Any, d: Any, ty: Any, like: Tensor) -> Tensor:
    """[[a, b, tx], [c, d, ty]] for each image, numbers spread over all."""
    return torch.stack([torch.as_tensor(each).expand(len(like)) for each in (a, b, tx, c, d, ty)], 1).view(
        -1, 2, 3
    )


def _sheared_x(s: Tensor, height: int, width: int) -> Tensor:
    # Torchvision's shear moves by the tangent of an angle and about the upper border's middle in x.
    return _matrix(1.0, 0.99 * s, 0.99 * s * height / 2, 0.0, 1.0, 0.0, s)


def _sheared_y(s: Tensor, height: int, width: int) -> Tensor:
    return _matrix(1.0, 0.0, 0.0, 0.99 * s, 1.0, 0.99 * s * width / 2, s)


def _rotated(s: Tensor, height: int, width: int) -> Tensor:
    angle = s * math.radians(135)
    return _matrix(angle.cos(), -angle.sin(), 0.0, angle.sin(), angle.cos(), 0.0, s)


def _posterized(pixels: Tensor, strength: Tensor) -> Tensor:
    """The upper 8 to 2 bits of each value."""
    bits = 8 - (strength.abs() * 6).round().to(torch.int64)
    mask = (256 - 2 ** (8 - bits)).to(torch.uint8).to(pixels.device)
    return pixels & mask[:, None, None, None]


def _solarized(pixels: Tensor, strength: Tensor) -> Tensor:
    """Values from a threshold on are inverted."""
    threshold = (255 * (1 - strength.abs())).to(pixels.device)[:, None, None, None]
    return torch.where(pixels >= threshold, 255 - pixels, pixels)


def _from_torchvision(name: str) -> Operation:
    """An operation without strength, which torchvision computes for each image of a batch by itself."""

    def operation(pixels: Tensor, strength: Tensor) -> Tensor:
        from torchvision.transforms.v2 import functional

        changed: Tensor = getattr(functional, name)(pixels)
        return changed

    return operation


def _around_1(operation: Operation) -> Operation:
    return lambda pixels, strength: operation(pixels, 1 + 0.99 * strength)


OPERATIONS: dict[str, Operation] = {
    "identity": lambda pixels, strength: pixels,
    "shear_x": moved(_sheared_x),
    "shear_y": moved(_sheared_y),
    "translate_x": moved(lambda s, height, width: _matrix(1.0, 0.0, 32 * s, 0.0, 1.0, 0.0, s)),
    "translate_y": moved(lambda s, height, width: _matrix(1.0, 0.0, 0.0, 0.0, 1.0, 32 * s, s)),
    "rotate": moved(_rotated),
    **{name: _around_1(operation) for name, operation in BLENDS.items()},
    "posterize": _posterized,
    "solarize": _solarized,
    "autocontrast": _from_torchvision("autocontrast"),
    "equalize": _from_torchvision("equalize"),
}
"""In this order numbers stand for them."""
