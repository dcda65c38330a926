"""The parts of small networks for images [N, 3, 16, 16] with one construction each that is hard to prune."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Build = Callable[[], nn.Module]


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Sequential:
    """Convolution, BatchNorm with statistics of its own, ReLU."""
    norm = nn.BatchNorm2d(outputs)
    nn.init.normal_(norm.running_mean, std=0.1)
    nn.init.uniform_(norm.running_var, 0.5, 1.5)
    nn.init.normal_(norm.bias, std=0.1)
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options), norm, nn.ReLU())


class Between(nn.Module):
    """A stem of 16 channels, the construction, a convolution that reads its `width`, and a head."""

    def __init__(self, width: int = 16, **parts: nn.Module) -> None:
        super().__init__()
        self.stem = conv(3, 16)
        for name, part in parts.items():
            setattr(self, name, part)
        self.after = conv(width, 32)
        self.head = nn.Linear(32, 5)

    def hard(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after(self.hard(self.stem(x))).mean((2, 3)))


def between(
    function: Callable[[Any, Tensor], Tensor], width: int = 16, **parts: Callable[[], nn.Module]
) -> Build:
    """The builder of a `Between` whose construction is `function(network, x)`."""

    kind = type("Hard", (Between,), {"hard": lambda self, x: function(self, x)})

    def build() -> nn.Module:
        return kind(width, **{name: part() for name, part in parts.items()})

    return build


def shuffled(x: Tensor, groups: int = 2) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def set_slice(net: Any, x: Tensor) -> Tensor:
    out = torch.zeros(len(x), 24, *x.shape[2:])
    out[:, :16] = x
    out[:, 16:] = net.side(x)
    return out


def in_place_part(net: Any, x: Tensor) -> Tensor:
    y = net.side(x).clone()
    y[:, :8] *= 2
    y[:, 8:].add_(1)
    return y


def csp(net: Any, x: Tensor) -> Tensor:
    one, other = net.first(x).chunk(2, 1)
    return torch.cat([one, net.side(other)], 1)


def res2net(net: Any, x: Tensor) -> Tensor:
    parts = torch.split(net.first(x), 8, 1)
    out, previous = [parts[0]], parts[0]
    for part, layer in zip(parts[1:], net.scales, strict=True):
        previous = layer(part + previous)
        out.append(previous)
    return torch.cat(out, 1)


def cbam(net: Any, x: Tensor) -> Tensor:
    pooled = (x.mean((2, 3)), x.amax((2, 3)))
    x = x * torch.sigmoid(sum(net.mlp(each) for each in pooled))[:, :, None, None]
    return x * torch.sigmoid(net.spatial(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)))


def eca(net: Any, x: Tensor) -> Tensor:
    gate = net.across(x.mean((2, 3))[:, None])
    return x * torch.sigmoid(gate)[:, 0, :, None, None]


def squeeze(net: Any, x: Tensor) -> Tensor:
    return x * torch.sigmoid(net.up(F.relu(net.down(x.mean((2, 3))))))[:, :, None, None]


def heads(net: Any, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    q, k, v = net.qkv(x.flatten(2).transpose(1, 2)).view(n, h * w, 3, 4, c // 4).permute(2, 0, 3, 1, 4)
    scores = (q @ k.transpose(-2, -1) * (c // 4) ** -0.5).softmax(-1)
    return x + net.out((scores @ v).transpose(1, 2).reshape(n, h * w, c)).transpose(1, 2).reshape(n, c, h, w)


def fused_attention(net: Any, x: Tensor) -> Tensor:
    n, _, h, w = x.shape
    tokens = x.flatten(2).transpose(1, 2)
    q, k, v = (layer(tokens).view(n, h * w, 4, -1).transpose(1, 2) for layer in (net.q, net.k, net.v))
    out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return x + net.out(out).transpose(1, 2).reshape(n, -1, h, w)


def selective(net: Any, x: Tensor) -> Tensor:
    """Selective kernels: branches are weighed by a softmax over them."""
    branches = torch.stack([net.one(x), net.two(x)], 1)
    gate = net.gate(branches.sum(1).mean((2, 3))).view(len(x), 2, 16, 1, 1).softmax(1)
    return (branches * gate).sum(1)


def split_attention(net: Any, x: Tensor) -> Tensor:
    """ResNeSt's: two groups of filters, weighed channel by channel by a softmax over both."""
    halves = net.side(x).chunk(2, 1)
    gates = net.gate(sum(halves).mean((2, 3))).view(len(x), 2, -1).softmax(1)
    return sum(gates[:, i, :, None, None] * half for i, half in enumerate(halves))


def learned_tokens(net: Any, x: Tensor) -> Tensor:
    """Four weighted means over the positions, projected one by one."""
    weights = net.weights(x).flatten(2).softmax(-1)
    tokens = torch.einsum("bkn,bcn->bkc", weights, x.flatten(2))
    return F.relu(net.project(tokens)).mean(1)[:, :, None, None]


def unfollowed_gate(net: Any, x: Tensor) -> Tensor:
    """As many gates are taken as there are channels; where they come from cannot be followed."""
    gates = torch.fft.irfft(torch.fft.rfft(net.gate(x), dim=1), n=16, dim=1)
    y = net.side(x)
    return y * gates[:, : y.shape[1]]


