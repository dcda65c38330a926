"""CIFAR ResNets with option A's parameter-free shortcuts (He et al. 2016), by widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from akgp.models.spec import ModelError, Spec, tag

WIDTHS = (16, 32, 64)


class ChannelMap(nn.Module):
    """Option A's shortcut: every stride-th pixel, channels arranged by `index`, no parameters.

    Output channel j is input channel index[j], or zeros where index[j] is -1. Pruning rewrites
    the index, so that inputs and outputs may lose any channels; as a buffer it is saved with the weights.
    """

    index: Tensor

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.in_channels, self.stride = in_channels, stride
        before = (out_channels - in_channels) // 2  # half of the new, zero channels on each side
        position = torch.arange(out_channels) - before
        inside = (position >= 0) & (position < in_channels)
        self.register_buffer("index", torch.where(inside, position, -1))

    def forward(self, x: Tensor) -> Tensor:
        strided = x[..., :: self.stride, :: self.stride]
        return F.pad(strided, (0, 0, 0, 0, 1, 0)).index_select(1, self.index + 1)  # channel 0 is zeros

    def as_convolution(self) -> nn.Conv2d:
        """The 1×1 convolution without bias that computes the same: weight_OI is 1 where i = index[o]."""
        one_hot_OI = self.index[:, None] == torch.arange(self.in_channels, device=self.index.device)
        convolution = nn.Conv2d(self.in_channels, len(self.index), 1, self.stride, bias=False)
        convolution.weight = nn.Parameter(one_hot_OI[:, :, None, None].float(), requires_grad=False)
        return convolution

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {len(self.index)}, stride={self.stride}"


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut around them (He et al. 2016, figure 2).

    Sums and ReLUs are in place: on a processor new memory for each costs a tenth of a training step.
    """

    def __init__(self, in_channels: int, inner: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, inner, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else ChannelMap(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(inner))
        out += self.shortcut(x)
        return F.relu(out, inplace=True)


class CifarResNet(nn.Module):
    """ResNet for small images (He et al. 2016, section 4.2): [N, C, H, W] to logits [N, classes]."""

    def __init__(self, blocks: int, filters: Mapping[str, int], num_classes: int, in_channels: int) -> None:
        super().__init__()
        width = filters["conv1"]
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(1, blocks, width, filters)
        self.layer2 = _stage(2, blocks, filters["layer1.0.conv2"], filters)
        self.layer3 = _stage(3, blocks, filters["layer2.0.conv2"], filters)
        width = filters["layer3.0.conv2"]
        self.linear = nn.Linear(width, num_classes)
        # He et al. 2016 initialise by He et al. 2015 (for ReLU, by fan-in). BatchNorms keep γ = 1, β = 0.
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def _stage(stage: int, blocks: int, in_channels: int, filters: Mapping[str, int]) -> nn.Sequential:
    width, layer = filters[f"layer{stage}.0.conv2"], nn.Sequential()
    for block in range(blocks):
        first = block == 0
        stride = 2 if first and stage > 1 else 1
        inner = filters[f"layer{stage}.{block}.conv1"]
        layer.append(BasicBlock(in_channels if first else width, inner, width, stride))
    return layer


def cifar_resnet(
    depth: int,
    widths: Sequence[int] | Mapping[str, int] = WIDTHS,
    num_classes: int = 10,
    in_channels: int = 3,
) -> CifarResNet:
    """A CIFAR ResNet with option A's parameter-free shortcuts (He et al. 2016).

    Args:
        depth: 6n + 2: 8, 14, 20, 32, 44, 56, 110, ...
        widths: channels of the three stages; or, layer by layer, filters by convolution's name, such
            as {"layer1.0.conv1": 8}, where layers left out have the paper's widths. Layers whose
            outputs are summed must agree: all of a stage's `conv2`, with `conv1` in the first.

    Raises:
        ModelError: a depth that is not 6n + 2; widths that do not fit together.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ModelError(f"depth of a CIFAR ResNet must be 6n + 2: 8, 14, 20, 32, 44, 56, 110, got {depth}")
    blocks = (depth - 2) // 6
    model = CifarResNet(blocks, layer_widths(blocks, widths), num_classes, in_channels)
    tag(model, Spec(f"cifar_resnet{depth}", num_classes, in_channels))
    return model


def layer_widths(blocks: int, widths: Sequence[int] | Mapping[str, int]) -> dict[str, int]:
    """Filters of every convolution by name, in order, for `blocks` blocks a stage; see `cifar_resnet`."""
    by_layer = widths if isinstance(widths, Mapping) else {}
    stages = WIDTHS if isinstance(widths, Mapping) else tuple(widths)
    if len(stages) != 3 or min(stages, default=0) < 1:
        raise ModelError(f"widths must be three numbers, 1 or more each, got {list(stages)}")
    filters = {"conv1": stages[0]} | {
        f"layer{stage}.{block}.conv{conv}": stages[stage - 1]
        for stage in (1, 2, 3)
        for block in range(blocks)
        for conv in (1, 2)
    }
    for name, width in by_layer.items():
        if name not in filters:
            raise ModelError(f"widths: {name!r} is not a convolution of this network ({', '.join(filters)})")
        if width < 1:
            raise ModelError(f"widths: {name} must have 1 filter or more, got {width}")
    filters |= by_layer
    previous = 0
    for stage in (1, 2, 3):
        summed = [name for name in filters if name.startswith(f"layer{stage}.") and name.endswith("conv2")]
        first, *others = ["conv1", *summed] if stage == 1 else summed
        for name in others:
            if filters[name] != filters[first]:
                raise ModelError(
                    f"widths: {first} and {name} are summed and must be equally wide, "
                    f"got {filters[first]} and {filters[name]}"
                )
        if filters[first] < previous:
            raise ModelError(
                f"widths: option A's shortcut only adds channels: stage {stage} must not be narrower "
                f"than stage {stage - 1}, got {filters[first]} after {previous}"
            )
        previous = filters[first]
    return filters
