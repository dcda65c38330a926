"""Small classifiers with attention: torchvision's, and one that attends to another sequence."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.swin_transformer import (
    PatchMergingV2,
    SwinTransformer,
    SwinTransformerBlockV2,
)
from torchvision.models.vision_transformer import VisionTransformer

SWIN = {"patch_size": [4, 4], "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": [4, 4]}


def vit(num_classes: int) -> nn.Module:
    return VisionTransformer(32, 8, 2, 4, 64, 128, num_classes=num_classes)


def swin(num_classes: int) -> nn.Module:
    return SwinTransformer(**SWIN, num_classes=num_classes)


def swin_v2(num_classes: int) -> nn.Module:
    blocks = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2}
    return SwinTransformer(**SWIN, **blocks, num_classes=num_classes)


class Cross(nn.Module):
    """Learned queries attend to patches."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, 8)
        self.queries = nn.Embedding(4, 32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.hidden, self.head = nn.Linear(32, 64), nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        queries = self.queries.weight.expand(len(x), -1, -1)
        found = self.attention(queries, tokens, tokens)[0].mean(1)
        logits: Tensor = self.head(self.hidden(found).relu())
        return logits
