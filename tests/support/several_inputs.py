"""Networks whose forward pass takes more than one tensor, each with what it is run on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class TwoTensors(nn.Module):
    """An image, and numbers about it."""

    def __init__(self, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(in_channels, 16, 3), nn.BatchNorm2d(16)
        self.numbers, self.mixed = nn.Linear(5, 16), nn.Linear(32, 24)
        self.head = nn.Linear(24, num_classes)

    def forward(self, image: Tensor, numbers: Tensor) -> Tensor:
        seen = self.norm(self.conv(image)).relu().mean((2, 3))
        both = torch.cat([seen, self.numbers(numbers).relu()], 1)
        return self.head(self.mixed(both).relu())


class OneDict(TwoTensors):
    """Both in one argument."""

    def forward(self, batch: Mapping[str, Tensor]) -> Any:  # type: ignore[override]
        return {"logits": super().forward(batch["image"], batch["numbers"])}


class Tokens(TwoTensors):
    """An image and tokens, of which a mask says which count."""

    def __init__(self, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__(num_classes, in_channels)
        self.words = nn.Embedding(7, 5)

    def forward(self, image: Tensor, tokens: Tensor, *, mask: Tensor) -> Tensor:  # type: ignore[override]
        words = (self.words(tokens) * mask[..., None]).sum(1)
        return super().forward(image, words)


IMAGE, NUMBERS = torch.zeros(1, 3, 8, 8), torch.zeros(1, 5)
TOKENS, MASK = torch.tensor([[1, 6, 2, 0]]), torch.tensor([[True, True, True, False]])
EXAMPLES: dict[str, tuple[str, Any]] = {
    "tuple": ("TwoTensors", (IMAGE, NUMBERS)),
    "by name": ("TwoTensors", {"numbers": NUMBERS, "image": IMAGE}),
    "one dict": ("OneDict", {"image": IMAGE, "numbers": NUMBERS}),
    "a dict in a tuple": ("OneDict", ({"image": IMAGE, "numbers": NUMBERS},)),
    "integers": ("Tokens", {"image": IMAGE, "tokens": TOKENS, "mask": MASK}),
}
