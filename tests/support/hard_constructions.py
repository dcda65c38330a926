"""Small networks for images [N, 3, 16, 16] with one construction each that is hard to prune, by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from tests.support.hard_networks import (
    Auxiliary,
    BareWeights,
    Build,
    Dense,
    Embedded,
    Outputs,
    Recurrent,
    RMSNorm,
    ScaledLinear,
    Sequence1d,
    StandardisedConv,
    TiedAutoencoder,
    Transformer,
    TwoBranches,
    Volume,
    Windows,
    between,
    by_number,
    cbam,
    conv,
    csp,
    eca,
    fused_attention,
    heads,
    in_place_part,
    learned_tokens,
    mixer,
    res2net,
    selective,
    set_slice,
    shuffled,
    split_attention,
    squeeze,
    unfollowed_gate,
)


def two(inputs: int = 16, outputs: int = 16) -> Callable[[], nn.Module]:
    return lambda: conv(inputs, outputs)


NETWORKS: dict[str, Build] = {
    "plain": between(lambda net, x: x),
    "residual": between(lambda net, x: x + net.side(x), side=two()),
    "channel shuffle": between(lambda net, x: shuffled(x)),
    "shuffles repeated": between(
        lambda net, x: shuffled(
            torch.cat([x[:, :8], net.two(shuffled(torch.cat([x[:, :8], net.one(x[:, 8:])], 1))[:, 8:])], 1)
        ),
        one=two(8, 8),
        two=two(8, 8),
    ),
    "nn.ChannelShuffle": between(lambda net, x: net.shuffle(x), shuffle=lambda: nn.ChannelShuffle(4)),
    "grouped": between(lambda net, x: net.side(x), side=lambda: conv(16, 16, groups=4)),
    "grouped, more filters": between(lambda net, x: net.side(x), 32, side=lambda: conv(16, 32, groups=4)),
    "grouped and shuffled": between(
        lambda net, x: net.two(shuffled(net.one(x), 4)),
        one=lambda: conv(16, 16, groups=4),
        two=lambda: conv(16, 16, groups=4),
    ),
    "depthwise": between(lambda net, x: net.side(x), side=lambda: conv(16, 16, groups=16)),
    "depthwise, two filters each": between(
        lambda net, x: net.side(x), 32, side=lambda: conv(16, 32, groups=16)
    ),
    "chunk": between(
        lambda net, x: (lambda a, b: a * torch.sigmoid(b))(*net.side(x).chunk(2, 1)), side=two(16, 32)
    ),
    "split unequal": between(lambda net, x: torch.cat([*torch.split(x, [4, 12], 1)][::-1], 1)),
    "slices": between(lambda net, x: torch.cat([x[:, 8:], net.side(x[:, :8])], 1), side=two(8, 8)),
    "slice in steps": between(lambda net, x: x[:, ::2] + x[:, 1::2], 8),
    "flip": between(lambda net, x: x + x.flip(1)),
    "roll": between(lambda net, x: x + x.roll(3, 1)),
    "index": between(lambda net, x: x[:, [3, 1, 2, 0, *range(4, 16)]] + net.side(x), side=two()),
    "index_select": between(lambda net, x: x.index_select(1, torch.arange(15, -1, -1))),
    "gather": between(lambda net, x: x.gather(1, torch.arange(16).flip(0)[None, :, None, None].expand_as(x))),
    "glu": between(lambda net, x: F.glu(net.side(x), 1), side=two(16, 32)),
    "maxout": between(lambda net, x: net.side(x).view(len(x), 16, 2, 16, 16).amax(2), side=two(16, 32)),
    "maxout by max": between(
        lambda net, x: net.side(x).reshape(len(x), 2, 16, 16, 16).max(1).values, side=two(16, 32)
    ),
    "pixel shuffle": between(lambda net, x: F.pixel_shuffle(net.side(x), 2), 8, side=two(16, 32)),
    "pixel unshuffle": between(lambda net, x: F.pixel_unshuffle(x, 2), 64),
    "space to depth": between(
        lambda net, x: torch.cat([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], 1), 64
    ),
    "reshaped heads": between(heads, qkv=lambda: nn.Linear(16, 48), out=lambda: nn.Linear(16, 16)),
    "fused attention": between(
        fused_attention, **{name: (lambda: nn.Linear(16, 16)) for name in ("q", "k", "v", "out")}
    ),
    "einsum": between(
        lambda net, x: torch.einsum("nchw,oc->nohw", x, net.mix.weight), 24, mix=lambda: nn.Linear(16, 24)
    ),
    "rearranged as einops": between(
        lambda net, x: (
            net.mix(x.permute(0, 2, 3, 1).reshape(-1, 16)).reshape(len(x), 16, 16, 16).permute(0, 3, 1, 2)
        ),
        mix=lambda: nn.Linear(16, 16),
    ),
    "split attention": between(
        split_attention, side=lambda: conv(16, 32, groups=2), gate=lambda: nn.Linear(16, 32)
    ),
    "learned tokens": between(
        learned_tokens, 24, weights=lambda: nn.Conv2d(16, 4, 1), project=lambda: nn.Linear(16, 24)
    ),
    "gate that is not followed": between(unfollowed_gate, side=two(), gate=lambda: nn.Conv2d(16, 16, 1)),
    "generalised mean": between(
        lambda net, x: (
            x.clamp(min=1e-6)
            .pow(net.power.weight[0, 0])
            .mean((2, 3), keepdim=True)
            .pow(1 / net.power.weight[0, 0])
        ),
        power=lambda: nn.Linear(1, 1),
    ),
    "token mixing": between(mixer, tokens=lambda: nn.Linear(256, 256)),
    "weight standardisation": between(
        lambda net, x: net.side(x), 24, side=lambda: StandardisedConv(16, 24, 3, padding=1)
    ),
    "normalised rows": between(
        lambda net, x: net.side(x.movedim(1, -1)).movedim(-1, 1), 24, side=lambda: ScaledLinear(16, 24)
    ),
    "weight_norm": between(
        lambda net, x: net.side(x),
        24,
        side=lambda: parametrizations.weight_norm(nn.Conv2d(16, 24, 3, padding=1)),
    ),
    "spectral_norm": between(
        lambda net, x: net.side(x),
        24,
        side=lambda: parametrizations.spectral_norm(nn.Conv2d(16, 24, 3, padding=1)),
    ),
    "layer called twice": between(lambda net, x: net.side(net.side(x)), side=two()),
    "functional layer_norm": between(lambda net, x: F.layer_norm(x, x.shape[1:])),
    "functional batch_norm": between(
        lambda net, x: F.batch_norm(x, net.side[1].running_mean, net.side[1].running_var), side=two()
    ),
    "GroupNorm": between(lambda net, x: net.norm(x), norm=lambda: nn.GroupNorm(4, 16)),
    "LayerNorm": between(
        lambda net, x: net.norm(x.movedim(1, -1)).movedim(-1, 1), norm=lambda: nn.LayerNorm(16)
    ),
    "InstanceNorm": between(lambda net, x: net.norm(x), norm=lambda: nn.InstanceNorm2d(16, affine=True)),
    "InstanceNorm, not affine": between(lambda net, x: net.norm(x), norm=lambda: nn.InstanceNorm2d(16)),
    "LocalResponseNorm": between(lambda net, x: net.norm(x), norm=lambda: nn.LocalResponseNorm(5)),
    "RMSNorm": between(lambda net, x: net.norm(x), norm=lambda: RMSNorm(16)),
    "BatchNorm, not affine": between(
        lambda net, x: net.norm(x), norm=lambda: nn.BatchNorm2d(16, affine=False)
    ),
    "softmax over channels": between(lambda net, x: x.softmax(1)),
    "hard view": between(lambda net, x: x.view(-1, 16, 16 * 16).view(-1, 16, 16, 16)),
    "hard flatten": between(
        lambda net, x: net.wide(x.reshape(-1, 16 * 16 * 16))[:, :, None, None].expand(-1, -1, 4, 4),
        24,
        wide=lambda: nn.Linear(4096, 24),
    ),
    "padded channels": between(
        lambda net, x: F.pad(x, (0, 0, 0, 0, 4, 4)) + net.side(x), 24, side=two(16, 24)
    ),
    "written slices": between(set_slice, 24, side=two(16, 8)),
    "part in place": between(in_place_part, side=two()),
    "sigmoid": between(lambda net, x: torch.sigmoid(net.side(x)), side=two()),
    "plus one": between(
        lambda net, x: net.mix((x + 1).movedim(1, -1)).movedim(-1, 1), 24, mix=lambda: nn.Linear(16, 24)
    ),
    "exp and cos": between(lambda net, x: torch.cos(x) * torch.exp(-x)),
    "PReLU": between(
        lambda net, x: net.act(net.side(x)), act=lambda: nn.PReLU(16), side=lambda: nn.Conv2d(16, 16, 1)
    ),
    "CSP": between(csp, first=two(), side=two(8, 8)),
    "Res2Net": between(
        res2net, 32, first=two(16, 32), scales=lambda: nn.ModuleList(conv(8, 8) for _ in range(3))
    ),
    "CBAM": between(
        cbam,
        mlp=lambda: nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 16)),
        spatial=lambda: nn.Conv2d(2, 1, 7, padding=3),
    ),
    "ECA": between(eca, across=lambda: nn.Conv1d(1, 1, 3, padding=1)),
    "squeeze and excite": between(squeeze, down=lambda: nn.Linear(16, 16), up=lambda: nn.Linear(16, 16)),
    "selective kernels": between(selective, one=two(), two=two(), gate=lambda: nn.Linear(16, 32)),
    "transposed": between(lambda net, x: net.up(x), 24, up=lambda: nn.ConvTranspose2d(16, 24, 2, 2)),
    "transposed, depthwise": between(
        lambda net, x: net.up(x), up=lambda: nn.ConvTranspose2d(16, 16, 2, 2, groups=16)
    ),
    "interpolated": between(lambda net, x: F.interpolate(x, scale_factor=2.0, mode="bilinear")),
    "unfolded": between(lambda net, x: F.unfold(x, 2, stride=2).view(len(x), 64, 8, 8), 64),
    "clipped by a constant": between(lambda net, x: torch.minimum(x, torch.full_like(x, 6.0))),
    "where": between(lambda net, x: torch.where(x > 0.5, x, 0.1 * x)),
    "no_grad and data": between(lambda net, x: net.side(x.data).detach(), side=two()),
    "top two of the channels": between(lambda net, x: x * (x >= x.topk(2, 1).values[:, 1:])),
    "normalised channels": between(lambda net, x: F.normalize(x, dim=1)),
    "mean subtracted": between(lambda net, x: x - x.mean(1, keepdim=True)),
    "matrix of channels": between(
        lambda net, x: net.mix((x.flatten(2) @ x.flatten(2).transpose(1, 2)).flatten(1))[:, :, None, None],
        24,
        mix=lambda: nn.Linear(256, 24),
    ),
    "dropout": between(
        lambda net, x: F.dropout2d(net.drop(x), 0.2, net.training), drop=lambda: nn.Dropout(0.1)
    ),
    "tied autoencoder": TiedAutoencoder,
    "dictionary of outputs": lambda: Outputs(dict),
    "tuple of outputs": lambda: Outputs(tuple),
    "two stems": TwoBranches,
    "auxiliary head": Auxiliary,
    "DenseNet": Dense,
    "LSTM": Recurrent,
    "1-D": Sequence1d,
    "3-D": Volume,
    "embedding": Embedded,
    "bare weights": BareWeights,
    "transformer": Transformer,
    "windows": Windows,
}

__getattr__ = by_number(NETWORKS)
