"""Mixed precision: layers stay in float by name or by sensitivity, and files say so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from akgp.params import Quantize
from akgp.quantization import QuantizationError, export_onnx, plan, quantize, verify
from akgp.quantization.description import describe
from akgp.quantization.qdq import Qdq
from akgp.runtimes.onnxruntime import session

RANDOM = torch.Generator().manual_seed(0)
COLORS = 2 * torch.randn(48, 3, 1, 1, generator=RANDOM)  # so that the classes differ
IMAGES = torch.randn(48, 3, 8, 8, generator=RANDOM) + COLORS


class Network(nn.Module):
    """The weights of `second` have outliers in their rows, so that 8 bits leave nothing of the others."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.third = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 6)
        with torch.no_grad():
            for layer in (self.first, self.second, self.third, self.head):
                layer.bias.zero_()  # the classes are those of the colours
            self.first.weight[0] = 0  # so that what reads this channel does not matter, however large
            self.second.weight[:, 0] = 200.0

    def forward(self, x: Tensor) -> Tensor:
        x = self.third(self.second(self.first(x).relu()).relu()).relu()
        return self.head(20 * x.mean((2, 3)))


@pytest.fixture(scope="module")
def floating(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("graphs") / "float.onnx"
    export_onnx(Network().eval(), IMAGES[:1], file)
    return file


def logits(file: Path) -> np.ndarray:
    return session(file, threads=1).run(None, {"input": IMAGES.numpy()})[0]


def test_the_layer_that_8_bits_spoil_stays_in_float(floating: Path, tmp_path: Path) -> None:
    int8 = tmp_path / "model.onnx"
    quantize(floating, IMAGES, Quantize(), int8)
    wanted = logits(floating).argmax(1)
    assert (logits(int8).argmax(1) == wanted)[1::2].mean() < 0.95
    made = plan(floating, IMAGES, Quantize(agreement=0.95))
    assert made.float_layers == ("second",) and made.agreement >= 0.95
    assert [(each.layer, each.weights) for each in made.layers] == [
        ("first", 8 * 27), ("second", 8 * 72), ("third", 8 * 72), ("head", 48),
    ]  # fmt: skip
    gains = {each.layer: each.gain for each in made.layers}
    assert all(gain is not None for gain in gains.values())
    assert max(gains, key=lambda name: gains[name] or 0.0) == "second"
    # The plan, written into params.yaml, gives the network that it was judged by.
    quantize(floating, IMAGES, Quantize(float_layers=made.float_layers), int8)
    assert (logits(int8).argmax(1) == wanted)[1::2].mean() == made.agreement


def test_float_layers_have_float_weights_and_are_counted(floating: Path, tmp_path: Path) -> None:
    int8 = tmp_path / "model.onnx"
    kernels = quantize(floating, IMAGES, Quantize(float_layers=("sec*", "third")), int8)
    graph = Qdq(onnx.load(str(int8)))
    assert {name for name in ("first", "second", "third") if f"{name}.weight" in graph.tensors} == {
        "second", "third",
    }  # fmt: skip
    np.testing.assert_array_equal(2 * graph.constant("third.weight"), Network().third.weight.detach())
    assert (kernels.integer, kernels.floating) == (1, 2)
    verified = verify(int8, IMAGES)
    assert verified.floating == {"Conv": 2} and verified.images == 48


def test_exports_name_the_float_layer(floating: Path, tmp_path: Path) -> None:
    int8 = tmp_path / "model.onnx"
    quantize(floating, IMAGES, Quantize(float_layers=("third",)), int8)
    with pytest.raises(QuantizationError, match=r"\(third\): Conv in floating point"):
        describe(onnx.load(str(int8)))


def test_a_pattern_that_matches_nothing_is_refused(floating: Path, tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match="'fourth' matches no layer; these are: first, second"):
        quantize(floating, IMAGES, Quantize(float_layers=("first", "fourth")), tmp_path / "model.onnx")


def test_int8_that_agrees_needs_no_float(floating: Path) -> None:
    made = plan(floating, IMAGES, Quantize(agreement=0.01))
    assert made.float_layers == () and all(each.gain is None for each in made.layers)
