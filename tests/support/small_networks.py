"""What the tests of pruning exactness share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from akgp.pruning import Pruned

IMAGES = torch.zeros(2, 3, 12, 12)


class Small(nn.Module):
    """A residual branch, a concatenation and a flattened head: each a way to cut wrongly."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.inner = nn.Conv2d(16, 32, 3, padding=1, bias=False)
        self.inner_norm = nn.BatchNorm2d(32)
        self.outer = nn.Conv2d(32, 16, 3, padding=1, bias=False)
        self.outer_norm = nn.BatchNorm2d(16)
        self.side = nn.Conv2d(16, 24, 1)
        self.both = nn.Conv2d(40, 16, 1)
        self.head = nn.Linear(16 * 4, 5)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
                nn.init.normal_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = x + self.outer_norm(self.outer(F.relu(self.inner_norm(self.inner(x)))))
        x = F.relu(self.both(torch.cat([self.side(x), x], 1)))
        return self.head(F.adaptive_avg_pool2d(x, 2).flatten(1))


def kept(pruned: Pruned) -> dict[str, tuple[int, ...]]:
    return {layer.name: layer.kept for layer in pruned.layers}
