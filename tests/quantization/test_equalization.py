"""Equalisation: the float graph keeps its bits; unequal channels recover in int8; what cannot gain stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from akgp.params import Quantize
from akgp.quantization import equalize, export_onnx, quantize, verify
from akgp.quantization.equalization import balance, pairs
from akgp.quantization.ptq import prepare
from tests.support.onnx_files import logits_of

IMAGES = torch.randn(48, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Network(nn.Module):
    """Every kind of pair (ordinary, depthwise, grouped, pooled and flattened) and what is none."""

    def __init__(self, spread: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.grouped = nn.Conv2d(8, 12, 1, groups=2)
        self.clipped = nn.Conv2d(12, 12, 1)
        self.left, self.right = nn.Conv2d(12, 12, 1), nn.Conv2d(12, 12, 1)
        self.hidden, self.head = nn.Linear(12, 16), nn.Linear(16, 4)
        # Channels of ranges from 1 to `spread`, which the next layer takes back: the same function.
        with torch.no_grad():
            for layer, after in ((self.first, self.depthwise), (self.hidden, self.head)):
                factors = torch.logspace(0, 1, layer.weight.shape[0], base=spread)
                layer.weight.mul_(factors.view(-1, *[1] * (layer.weight.ndim - 1)))
                layer.bias.mul_(factors)
                after.weight.div_(factors.view((-1, 1, 1, 1) if after is self.depthwise else (1, -1)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.first(x).relu())
        x = self.clipped(self.grouped(x).relu()).clamp(0, 6)
        x = self.left(x) + self.right(x)
        return self.head(self.hidden(3 * x.mean((2, 3))).relu())


def exported(network: nn.Module, folder: Path) -> Path:
    export_onnx(network.eval(), IMAGES[:1], folder / "float.onnx")
    return folder / "float.onnx"


def test_the_float_graph_keeps_its_bits(tmp_path: Path) -> None:
    """Through depthwise and grouped layers; a clip, a sum and two readers end a pair."""
    prepared = tmp_path / "prepared.onnx"
    prepare(exported(Network(spread=64.0), tmp_path), prepared)
    model = onnx.load(str(prepared))
    layers = [(a.first.input[1], a.second.input[1]) for a in pairs(model)]
    assert [tuple(name.removesuffix(".weight") for name in pair) for pair in layers] == [
        ("first", "depthwise"), ("depthwise", "grouped"), ("grouped", "clipped"), ("hidden", "head"),
    ]  # fmt: skip
    before = logits_of(model, IMAGES)
    assert balance(model, IMAGES.numpy())
    np.testing.assert_array_equal(logits_of(model, IMAGES), before)
    balance(model, IMAGES.numpy())
    assert not balance(model, IMAGES.numpy())  # nothing is left to balance


@pytest.mark.parametrize("spread", [1.0, 1024.0])
def test_unequal_channels_recover(tmp_path: Path, spread: float) -> None:
    """int8 errors become those of the network whose channels were equal; that one itself gains little."""
    floating, int8 = exported(Network(spread), tmp_path), tmp_path / "model.onnx"
    wanted = logits_of(floating, IMAGES)
    quantize(floating, IMAGES, Quantize(), int8)
    error = np.abs(logits_of(int8, IMAGES) - wanted).mean()
    judgement = equalize(floating, IMAGES, Quantize(), int8)
    after = np.abs(logits_of(int8, IMAGES) - wanted).mean()
    np.testing.assert_array_equal(logits_of(floating, IMAGES), wanted)
    assert verify(int8, IMAGES).equal
    if spread == 1:
        assert judgement is None or not judgement.kept or after < error
    else:
        assert judgement is not None and judgement.kept and judgement.after < 0.1 * judgement.before
        assert after < 0.2 * error


def test_without_pairs_nothing_is_tried(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.Flatten(), nn.Linear(4 * 36, 4))
    floating, int8 = exported(network, tmp_path), tmp_path / "model.onnx"
    quantize(floating, IMAGES, Quantize(), int8)
    before = int8.read_bytes()
    assert equalize(floating, IMAGES, Quantize(), int8) is None and int8.read_bytes() == before
