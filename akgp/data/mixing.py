"""Mixtures of two images of a batch: mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019).

Image i is mixed with image i − 1 of its batch, whose order is random. Each has a share of its own, drawn on
the CPU like all of `augmentation`. What an objective does with two labels is its own matter.

Letters of shapes: B images of a batch, C channels, H, W pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from akgp.data.augmentation import rectangles
from akgp.params import Augment


class Mixed(NamedTuple):
    """The second label of each image of a batch, int64 [B], and the share of its first, [B] in [0, 1].

    A share of 1: the image is not mixed.
    """

    labels: Tensor
    share: Tensor


def mixed_pixels(pixels: Tensor, params: Augment, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images uint8 [B, C, H, W] mixed with their predecessors, and the share of each that is its own, [B].

    `params.mix_share` of the images are mixed: by mixup, λ·x_i + (1 − λ)·x_(i−1) with λ ~ Beta(α, α), or by
    CutMix, where a rectangle of 1 − λ of the area comes from x_(i−1), cut off at the border; the share is
    what remains. Where both α are given, each image gets either with probability one half.
    """
    count, _, height, width = pixels.shape
    chosen = torch.rand(count, generator=generator) < params.mix_share
    by_cutmix = torch.rand(count, generator=generator) < (0.5 if params.mixup else 1.0)
    by_cutmix &= params.cutmix > 0
    # numpy draws from a beta distribution with a generator of its own, torch only from the global one.
    numpy = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
    alpha = np.where(by_cutmix.numpy(), params.cutmix, params.mixup)
    share = torch.from_numpy(numpy.beta(alpha, alpha)).float()
    side = (1 - share).sqrt()
    centre = torch.rand((2, count), generator=generator)
    edges = [
        ((centre + sign * side / 2) * torch.tensor([[height], [width]])).round().long() for sign in (-1, 1)
    ]
    boxes = torch.cat(edges).T
    pasted = rectangles(boxes, height, width) & (chosen & by_cutmix)[:, None, None, None]
    averaged = chosen & ~by_cutmix
    mixed = torch.where(pasted.to(pixels.device), pixels.roll(1, 0), pixels)
    (index,) = averaged.nonzero(as_tuple=True)
    if len(index):
        own = share[index, None, None, None].to(pixels.device)
        images, before = (pixels[each.to(pixels.device)].float() for each in (index, index - 1))
        mixed[index.to(pixels.device)] = before.lerp_(images, own).round_().to(torch.uint8)
    remaining = 1 - pasted.float().mean((1, 2, 3))
    return mixed, torch.where(averaged, share, remaining)
