"""Small networks for images [N, 3, 16, 16] with one construction each that public models have, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torchvision.ops import StochasticDepth

from tests.support.hard_networks import Between, Build, between, by_number, conv


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def image(x: Tensor) -> Tensor:
    return x.transpose(1, 2).reshape(len(x), -1, 16, 16)


class Attention(nn.Module):
    """As timm's and most people write it; `kind` says how the heads' width is known and what attends."""

    def __init__(self, width: int = 16, heads: int = 4, kind: str = "fused") -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.kind = heads, width // heads, kind
        self.scale = self.head_dim**-0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        width = c // self.num_heads if self.kind == "derived" else self.head_dim
        q, k, v = self.qkv(x).reshape(n, t, 3, self.num_heads, width).permute(2, 0, 3, 1, 4).unbind(0)
        if self.kind == "by hand":
            out = (q * self.scale @ k.transpose(-2, -1)).softmax(-1) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(n, t, c))


class Separate(nn.Module):
    """Queries, keys and values by layers of their own, heads by the last size or by their number."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))
        self.out = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).view(len(x), -1, 4, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        weights = torch.einsum("bhid,bhjd->bhij", q, k).div(2).softmax(-1)
        return self.out(torch.einsum("bhij,bhjd->bhid", weights, v).transpose(1, 2).flatten(2))


class Rotary(Separate):
    """Rotary position embedding: pairs of a query's positions are rotated."""

    def __init__(self) -> None:
        super().__init__()
        angle = torch.arange(256)[:, None] * torch.tensor([1.0, 0.1])
        self.register_buffer("cos", angle.cos().repeat(1, 2), persistent=False)
        self.register_buffer("sin", angle.sin().repeat(1, 2), persistent=False)

    def rotated(self, x: Tensor) -> Tensor:
        one, other = x.chunk(2, -1)
        return x * self.cos + torch.cat([-other, one], -1) * self.sin

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).view(len(x), -1, 4, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(self.rotated(q), self.rotated(k), v)
        return self.out(out.transpose(1, 2).flatten(2))


class Linear(Separate):
    """Linear attention: keys with values first."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (4, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        q, k = F.elu(q) + 1, F.elu(k) + 1
        context = k.transpose(-2, -1) @ v
        norm = q @ k.sum(2)[..., None]
        return self.out((q @ context / norm).transpose(1, 2).flatten(2))


class CrossCovariance(Separate):
    """XCiT's attention among channels."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (4, 4)).permute(0, 2, 3, 1) for layer in (self.q, self.k, self.v))
        weights = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)).softmax(-1)
        return self.out((weights @ v).permute(0, 3, 1, 2).flatten(2))


def attends(module: Callable[[], nn.Module]) -> Build:
    return between(lambda net, x: x + image(net.mix(tokens(x))), mix=module)


class Blur(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        line = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("kernel", (line[:, None] * line / 16)[None, None])

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel.expand(x.shape[1], 1, 3, 3)
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), kernel, stride=2, groups=x.shape[1])


def coordinates(net: Any, x: Tensor) -> Tensor:
    line = torch.linspace(-1, 1, 16)
    grid = torch.stack(torch.meshgrid(line, line, indexing="ij")).expand(len(x), -1, -1, -1)
    return net.side(torch.cat([x, grid], 1))


