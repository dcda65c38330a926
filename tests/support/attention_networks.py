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
    """Learned queries attend to patches of another width, then a decoder's block to both."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 8, 8)
        self.queries = nn.Embedding(4, 32)
        self.attention = nn.MultiheadAttention(32, 4, kdim=24, vdim=24, batch_first=True)
        self.wide = nn.Linear(24, 32)
        self.decoder = nn.TransformerDecoderLayer(32, 4, 64, batch_first=True, dropout=0.0)
        self.head = nn.Linear(32, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        queries = self.queries.weight.expand(len(x), -1, -1)
        answers = self.attention(queries, tokens, tokens)[0]
        logits: Tensor = self.head(self.decoder(answers, self.wide(tokens)).mean(1))
        return logits


class Padded(nn.Module):
    """Torch's encoder, of whose sequences the last tokens may be padding: those that are zero."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(32, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        padding = (x == 0).all(-1)
        x = self.encoder(x, src_key_padding_mask=padding).masked_fill(padding[..., None], 0)
        logits: Tensor = self.head(x.mean(1))
        return logits
