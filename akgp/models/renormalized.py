"""Adapts a network to images in another normalisation than that of its training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Renormalized(nn.Module):
    """`network` for inputs in the normalisation `given`, converted to the one it was `trained` with.

    As x = (pixels − mean) / std, x becomes x · std_given / std_trained + (mean_given − mean_trained) /
    std_trained: one product and one sum for each pixel.

    Args:
        given, trained: (mean, std) of each channel, in units of 255.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        network: nn.Module,
        given: tuple[Sequence[float], Sequence[float]],
        trained: tuple[Sequence[float], Sequence[float]],
    ) -> None:
        super().__init__()
        self.network = network
        mean, std, trained_mean, trained_std = (  # [1, C, 1, 1] each
            torch.tensor(each, dtype=torch.float64).view(1, -1, 1, 1) for each in (*given, *trained)
        )
        self.register_buffer("scale", (std / trained_std).float())
        self.register_buffer("shift", ((mean - trained_mean) / trained_std).float())

    def forward(self, x: Tensor) -> Tensor:
        """Logits of x [N, C, H, W]."""
        logits: Tensor = self.network(x * self.scale + self.shift)
        return logits
