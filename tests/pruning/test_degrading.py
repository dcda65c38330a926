"""What a network's code or operations do not allow to be cut stays dense, by layer, and the rest is cut."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from akgp.pruning import prune
from tests.support.hard_networks import Between

IMAGES = torch.zeros(2, 3, 8, 8)


def widths(model: nn.Module) -> dict[str, float]:
    """The share of filters that each layer keeps at a ratio of .5."""
    torch.manual_seed(0)
    pruned = prune(model, IMAGES, ratio=0.5, round_to=1)
    return {layer.name: layer.pruned_width / layer.dense_width for layer in pruned.layers}


class Modulated(Between):
    """FiLM (Perez et al. 2018), whose code reads the width of a layer where it splits another's output."""

    def __init__(self) -> None:
        super().__init__(24, side=nn.Conv2d(16, 24, 3), film=nn.Linear(16, 48))
        self.norm = nn.BatchNorm2d(24, affine=False)

    def hard(self, x: Tensor) -> Tensor:
        scale, shift = self.film(x.mean((2, 3))).split(self.side.out_channels, 1)
        return F.relu(self.norm(self.side(x)) * (1 + scale[..., None, None]) + shift[..., None, None])


def test_layers_whose_width_the_code_reads_stay_dense_alone() -> None:
    assert widths(Modulated()) == {"stem.0": 0.5, "side": 1, "film": 1, "after.0": 0.5, "head": 1}
