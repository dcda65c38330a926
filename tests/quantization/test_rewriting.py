"""Float graphs before they are quantized, and that what they become is in integers throughout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from akgp.params import Quantize
from akgp.quantization import QuantizationError, export_onnx, quantize
from akgp.quantization.description import describe
from akgp.quantization.operations import Convolution, Gemm, GlobalAveragePool, Reshape
from akgp.quantization.ptq import prepare
from akgp.quantization.rewriting import restore_hard_swish
from akgp.quantization.simulator import simulate
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


class Around(nn.Module):
    """Convolutions and fully connected layers, and between them what a test says."""

    def __init__(self, between: Callable[[Around, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.between = between
        self.one, self.two = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1, bias=False)
        self.hidden, self.head, self.wide = nn.Linear(6, 6), nn.Linear(6, 5), nn.Linear(9, 5)
        self.color = nn.Parameter(torch.rand(1, 3, 1, 1) + 0.5)
        self.channel, self.feature = (
            nn.Parameter(torch.rand(6, 1, 1) + 0.5),
            nn.Parameter(torch.rand(6) + 0.5),
        )
        self.norm, self.last = nn.BatchNorm1d(6), nn.BatchNorm1d(5)
        for norm in (self.norm, self.last):
            for tensor in norm.state_dict().values():
                tensor.copy_(torch.rand(tensor.shape) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.between(self, x)


def checked_int8(model: nn.Module, folder: Path) -> tuple[onnx.ModelProto, list[Any]]:
    """The int8 file of a network, which gives what the oracle and, nearly, the network do; its operations."""
    images = IMAGES.repeat(8, 1, 1, 1)
    export_onnx(model.eval(), images[:2], folder / "float.onnx")
    quantize(folder / "float.onnx", images, Quantize(images=32), folder / "int8.onnx")
    file = onnx.load(folder / "int8.onnx")
    simulation = simulate(file, images.numpy())
    (got,) = session(folder / "int8.onnx", threads=1).run(None, {"input": images.numpy()})
    assert not simulation.floating
    np.testing.assert_array_equal(simulation.logits, got)
    expected = model(images).detach().numpy()
    assert np.abs(got - expected).max() < 0.05 * np.abs(expected).max()
    return file, [each for each in describe(file).operations if not isinstance(each, Reshape)]


def test_what_scales_channels_goes_into_the_layer_before_or_behind(tmp_path: Path) -> None:
    """Before: a layer scale and a shift, a BatchNorm1d. Behind: another, and a difference and a quotient."""

    def forward(net: Around, x: Tensor) -> Tensor:
        x = (net.channel * net.two(F.relu(net.one(x))) - net.channel).mean((2, 3))
        x = F.relu(net.hidden((net.feature - x) / net.feature))
        return net.last(net.head(net.norm(x)))

    _, operations = checked_int8(Around(forward), tmp_path)
    kinds = [type(each) for each in operations]
    assert kinds == [Convolution, Convolution, GlobalAveragePool, Gemm, Gemm]


def test_or_becomes_a_depthwise_convolution_that_int8_holds_exactly(tmp_path: Path) -> None:
    """An image that is normalized, what follows a ReLU, and where the convolution is needed elsewhere."""

    def forward(net: Around, x: Tensor) -> Tensor:
        x = net.one((x - net.color) / (net.color + 1))
        x = x * net.channel + x
        return net.head(net.two(net.channel - F.relu(x)).mean((2, 3)))

    net = Around(forward)
    _, operations = checked_int8(net, tmp_path)
    made = [
        each for each in operations if isinstance(each, Convolution) and each.weight.shape[1:] == (1, 1, 1)
    ]
    factors = [each.weight.reshape(-1) * each.weight_scales.astype(np.float64) for each in made]
    wanted = [1 / (net.color + 1).flatten(), net.channel.flatten(), -torch.ones(6)]
    for got, expected in zip(factors, wanted, strict=True):
        np.testing.assert_allclose(got, expected.detach().numpy(), rtol=1e-6)


def test_a_hard_sigmoid_behind_a_layer_is_its_limits(tmp_path: Path) -> None:
    """A gate, as MobileNetV3 has it, of a layer without a bias; it stays where its input has other users."""

    def forward(net: Around, x: Tensor) -> Tensor:
        x = F.relu(net.one(x))
        x = x * F.hardsigmoid(3 * net.channel * net.two(x.mean((2, 3), keepdim=True)))
        y = net.two(x)
        return net.head((y + F.hardsigmoid(y)).mean((2, 3)))

    file, _ = checked_int8(Around(forward), tmp_path)
    kinds = [node.op_type for node in file.graph.node]
    assert kinds.count("HardSigmoid") == 1 and "Clip" not in kinds


def test_what_takes_the_image_is_in_integers(tmp_path: Path) -> None:
    def forward(net: Around, x: Tensor) -> Tensor:
        x = F.relu(net.two(net.one(F.avg_pool2d(x.clamp(min=-1) * 2 - 1, 2))))
        return net.head(x.mean((2, 3)))

    checked_int8(Around(forward), tmp_path)


def test_as_it_is_before_a_reshape_and_beside_a_layer(tmp_path: Path) -> None:
    """The image is quantized once; twice it is refused."""

    def forward(net: Around, x: Tensor) -> Tensor:
        x = torch.cat((net.one(x), F.max_pool2d(x, 3, 1)), 1)
        return net.wide(F.hardswish(F.adaptive_avg_pool2d(F.tanh(x), 1)).flatten(1))

    file, _ = checked_int8(Around(forward), tmp_path)
    (first,) = (node for node in file.graph.node if "input" in node.input)
    again = onnx.helper.make_node("QuantizeLinear", list(first.input), ["again"], "again")
    nodes = [again, *file.graph.node]
    file.graph.ClearField("node")
    file.graph.node.extend(nodes)
    error = rf"^input must be quantized once, not to {first.output[0]} also$"
    with pytest.raises(QuantizationError, match=error):
        describe(file)


def test_a_layer_in_float_takes_the_image_as_it_is(tmp_path: Path) -> None:
    model = Around(lambda net, x: net.head(net.one(x).mean((2, 3)))).eval()
    export_onnx(model, IMAGES[:2], tmp_path / "float.onnx")
    params = Quantize(images=4, precision={"one": "float"})
    quantize(tmp_path / "float.onnx", IMAGES, params, tmp_path / "int8.onnx")
    file = onnx.load(tmp_path / "int8.onnx")
    assert "QuantizeLinear" not in {node.op_type for node in file.graph.node if "input" in node.input}
