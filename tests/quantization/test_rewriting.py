"""Float graphs before they are quantized."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from akgp.quantization import export_onnx
from akgp.quantization.ptq import prepare
from akgp.quantization.rewriting import restore_hard_swish
from akgp.runtimes.onnxruntime import session

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 3


class Gates(nn.Module):
    """A hard-swish, one written out, and gates that are none: of another tensor, and needed elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.one(x))
        x = self.two(x) * F.hardsigmoid(x)
        x = F.hardsigmoid(x) * x
        gate = F.hardsigmoid(x)
        return self.head((x * gate + gate).mean((2, 3)))


def test_hard_swish_is_one_function_again(tmp_path: Path) -> None:
    """onnxruntime's preparation takes it apart. Other gates stay, and the values do, too."""
    model = Gates().eval()
    export_onnx(model, IMAGES, tmp_path / "float.onnx")
    prepare(tmp_path / "float.onnx", tmp_path / "prepared.onnx")
    graph = onnx.load(tmp_path / "prepared.onnx")
    kinds = [node.op_type for node in graph.graph.node]
    assert (kinds.count("HardSwish"), kinds.count("HardSigmoid"), kinds.count("Mul")) == (0, 4, 4)
    restore_hard_swish(graph)
    onnx.checker.check_model(graph, full_check=True)
    kinds = [node.op_type for node in graph.graph.node]
    assert (kinds.count("HardSwish"), kinds.count("HardSigmoid"), kinds.count("Mul")) == (2, 2, 2)
    onnx.save(graph, tmp_path / "restored.onnx")
    (got,) = session(tmp_path / "restored.onnx", threads=1).run(None, {"input": IMAGES.numpy()})
    np.testing.assert_allclose(got, model(IMAGES).detach().numpy(), rtol=0, atol=1e-5)
