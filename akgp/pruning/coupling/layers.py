"""The kinds of layers whose filters are pruned, and where their weights have the filters."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

PRUNABLE = (_ConvNd, nn.Linear)
# Where a layer's filters are numbered: its weight, or what a parametrisation computes it from.
WEIGHTS = (
    "weight",
    "parametrizations.weight.original0",
    "parametrizations.weight.original",
    "weight_g",
    "weight_orig",
)


def filter_dimension(module: nn.Module) -> int:
    """The dimension of a layer's weight along which its filters lie."""
    depthwise = (
        isinstance(module, _ConvTransposeNd)
        and 1 < module.groups == module.in_channels == module.out_channels
    )
    return 1 if isinstance(module, _ConvTransposeNd) and not depthwise else 0


def width(module: nn.Module) -> int:
    """The number of a layer's filters."""
    assert isinstance(module, PRUNABLE)
    return module.out_features if isinstance(module, nn.Linear) else module.out_channels