def depth_to_space(net: Any, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    x = net.side(x).view(n, 2, 2, c // 2, h, w).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(n, c // 2, 2 * h, 2 * w)


def ghost(net: Any, x: Tensor) -> Tensor:
    first = net.primary(x)
    return torch.cat([first, net.cheap(first)], 1)[:, :20]


def ghost_in_place(net: Any, x: Tensor) -> Tensor:
    first = net.primary(x)
    y = torch.cat([first, net.cheap(first)], 1)[:, :24]  # all of them
    y += net.side(x)
    return net.mix(y)


def in_place(net: Any, x: Tensor) -> Tensor:
    y = net.project(tokens(x))
    y[:, : y.shape[1]].add_(net.positions.weight)
    return image(y)


def four_parts(net: Any, x: Tensor) -> Tensor:
    return torch.cat([part(y) for part, y in zip(net.parts, x.split(4, dim=1), strict=True)], 1)


def involution(net: Any, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    kernel = net.span(net.reduce(x)).view(n, 2, 9, h, w)[:, :, None]
    patches = F.unfold(x, 3, padding=1).view(n, 2, c // 2, 9, h, w)
    return (kernel * patches).sum(3).view(n, c, h, w)


def fourier(net: Any, x: Tensor) -> Tensor:
    return torch.fft.fft2(x, dim=(1, 2)).real


def global_filter(net: Any, x: Tensor) -> Tensor:
    spectrum = torch.fft.rfft2(x, norm="ortho") * torch.view_as_complex(net.weight.view(1, 1, 16, 9, 2))[0]
    return torch.fft.irfft2(spectrum, s=x.shape[-2:], norm="ortho")


class GlobalFilter(Between):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 9, 2) * 0.1)
        self.pointwise = conv(16, 16, 1)

    def hard(self, x: Tensor) -> Tensor:
        return self.pointwise(global_filter(self, x))


def gated_mlp(net: Any, x: Tensor) -> Tensor:
    u, v = F.gelu(net.up(tokens(x))).chunk(2, -1)
    v = net.across(net.norm(v).transpose(1, 2)).transpose(1, 2)
    return x + image(net.down(u * v))


def pooling(net: Any, x: Tensor) -> Tensor:
    return x + net.scale.weight.view(1, -1, 1, 1) * (F.avg_pool2d(y := net.norm(x), 3, 1, 1) - y)


def merged(net: Any, x: Tensor) -> Tensor:
    """Token merging: half of the even tokens go into the odd ones that they resemble most."""
    x = net.project(tokens(x))
    metric = F.normalize(x, dim=-1)
    even, odd = x[:, ::2], x[:, 1::2]
    best, target = (metric[:, ::2] @ metric[:, 1::2].transpose(1, 2)).max(-1)
    order = best.argsort(-1, descending=True)[..., None]
    gone, left = order[:, :64], order[:, 64:]
    width = x.shape[-1]
    target = target[..., None].gather(1, gone).expand(-1, -1, width)
    odd = odd.scatter_reduce(1, target, even.gather(1, gone.expand(-1, -1, width)), "mean")
    x = torch.cat([even.gather(1, left.expand(-1, -1, width)), odd], 1)
    return x.mean(1)[:, :, None, None].expand(-1, -1, 4, 4)


def focal(net: Any, x: Tensor) -> Tensor:
    q, context, gates = torch.split(net.f(x), (16, 16, 3), 1)
    total: Any = 0
    for level, layer in enumerate(net.layers):
        context = layer(context)
        total = total + context * gates[:, level : level + 1]
    total = total + F.gelu(context.mean((2, 3), keepdim=True)) * gates[:, 2:]
    return net.proj(q * net.h(total))


def folded(net: Any, x: Tensor) -> Tensor:
    patches = net.mix(F.unfold(x, 2, stride=2).transpose(1, 2))
    return F.fold(patches.transpose(1, 2), (16, 16), 2, stride=2)


def by_shape(net: Any, x: Tensor) -> Tensor:
    while x.shape[-1] > 4:
        x = F.max_pool2d(x, 2)
    return net.one(x) if x.shape[1] % 2 == 0 else net.two(x)


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).T


class Scaled(nn.Module):
    """Weights by a scale of each filter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(24, 1, 1, 1))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.scale


def parametrized(layer: Any, with_: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", with_)
    return layer


class Experts(nn.Module):
    """Dynamic convolution: the kernel is a mixture of four, another one for each image."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.gate = nn.Parameter(torch.randn(4, 24, 16, 3, 3) * 0.1), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        shares = self.gate(x.mean((2, 3))).softmax(1)
        kernel = (shares @ self.weight.flatten(1)).view(n * 24, c, 3, 3)
        return F.conv2d(x.reshape(1, n * c, h, w), kernel, padding=1, groups=n).view(n, 24, h, w)


def mixture(net: Any, x: Tensor) -> Tensor:
    shares = net.gate(x.mean((2, 3))).softmax(1)
    return torch.einsum("ne,nechw->nchw", shares, torch.stack([each(x) for each in net.experts], 1))


def sampled(net: Any, x: Tensor) -> Tensor:
    base = F.affine_grid(torch.eye(2, 3).expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return net.side(F.grid_sample(x, base + 0.1 * net.offset(x).permute(0, 2, 3, 1), align_corners=False))


def response(net: Any, x: Tensor) -> Tensor:
    """ConvNeXt V2's global response normalisation."""
    norm = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)
    norm = norm / (norm.mean(1, keepdim=True) + 1e-6)
    return net.gamma.weight.view(1, -1, 1, 1) * (x * norm) + x


def pyramid(net: Any, x: Tensor) -> Tensor:
    low = net.low(F.max_pool2d(x, 2))
    top = net.lateral(x) + F.interpolate(low, size=x.shape[-2:])
    return net.smooth(top) + net.smooth(F.interpolate(low, scale_factor=2.0))


def unpooled(net: Any, x: Tensor) -> Tensor:
    small, places = F.max_pool2d(net.side(x), 2, return_indices=True)
    return F.max_unpool2d(net.inner(small), places, 2)


def reparametrised(net: Any, x: Tensor) -> Tensor:
    """RepVGG's three branches."""
    return F.relu(net.large(x) + net.small(x) + net.identity(x))


def indexed(net: Any, x: Tensor) -> Tensor:
    y = x.clone()
    y[:, [1, 3, 5]] += net.side(x)
    return y.index_add(1, torch.tensor([0, 2, 4]), net.side(x))


def grouped_loop(net: Any, x: Tensor) -> Tensor:
    size = x.shape[1] // len(net.parts)
    return torch.cat([part(x[:, i * size : (i + 1) * size]) for i, part in enumerate(net.parts)], 1)


class Cosine(Between):
    """A classifier by cosines."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.after(self.stem(x)).mean((2, 3))
        return 10 * F.linear(F.normalize(x), F.normalize(self.head.weight))


class SharedHead(Between):
    """One head on two feature maps, in a dictionary with a list."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = conv(16, 32)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        maps = [self.lift(x), self.after(x)]
        return {"all": [self.head(each.mean((2, 3))) for each in maps]}


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = nn.LazyConv2d(16, 3), nn.LazyConv2d(24, 3)
        self.norm, self.head = nn.LazyBatchNorm2d(), nn.LazyLinear(5)
        self(torch.zeros(2, 3, 16, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(self.inner(F.relu(self.stem(x))))).flatten(1))


class Rows(nn.Module):
    """A two-way GRU over the rows of a feature map, then a linear layer over all of its states."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gru = conv(3, 16), nn.GRU(16, 12, bidirectional=True, batch_first=True)
        self.hidden, self.head = nn.Linear(24, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        n, c, h, w = x.shape
        states = self.gru(x.permute(0, 2, 3, 1).reshape(n * h, w, c))[0]
        return self.head(F.relu(self.hidden(states.mean(1).view(n, h, -1).amax(1))))


class ClassToken(nn.Module):
    """A class token, positions by an embedding, PyTorch's encoder with sequences first."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, 16)), nn.Embedding(17, 16)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 2, 32), 2, enable_nested_tensor=False
        )
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = tokens(self.patches(x))
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions(torch.arange(17))
        return self.head(self.encoder(x.transpose(0, 1))[0])


