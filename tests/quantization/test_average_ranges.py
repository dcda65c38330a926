"""Ranges of activations where one image in many is out of all proportion; and where none is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from akgp.params import Quantize
from akgp.quantization import average_ranges, export_onnx, quantize
from akgp.quantization.qdq import Qdq

IMAGES = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network(folder: Path) -> Path:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )
    with torch.no_grad():
        model[-1].weight.mul_(20)  # so that predictions differ
    export_onnx(model.eval(), IMAGES[:1], folder / "float.onnx")
    return folder / "float.onnx"


def test_an_image_out_of_proportion_is_left_out(tmp_path: Path) -> None:
    floating, file = network(tmp_path), tmp_path / "int8.onnx"
    images = IMAGES.clone()
    images[10] *= 300  # one of those that measure; it may be clipped
    quantize(floating, images, Quantize(), file)
    judgement = average_ranges(floating, images, Quantize(), file)
    assert judgement is not None and judgement.kept and judgement.after < 0.1 * judgement.before


def test_who_has_lost_nothing_keeps_the_file(tmp_path: Path) -> None:
    floating, file = network(tmp_path), tmp_path / "int8.onnx"
    quantize(floating, IMAGES, Quantize(), file)
    before = file.read_bytes()
    assert average_ranges(floating, IMAGES, Quantize(), file) is None
    assert file.read_bytes() == before


def test_the_averages_are_of_every_four_images(tmp_path: Path) -> None:
    floating, file = network(tmp_path), tmp_path / "int8.onnx"
    quantize(floating, IMAGES, Quantize(calibration="averaged"), file)
    graph = Qdq(onnx.load(file))
    scale = graph.constant(next(node for node in graph.nodes if "input" in node.input).input[1])
    groups = IMAGES.numpy().reshape(16, -1)
    expected = (groups.max(1).mean() - groups.min(1).mean()) / 255
    np.testing.assert_allclose(scale, expected, rtol=1e-3)  # scales move a little to be exact in integers