def mixer(net: Any, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    tokens = x.flatten(2)
    return (tokens + net.tokens(tokens)).reshape(n, c, h, w)


class StandardisedConv(nn.Conv2d):
    """Weight standardisation (Qiao et al. 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class ScaledLinear(nn.Linear):
    """Cosine similarities with normalised rows."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, F.normalize(self.weight, dim=1), self.bias)


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6) * self.weight[:, None, None]


class Block(nn.Module):
    """A transformer block before whose branches tokens are normalised, with layer scale."""

    def __init__(self, width: int, attention: bool = True) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.scale = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.scale * self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Patches, a class token, positions, blocks, a head on the class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 32))
        self.positions = nn.Parameter(torch.randn(1, 17, 32) * 0.1)
        self.blocks = nn.Sequential(Block(32), Block(32))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


class Windows(nn.Module):
    """Attention in shifted windows with a table of relative positions, as in Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 2, 2)
        self.norm, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.table = nn.Parameter(torch.randn(49, 2) * 0.1)
        at = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")).flatten(1)
        near = at[:, :, None] - at[:, None] + 3
        self.register_buffer("index", near[0] * 7 + near[1])
        self.merge, self.head = nn.Linear(64, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).permute(0, 2, 3, 1)
        n, h, w, c = x.shape
        y = torch.roll(self.norm(x), (-2, -2), (1, 2))
        y = y.view(n, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        q, k, v = self.qkv(y).reshape(-1, 16, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) * (c // 2) ** -0.5 + self.table[self.index].permute(2, 0, 1)
        y = self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(-1, 16, c))
        y = y.view(n, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        x = x + torch.roll(y, (2, 2), (1, 2))
        x = torch.cat([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], -1)
        return self.head(self.merge(x).mean((1, 2)))


class TiedAutoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.code, self.head = conv(3, 16), nn.Linear(16, 24), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).mean((2, 3))
        return self.head(F.linear(F.relu(self.code(x)), self.code.weight.T))


class Outputs(Between):
    """Several outputs, in a dictionary."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.kind, self.features = kind, conv(16, 16)

    def forward(self, x: Tensor) -> Any:
        x = self.features(self.stem(x))
        x = self.after(x)
        logits = self.head(x.mean((2, 3)))
        return {"logits": logits, "features": x} if self.kind is dict else (logits, x.mean((2, 3)))


class TwoBranches(Between):
    """A stem for each half of the input's channels, given as one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = conv(1, 16), conv(2, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after(self.left(x[:, :1]) + self.right(x[:, 1:])).mean((2, 3)))


class Auxiliary(Between):
    """A head that runs in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.auxiliary = conv(16, 24), nn.Linear(24, 5)
        self.outer = conv(24, 16)

    def forward(self, x: Tensor) -> Any:
        x = self.inner(self.stem(x))
        extra = self.auxiliary(x.mean((2, 3)))
        x = self.head(self.after(self.outer(x)).mean((2, 3)))
        return (x, extra) if self.training else x


class Dense(nn.Module):
    """DenseNet's concatenations."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16)
        self.layers = nn.ModuleList(conv(16 + 8 * i, 8) for i in range(4))
        self.head = nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return self.head(torch.cat(features, 1).mean((2, 3)))


class Recurrent(nn.Module):
    """An LSTM over the columns of a feature map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.lstm, self.head = conv(3, 16), nn.LSTM(16, 24, batch_first=True), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.stem(x).mean(2).transpose(1, 2))[0][:, -1])


class Sequence1d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(3, 16, 3),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Conv1d(16, 32, 3),
            nn.ReLU(),
        )
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x.flatten(2)).mean(2))


class Volume(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(1, 16, 3, padding=1), nn.BatchNorm3d(16), nn.ReLU(), nn.Conv3d(16, 32, 3, padding=1)
        )
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x[:, None]).mean((2, 3, 4)))


class Embedded(nn.Module):
    """Pixels as tokens of an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.up, self.head = nn.Embedding(8, 16), nn.Linear(16, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = (x[:, 0].flatten(1).clamp(-2, 1.99) + 2).mul(2).long()
        return self.head(F.relu(self.up(self.table(tokens))).mean(1))


class BareWeights(nn.Module):
    """Weights without modules."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16)
        self.kernel = nn.Parameter(torch.randn(32, 16, 3, 3) * 0.1)
        self.bias = nn.Parameter(torch.randn(32) * 0.1)
        self.matrix = nn.Parameter(torch.randn(32, 24) * 0.2)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(self.stem(x), self.kernel, self.bias)).mean((2, 3))
        return self.head(F.relu(x @ self.matrix))


def by_number(networks: dict[str, Callable[[], nn.Module]]) -> Callable[[str], Callable[..., nn.Module]]:
    """A module's `__getattr__`: by `network_3` akgp.models can name the fourth."""

    def builder(name: str) -> Callable[..., nn.Module]:
        number = name.removeprefix("network_")
        if not number.isdecimal():
            raise AttributeError(name)
        build = list(networks.values())[int(number)]
        return lambda num_classes: build()

    return builder
