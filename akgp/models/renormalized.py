"""A network that takes its images in another normalisation than the one that it was trained with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Renormalized(nn.Module):
    """`network` for inputs normalised as `given`: they are brought to its own normalisation first.

    With (pixels − mean) / std, x becomes x · std_given / std_own + (mean_given − mean_own) / std_own.

    Args:
        given, own: (mean, std), of each channel, in units of 255.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        network: nn.Module,
        given: tuple[Sequence[float], Sequence[float]],
        own: tuple[Sequence[float], Sequence[float]],
    ) -> None:
        super().__init__()
        self.network = network
        mean, std, own_mean, own_std = (
            torch.tensor(each, dtype=torch.float64).view(1, -1, 1, 1) for each in (*given, *own)
        )
        self.register_buffer("scale", (std / own_std).float())
        self.register_buffer("shift", ((mean - own_mean) / own_std).float())

    def forward(self, x: Tensor) -> Tensor:
        """Logits of x [N, C, H, W]."""
        logits: Tensor = self.network(x * self.scale + self.shift)
        return logits
