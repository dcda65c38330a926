"""Small networks for images [N, 3, 16, 16], each with one construction of published models, by name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import DeformConv2d

from tests.support.further_constructions import tokens
from tests.support.hard_networks import Between, Build, between, by_number, conv


def shake_shake(net: Any, x: Tensor) -> Tensor:
    """A number in eval mode, a tensor in training."""
    share: Any = torch.rand(len(x), 1, 1, 1) if net.training else 0.5
    return F.relu(x + share * net.one(x) + (1 - share) * net.two(x))


def rotated_kernels(net: Any, x: Tensor) -> Tensor:
    kernels = (torch.rot90(net.side.weight, quarters, (2, 3)) for quarters in range(4))
    return F.relu(sum(F.conv2d(x, each, padding=1) for each in kernels))  # type: ignore[arg-type]


def unfolded_convolution(net: Any, x: Tensor) -> Tensor:
    columns = F.unfold(x, 3, padding=1)
    y = (net.side.weight.flatten(1) @ columns).view(len(x), -1, 16, 16)
    return y + net.side.bias.view(1, -1, 1, 1)


class ChannelsLastNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def simple_gates(net: Any, x: Tensor) -> Tensor:
    """NAFNet's block: memory in channels-last order is pooled to one position."""
    a, b = net.deep(net.up(net.norm(x))).chunk(2, dim=1)
    y = a * b
    return x + net.down(y * net.gate(F.adaptive_avg_pool2d(y, 1)))


class Mixer(nn.Module):
    """MLP-Mixer: one MLP over the tokens, one over the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 32, 4, 4), nn.Linear(32, 5)
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(2))
        self.tokens, self.channels = (
            nn.Sequential(nn.Linear(width, 40), nn.GELU(), nn.Linear(40, width)) for width in (16, 32)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = tokens(self.stem(x))
        x = x + self.tokens(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.norms[1](x))
        return self.head(x.mean(1))


class CosineSimilarity(Between):
    def __init__(self) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(5, 32))

    def forward(self, x: Tensor) -> Tensor:
        x = self.after(self.stem(x)).mean((2, 3))
        return 10 * F.cosine_similarity(x[:, None], self.prototypes[None], dim=-1)


class Deformable(Between):
    def __init__(self) -> None:
        super().__init__(24)
        self.offset, self.side = nn.Conv2d(16, 18, 3, padding=1), DeformConv2d(16, 24, 3, padding=1)

    def hard(self, x: Tensor) -> Tensor:
        return F.relu(self.side(x, 0.1 * self.offset(x)))


def clustered(net: Any, x: Tensor) -> Tensor:
    t = net.project(tokens(x))
    which = (torch.arange(256) % 7).expand(len(x), -1)[..., None].expand_as(t)
    sums = torch.zeros(len(x), 7, t.shape[-1]).scatter_add_(1, which, t)
    sums = torch.zeros_like(sums).index_add_(1, torch.arange(6, -1, -1), sums)
    return sums.mean(1)[:, :, None, None].expand(-1, -1, 4, 4)


class FourierOperator(Between):
    """A Fourier neural operator's layer, its weight of complex numbers, beside a pointwise one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 16, 4, 4, dtype=torch.cfloat) * 0.1)
        self.skip = nn.Conv2d(16, 16, 1)

    def hard(self, x: Tensor) -> Tensor:
        low = torch.fft.rfft2(x)[:, :, :4, :4]
        low = F.pad(torch.einsum("bixy,ioxy->boxy", low, self.weight), (0, 5, 0, 12))
        return F.gelu(torch.fft.irfft2(low, s=x.shape[-2:]) + self.skip(x))


class GeneratedKernels(Between):
    """A hypernetwork: the kernels are computed from codes."""

    def __init__(self) -> None:
        super().__init__(24)
        self.codes = nn.Parameter(torch.randn(24, 8))
        self.generator = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 144))

    def hard(self, x: Tensor) -> Tensor:
        return F.relu(F.conv2d(x, 0.1 * self.generator(self.codes).view(24, 16, 3, 3), padding=1))


NETWORKS: dict[str, Build] = {
    "shake-shake": between(shake_shake, one=lambda: conv(16, 16), two=lambda: conv(16, 16)),
    "rotated kernels": between(rotated_kernels, 24, side=lambda: nn.Conv2d(16, 24, 3, bias=False)),
    "unfolded convolution": between(unfolded_convolution, 24, side=lambda: nn.Conv2d(16, 24, 3)),
    "simple gates": between(
        simple_gates, norm=lambda: ChannelsLastNorm(16), up=lambda: nn.Conv2d(16, 32, 1),
        deep=lambda: nn.Conv2d(32, 32, 3, padding=1, groups=32), gate=lambda: nn.Conv2d(16, 16, 1),
        down=lambda: nn.Conv2d(16, 16, 1),
    ),
    "MLP-Mixer": Mixer,
    "cosine similarity": CosineSimilarity,
    "deformable convolution": Deformable,
    "scatter_add": between(clustered, 24, project=lambda: nn.Linear(16, 24)),
    "Fourier operator": FourierOperator,
    "generated kernels": GeneratedKernels,
}  # fmt: skip

__getattr__ = by_number(NETWORKS)
