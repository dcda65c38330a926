"""The bytes of a network's values in an int8 file, by its widths alone.

Weights of convolutions, linear layers and attention are int8. Each filter has a bias, and a scale and a zero
point of the bias and of the weights. BatchNorms are folded into the weights. All else stays in float32. Names
and operations, which an ONNX file also holds, are not counted: they do not depend on widths.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from akgp.pruning.coupling.layers import PRUNABLE, width

FILTER = 4 + 4 + 4 + 4 + 1
"""Bias, its scale and its zero point (4 bytes each); the weights' scale (4) and zero point (1)."""
WEIGHT, OTHER = 1, 4


def entry_bytes(model: nn.Module) -> dict[nn.Parameter, int]:
    """The bytes of one entry of every parameter; biases of layers are counted by `FILTER`."""
    found: dict[nn.Parameter, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if isinstance(module, (*PRUNABLE, nn.MultiheadAttention)):
                found[parameter] = WEIGHT if parameter.ndim > 1 else 0
            else:
                found.setdefault(parameter, 0 if isinstance(module, _BatchNorm) else OTHER)
    return found


def int8_bytes(model: nn.Module) -> int:
    """The bytes of all values of `model`."""
    values = sum(parameter.numel() * size for parameter, size in entry_bytes(model).items())
    filters = sum(width(module) for module in model.modules() if isinstance(module, PRUNABLE))
    attentions = (module for module in model.modules() if isinstance(module, nn.MultiheadAttention))
    # Its projections are layers of their own once they can be narrowed.
    projected = sum(3 * each.embed_dim for each in attentions if _projects(each))
    return values + FILTER * (filters + projected)


def _projects(attention: nn.MultiheadAttention) -> bool:
    return any(parameter.ndim == 2 for parameter in attention.parameters(recurse=False))
