"""Bias correction: shifted biases are restored; a file that would not gain stays as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from akgp.params import Quantize
from akgp.quantization import correct_biases, export_onnx, quantize, verify
from akgp.quantization.qdq import Qdq
from tests.support.onnx_files import logits_of

IMAGES = torch.randn(48, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Network(nn.Module):
    """Ordinary and depthwise convolutions, a residual sum, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.last = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        x = x + self.last(self.depthwise(x).relu())
        return self.head(3 * x.mean((2, 3)))


@pytest.fixture(scope="module")
def floating(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("graphs") / "float.onnx"
    export_onnx(Network().eval(), IMAGES[:1], file)
    quantize(file, IMAGES, Quantize(), file.with_name("model.onnx"))
    return file


def biases(model: onnx.ModelProto) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Integers and scale by the name of the integers, in the order of the layers."""
    graph = Qdq(model)
    found = [graph.dequantized(node.input[2]) for node in graph.weighted()]
    return {
        each.integers: (graph.constant(each.integers), graph.constant(each.scale)) for each in found if each
    }


def test_shifted_biases_are_restored(floating: Path, tmp_path: Path) -> None:
    """Each layer's bias is moved by a known amount; up to a step of rounding, correction takes it back."""
    model = onnx.load(str(floating.with_name("model.onnx")))
    graph, before = Qdq(model), biases(model)
    for name, (integers, scale) in before.items():
        graph.write(name, (integers + np.rint(0.3 / scale)).astype(np.int32))
    file = tmp_path / "model.onnx"
    onnx.save(model, str(file))
    shifted = logits_of(file, IMAGES)
    correction = correct_biases(floating, IMAGES, file)
    assert correction.kept and correction.after < 0.1 * correction.before
    for name, (integers, scale) in biases(onnx.load(str(file))).items():
        moved = np.abs((integers - before[name][0]) * scale)
        assert moved.max() < 0.06, name
    wanted = logits_of(floating, IMAGES)
    assert np.abs(logits_of(file, IMAGES) - wanted).max() < 0.2 * np.abs(shifted - wanted).max()
    assert verify(file, IMAGES).equal


def test_means_are_those_of_the_float_network(floating: Path, tmp_path: Path) -> None:
    """The last layer's, on the images that were measured, but for the rounding of the logits to 8 bits."""
    model = onnx.load(str(floating.with_name("model.onnx")))
    graph = Qdq(model)
    *_, (name, (integers, scale)) = biases(model).items()
    graph.write(name, (integers + np.rint(1 / scale)).astype(np.int32))
    file = tmp_path / "model.onnx"
    onnx.save(model, str(file))
    assert correct_biases(floating, IMAGES, file).kept
    means = [logits_of(each, IMAGES)[::2].mean(0) for each in (floating, file)]
    np.testing.assert_allclose(*means, atol=0.02)


def test_what_does_not_gain_is_not_kept(floating: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(floating.with_name("model.onnx").read_bytes())
    correct_biases(floating, IMAGES, file)
    once = file.read_bytes()
    assert not correct_biases(floating, IMAGES, file).kept and file.read_bytes() == once


@pytest.mark.parametrize("images", [1, 2])
def test_a_single_image_judges_nothing(images: int, floating: Path, tmp_path: Path) -> None:
    """Of one there is none to judge by; of two there is one, which has no standard error."""
    file = tmp_path / "model.onnx"
    file.write_bytes(floating.with_name("model.onnx").read_bytes())
    correction = correct_biases(floating, IMAGES[:images], file)
    assert not correction.kept and np.isnan(correction.before) == (images == 1)
