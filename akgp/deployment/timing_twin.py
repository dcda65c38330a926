"""An int8 file of a network that is not calibrated: scales make no difference for speed and size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from akgp.deployment.targets import Int8File
from akgp.params import Quantize
from akgp.quantization import export_onnx, quantize

IMAGES = 2
"""Of noise, from which activations get their scales."""


def timing_twin(
    model: nn.Module, shape: Sequence[int], folder: Path, name: str = "twin", params: Quantize | None = None
) -> Int8File:
    """The int8 file `name`.onnx of a float network, beside `name`.float.onnx, in float32.

    Args:
        shape: of an image, (channels, H, W).
        params: of which the precision of layers counts; None: all are int8.

    Raises:
        QuantizationError: it cannot be exported.
    """
    noise = torch.randn(IMAGES, *shape, generator=torch.Generator().manual_seed(0))
    floating, path = folder / f"{name}.float.onnx", folder / f"{name}.onnx"
    export_onnx(model.cpu(), noise[:1], floating)
    quantize(floating, noise, params or Quantize(), path)
    return Int8File(path)
