"""The int8 network in the formats of `evaluate.targets`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from akgp import artifacts, params
from akgp.data import Images, IndexedSource, Preprocessing
from akgp.deployment.package import write_metadata
from akgp.models import cifar_resnet
from akgp.params import Quantize
from akgp.quantization import QuantizationError, export_onnx, quantize
from akgp.stages.target_rows import check_writable, measured
from akgp.workspace import Task


class Transposing(nn.Conv2d):
    """No format has its transposition."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mean((2, 3))[:, None].transpose(1, 2).mean(2)


@pytest.mark.parametrize(
    ("network", "written", "said"),
    [
        (nn.Sequential(nn.Conv2d(1, 5, (8, 7)), nn.Flatten()), ["onnx"], "c: not measured: .* flattened"),
        (Transposing(1, 10, 3), [], "c, onnx: not measured: .*Transpose cannot"),
    ],
)
def test_a_format_that_is_refused_costs_its_own_row_alone(
    network: nn.Module, written: list[str], said: str, tmp_path: Path
) -> None:  # fmt: skip
    tree = {
        "networks": {"net": {"architecture": "cifar_resnet8"}}, "teachers": ["net"], "student": "net",
        "evaluate": {"targets": ["c", "onnx"], "rounds": 6, "warmup_seconds": 0},
    }  # fmt: skip
    task = Task("evaluate", params.validate(tree), tmp_path)
    task.workspace.dense("net").mkdir(parents=True)
    artifacts.save(cifar_resnet(8, in_channels=1), task.workspace.dense("net"))
    task.workspace.int8.mkdir(parents=True)
    noise, file = torch.randn(4, 1, 8, 8), task.workspace.int8 / "model.onnx"
    export_onnx(network.eval(), noise, tmp_path / "float.onnx")
    quantize(tmp_path / "float.onnx", noise, Quantize(), file)
    about = Preprocessing(
        classes=tuple("0123456789"), image_size=(8, 8), channels=1, mean=(0.5,), std=(0.5,)
    )  # fmt: skip
    write_metadata(file, about, None)
    pixels = torch.zeros(6, 1, 8, 8, dtype=torch.uint8)
    images = IndexedSource.of(Images(pixels, torch.arange(6)), about.mean, about.std)
    rows, microcontroller, (refused,) = measured(task, images, tmp_path)
    assert [row["target"] for row in rows] == written and microcontroller is None
    assert re.match(f"evaluate.targets: {said}", refused), refused
    with pytest.raises(QuantizationError):
        check_writable(file, task.params.evaluate)
