"""The narrowable variants of torchvision's shifted-window attention (Swin and Swin V2).

Apart from `attention`, since torchvision is imported for it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2


class NarrowableWindows(ShiftedWindowAttention):
    """`ShiftedWindowAttention` whose heads have the width that its weights have."""

    narrowable_of: type[nn.Module] = ShiftedWindowAttention
    scale: float

    def forward(self, x: Tensor) -> Tensor:
        """Of x [B, H, W, C], the same shape."""
        batch, height, width, _ = x.shape
        rows, columns = self.window_size
        x = F.pad(x, (0, 0, 0, -width % columns, 0, -height % rows))
        size = (x.shape[1], x.shape[2])
        # A window that covers the whole map needs no shift.
        shift = [
            0 if window >= whole else by
            for window, whole, by in zip(self.window_size, size, self.shift_size, strict=True)
        ]
        if any(shift):
            x = x.roll((-shift[0], -shift[1]), (1, 2))
        x = _windows(x, rows, columns)  # [B · windows, T, C]
        x = self._attend(x, self._mask(size, shift, x) if any(shift) else None)
        x = F.dropout(self.proj(x), self.dropout, self.training)
        x = x.reshape(batch, size[0] // rows, size[1] // columns, rows, columns, -1)
        x = x.transpose(2, 3).reshape(batch, *size, -1)
        if any(shift):
            x = x.roll((shift[0], shift[1]), (1, 2))
        return x[:, :height, :width].contiguous()

    def _attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The heads' outputs side by side, of windows x [B · W, T, C] with a mask [W, T, T]."""
        count, tokens, _ = x.shape
        heads = self.num_heads
        q, k, v = self.qkv(x).reshape(count, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind()
        scores = self._scores(q, k) + self.get_relative_position_bias()
        if mask is not None:
            scores = scores.view(-1, len(mask), heads, tokens, tokens) + mask[:, None]
            scores = scores.view(count, heads, tokens, tokens)
        weights = F.dropout(scores.softmax(-1), self.attention_dropout, self.training)
        return (weights @ v).transpose(1, 2).flatten(2)

    def _scores(self, q: Tensor, k: Tensor) -> Tensor:
        return (q * self.scale) @ k.transpose(-2, -1)

    def _mask(self, size: tuple[int, int], shift: list[int], like: Tensor) -> Tensor:
        """-100 between tokens that the shift has brought together from opposite borders [W, T, T]."""
        regions = []
        for whole, window, by in zip(size, self.window_size, shift, strict=True):
            place = torch.arange(whole, device=like.device)
            regions.append((place >= whole - window).long() + (place >= whole - by) if by else 0 * place)
        region = 3 * regions[0][:, None] + regions[1]
        region = _windows(region[None, :, :, None], *self.window_size)  # [W, T, 1]
        apart = region != region.transpose(1, 2)
        return torch.zeros(apart.shape, dtype=like.dtype, device=like.device).masked_fill(apart, -100.0)


class NarrowableWindowsV2(NarrowableWindows, ShiftedWindowAttentionV2):
    """`ShiftedWindowAttentionV2`, whose scores are cosines, likewise."""

    narrowable_of = ShiftedWindowAttentionV2

    def _scores(self, q: Tensor, k: Tensor) -> Tensor:
        if self.qkv.bias is not None:  # keys have no bias here, whatever the layer adds
            k = k - self.qkv.bias.reshape(3, self.num_heads, 1, -1)[1]
        cosines = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        return cosines * self.logit_scale.clamp(max=math.log(100.0)).exp()


def _windows(x: Tensor, rows: int, columns: int) -> Tensor:
    """x [B, H, W, C] as [B · windows, rows · columns, C]."""
    batch, height, width, _ = x.shape
    x = x.view(batch, height // rows, rows, width // columns, columns, -1)
    return x.transpose(2, 3).reshape(-1, rows * columns, x.shape[-1])


NARROWABLE: dict[type, type[nn.Module]] = {
    kind.narrowable_of: kind for kind in (NarrowableWindows, NarrowableWindowsV2)
}