ATTENTION = (
    "timm's attention, fused", "timm's attention, by hand", "timm's attention, width of the input",
    "attention by einsum", "rotary attention",
)  # fmt: skip
"""Those whose heads lose width though their code fixes it."""
NETWORKS: dict[str, Build] = {
    "timm's attention, fused": attends(Attention),
    "timm's attention, by hand": attends(lambda: Attention(kind="by hand")),
    "timm's attention, width of the input": attends(lambda: Attention(kind="derived")),
    "attention by einsum": attends(Separate),
    "rotary attention": attends(Rotary),
    "linear attention": attends(Linear),
    "cross-covariance attention": attends(CrossCovariance),
    "coordinates": between(coordinates, 24, side=lambda: conv(18, 24)),
    "blur by a buffer": between(lambda net, x: net.blur(x), blur=Blur),
    "depth to space": between(depth_to_space, 8, side=lambda: conv(16, 32)),
    "ghost": between(ghost, 20, primary=lambda: conv(16, 12), cheap=lambda: conv(12, 12, groups=12)),
    "ghost that adds in place": between(
        ghost_in_place, 24, primary=lambda: conv(16, 12), cheap=lambda: conv(12, 12, groups=12),
        side=lambda: conv(16, 24), mix=lambda: conv(24, 24),
    ),
    "scaled mixing of positions": between(
        lambda net, x: x + net.scale.weight.view(-1, 1, 1) * net.across(x.flatten(2)).view(x.shape),
        across=lambda: nn.Linear(256, 256), scale=lambda: nn.PReLU(16),
    ),
    "positions added in place": between(
        in_place, 24, project=lambda: nn.Linear(16, 24), positions=lambda: nn.Embedding(256, 24)
    ),
    "parts of fixed sizes": between(
        lambda net, x: torch.cat([net.one((y := torch.split(x, [12, 4], 1))[0]), net.two(y[1])], 1), 16,
        one=lambda: conv(12, 8), two=lambda: conv(4, 8),
    ),
    "parts of one fixed size": between(
        four_parts, parts=lambda: nn.ModuleList(conv(4, 4) for _ in range(4))
    ),
    "involution": between(involution, reduce=lambda: conv(16, 8, 1), span=lambda: nn.Conv2d(8, 18, 1)),
    "Fourier mixing": between(fourier),
    "global filter": GlobalFilter,
    "gated MLP": between(
        gated_mlp, up=lambda: nn.Linear(16, 48), norm=lambda: nn.LayerNorm(24),
        across=lambda: nn.Linear(256, 256), down=lambda: nn.Linear(24, 16),
    ),
    "ConvMixer": between(
        lambda net, x: net.point(x + net.deep(x)), 24,
        deep=lambda: conv(16, 16, groups=16), point=lambda: conv(16, 24, 1),
    ),
    "pooling as mixing": between(pooling, norm=lambda: nn.GroupNorm(1, 16), scale=lambda: nn.PReLU(16)),
    "token merging": between(merged, 24, project=lambda: nn.Linear(16, 24)),
    "focal modulation": between(
        focal, f=lambda: nn.Conv2d(16, 35, 1), h=lambda: nn.Conv2d(16, 16, 1),
        proj=lambda: nn.Conv2d(16, 16, 1),
        layers=lambda: nn.ModuleList(conv(16, 16, groups=16) for _ in range(2)),
    ),
    "unfold and fold": between(folded, mix=lambda: nn.Linear(64, 64)),
    "branch by shape": between(by_shape, 24, one=lambda: conv(16, 24), two=lambda: conv(16, 24)),
    "symmetric weight": between(
        lambda net, x: image(net.mix(tokens(x))), mix=lambda: parametrized(nn.Linear(16, 16), Symmetric())
    ),
    "scaled weight": between(
        lambda net, x: net.side(x), 24, side=lambda: parametrized(nn.Conv2d(16, 24, 3, padding=1), Scaled())
    ),
    "dynamic convolution": between(lambda net, x: net.side(x), 24, side=Experts),
    "mixture of experts": between(
        mixture, 24, gate=lambda: nn.Linear(16, 3),
        experts=lambda: nn.ModuleList(conv(16, 24) for _ in range(3)),
    ),
    "sampled by a grid": between(
        sampled, 24, offset=lambda: nn.Conv2d(16, 2, 3, padding=1), side=lambda: conv(16, 24)
    ),
    "response normalisation": between(response, gamma=lambda: nn.PReLU(16)),
    "pyramid": between(
        pyramid, 24, low=lambda: conv(16, 24), lateral=lambda: conv(16, 24, 1), smooth=lambda: conv(24, 24)
    ),
    "unpooled": between(unpooled, 24, side=lambda: conv(16, 24), inner=lambda: conv(24, 24)),
    "three branches": between(
        reparametrised, large=lambda: conv(16, 16)[:2], small=lambda: conv(16, 16, 1)[:2],
        identity=lambda: nn.BatchNorm2d(16),
    ),
    "bilinear": between(
        lambda net, x: net.mix(y := x.mean((2, 3)), y)[:, :, None, None].expand(-1, -1, 4, 4), 24,
        mix=lambda: nn.Bilinear(16, 16, 24),
    ),
    "stochastic depth": between(
        lambda net, x: x + net.drop(net.side(x)),
        side=lambda: conv(16, 16), drop=lambda: StochasticDepth(0.5, "row"),
    ),
    "written by index": between(indexed, side=lambda: conv(16, 3)),
    "loop over groups": between(
        grouped_loop, 24, parts=lambda: nn.ModuleList(conv(4, 6) for _ in range(4))
    ),
    "cosine classifier": Cosine,
    "shared head": SharedHead,
    "lazy": Lazy,
    "GRU over rows": Rows,
    "class token": ClassToken,
}  # fmt: skip

__getattr__ = by_number(NETWORKS)
