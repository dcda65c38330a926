"""Decoded images in memory: one uint8 tensor, with labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Images:
    """pixels: uint8 [N, C, H, W]; labels: int64 [N], class indices."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Images:
        return Images(self.pixels.to(device), self.labels.to(device))

    def take(self, index: Tensor) -> Images:
        """The images at the positions `index` [M]."""
        return Images(self.pixels[index], self.labels[index])
