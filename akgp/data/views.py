"""K fixed views of every image: augmentations that are drawn once and shown again and again.

What is kept is what was drawn, not the pixels: a view is computed from the image whenever it is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from akgp.data.augmentation import augmented, draw
from akgp.params import Augment

VIEW = "view"
"""The column of a batch that says which view of each image it shows: int64 [B], in [0, K)."""


@dataclass(frozen=True)
class Views:
    """K views of N images. draws: [K, N, ...] by name, on the CPU."""

    augment: Augment
    draws: Mapping[str, Tensor]
    count: int

    @staticmethod
    def of(augment: Augment, count: int, images: int, size: tuple[int, int], seed: int) -> Views:
        """`count` views of so many images of `size` (H, W), drawn from the seed."""
        generator = torch.Generator().manual_seed(seed % 2**63)
        each = [draw(augment, images, size, generator) for _ in range(count)]
        return Views(augment, {name: torch.stack([draws[name] for draws in each]) for name in each[0]}, count)

    def take(self, index: Tensor) -> Views:
        """The views of the images at these positions [M]."""
        draws = {name: drawn[:, index.cpu()] for name, drawn in self.draws.items()}
        return Views(self.augment, draws, self.count)

    def at(self, epoch: int, index: Tensor) -> Tensor:
        """Which view each image [B] shows in an epoch: all K in turn, neighbours a different one."""
        return (epoch + index) % self.count

    def show(self, pixels: Tensor, index: Tensor, view: Tensor) -> Tensor:
        """uint8 [B, C, H, W]: the images at positions `index` [B], as their views `view` [B] show them."""
        draws = {name: drawn[view.cpu(), index.cpu()] for name, drawn in self.draws.items()}
        return augmented(pixels, self.augment, draws)
