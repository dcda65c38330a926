"""Weights as few networks have them: no biases, products with constants, channels of zeros, odd names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from akgp.params import Quantize
from akgp.quantization import (
    correct_biases,
    equalize,
    export_onnx,
    quantize,
    require_finite,
    verify,
)
from akgp.quantization.description import describe
from akgp.quantization.operations import Select
from tests.support.onnx_files import logits_of

IMAGES = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Tokens(nn.Module):
    """A product with a constant: on the left (tokens are mixed), or of three dimensions."""

    def __init__(self, where: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.where = where
        self.patches = nn.Conv2d(3, 16, 3, padding=1, stride=2, bias=False)
        shape = {"left": (12, 16), "batched": (4, 16, 16), "one batch": (1, 16, 6)}[where]
        self.weight = nn.Parameter(0.3 * torch.randn(shape))
        self.head = nn.Linear({"left": 12, "batched": 16, "one batch": 6}[where], 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x)
        if self.where == "left":
            return self.head(torch.matmul(self.weight, x.flatten(2)).mean(2))
        tokens = x.flatten(2).transpose(1, 2)
        if self.where == "batched":
            tokens = tokens.reshape(-1, 4, 4, 16)
        return self.head((tokens @ self.weight).flatten(1, -2).mean(1))


def made(network: nn.Module, folder: Path, params: Quantize | None = None) -> Path:
    """The int8 file, its biases corrected."""
    export_onnx(network.eval(), IMAGES[:1], folder / "float.onnx")
    quantize(folder / "float.onnx", IMAGES, params or Quantize(), folder / "model.onnx")
    correct_biases(folder / "float.onnx", IMAGES, folder / "model.onnx")
    return folder / "model.onnx"


def error(network: nn.Module, file: Path) -> float:
    """The largest error of the logits, as a share of their range."""
    with torch.no_grad():
        wanted = network(IMAGES).numpy()
    got = logits_of(file, IMAGES)
    return float(np.abs(got - wanted).max() / np.ptp(wanted))


@pytest.mark.parametrize("where", ["left", "batched", "one batch"])
def test_a_product_with_an_unusual_constant_stays_in_float(tmp_path: Path, where: str) -> None:
    """Its quantizer gives such constants scales along what is summed over, which no integer kernel has."""
    network = Tokens(where)
    file = made(network, tmp_path)
    assert verify(file, IMAGES).floating["MatMul"] == 1
    assert error(network, file) < 0.03


@pytest.mark.parametrize("precision", [{}, {"*": "float"}])
def test_a_network_without_integer_biases_has_none_to_correct(tmp_path: Path, precision: dict) -> None:
    torch.manual_seed(0)
    bias = bool(precision)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=bias), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4, bias=bias)
    )
    file = made(network, tmp_path, Quantize(precision=precision))
    assert correct_biases(tmp_path / "float.onnx", IMAGES, file) is None
    verify(file, IMAGES)


def test_a_channel_of_zeros_keeps_its_bias(tmp_path: Path) -> None:
    """Biases have steps of the weights' scale times the input's; weights of zeros give none."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 1)
    with torch.no_grad():
        second.weight[:8] = 0
        second.bias[:8] = torch.linspace(0.002, 0.02, 8)
        second.weight[8:] *= 0.01
        second.bias[8:] = 0
    network = nn.Sequential(first, nn.ReLU(), second, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    export_onnx(network.eval(), IMAGES[:1], tmp_path / "float.onnx")
    quantize(tmp_path / "float.onnx", IMAGES, Quantize(), tmp_path / "model.onnx")
    verify(tmp_path / "model.onnx", IMAGES)
    got = logits_of(tmp_path / "model.onnx", IMAGES)
    assert np.abs(got[:, :8] - second.bias[:8].detach().numpy()).max() < 5e-4
    describe(onnx.load(str(tmp_path / "model.onnx")))


def test_a_parameter_may_have_any_name(tmp_path: Path) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.two = nn.Conv2d(3, 4, 3), nn.Parameter(torch.randn(1))

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).mul(self.two).flatten(1)

    network = Named()
    file = made(network, tmp_path, Quantize(precision={"conv": "float"}))
    assert error(network, file) < 0.02


def test_channels_that_a_list_selects_are_a_selection(tmp_path: Path) -> None:
    class Selecting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(4, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x).relu()
            return self.head(torch.tanh(x[:, [5, 0, 3, 1]])).mean((2, 3))

    network = Selecting()
    file = made(network, tmp_path)
    assert error(network, file) < 0.03
    kinds = [type(each) for each in describe(onnx.load(str(file))).operations]
    assert kinds.count(Select) <= 1


def test_normalization_over_channels_and_pixels_stays_in_float(tmp_path: Path) -> None:
    """onnxruntime's quantizer takes its bias for a convolution's."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.LayerNorm((4, 8, 8)), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5)
    )
    assert error(network, made(network, tmp_path)) < 0.05


def test_calibration_images_may_have_a_gradient(tmp_path: Path) -> None:
    network, images = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).eval(), IMAGES.clone().requires_grad_()
    require_finite(network, images)
    export_onnx(network, IMAGES[:1], tmp_path / "float.onnx")
    quantize(tmp_path / "float.onnx", images, Quantize(), tmp_path / "model.onnx")
    equalize(tmp_path / "float.onnx", images, Quantize(), tmp_path / "model.onnx")
    correct_biases(tmp_path / "float.onnx", images, tmp_path / "model.onnx")
    assert verify(tmp_path / "model.onnx", images).equal
