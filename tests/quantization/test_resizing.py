"""Quantized graphs with fewer filters, and their parts, run: as large as those of a network that was cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from akgp.params import Quantize
from akgp.quantization import QuantizationError, export_onnx, quantize
from akgp.quantization.channels import channels
from akgp.quantization.kernel_graphs import Size, kernel_graphs
from akgp.quantization.resizing import resized
from akgp.runtimes.onnxruntime import session


class Parts(nn.Module):
    """A residual sum, a depthwise and a grouped layer, a gate, a concatenation, a flattened head."""

    def __init__(self, stem: int = 16, inner: int = 24, side: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.inner = nn.Conv2d(3, stem, 3, padding=1), nn.Conv2d(stem, inner, 1)
        self.deep, self.outer = nn.Conv2d(inner, inner, 3, padding=1, groups=inner), nn.Conv2d(inner, stem, 1)
        self.gate, self.side = nn.Conv2d(stem, stem, 1), nn.Conv2d(stem, side, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(stem, side, 3, stride=2, padding=1, groups=2)
        self.head = nn.Linear(2 * side * 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = (x + self.outer(self.deep(self.inner(x).relu()).relu())).relu()
        x = x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()
        return self.head(torch.cat([self.side(x), self.grouped(x)], 1).flatten(1))


def int8(model: nn.Module, folder: Path) -> onnx.ModelProto:
    noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    export_onnx(model, noise[:1], folder / "float.onnx")
    quantize(folder / "float.onnx", noise, Quantize(), folder / "int8.onnx")
    return onnx.load(str(folder / "int8.onnx"))


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    return int8(Parts(), tmp_path_factory.mktemp("dense"))


NARROW = {"stem": 8, "outer": 8, "inner": 16, "gate": 8, "side": 6, "grouped": 6}


def test_a_narrow_graph_has_the_shapes_of_a_network_that_is_so_narrow(
    dense: onnx.ModelProto, tmp_path: Path
) -> None:
    made = resized(dense, channels(dense, {"input": 3}), NARROW)
    really = int8(Parts(stem=8, inner=16, side=6), tmp_path)
    shapes, expected = (
        {each.name: list(each.dims) for each in graph.graph.initializer if "weight" in each.name or each.dims}
        for graph in (made, really)
    )
    assert shapes == expected
    running = session(made.SerializeToString(), threads=1)
    assert running.run(None, {"input": np.zeros((3, 3, 8, 8), np.float32)})[0].shape == (3, 5)
    onnx.checker.check_model(made)


def test_with_all_of_its_filters_it_computes_what_it_did(dense: onnx.ModelProto) -> None:
    images = np.random.default_rng(0).standard_normal((2, 3, 8, 8), dtype=np.float32)
    made = resized(dense, channels(dense, {"input": 3}), {})
    one, other = (
        session(graph.SerializeToString(), threads=1).run(None, {"input": images})[0]
        for graph in (made, dense)
    )
    assert np.array_equal(one, other)


def test_the_parts_are_the_layers_and_what_joins_them(dense: onnx.ModelProto) -> None:
    parts = kernel_graphs(dense)
    layers = [part.name for part in parts if part.name in dict(Parts().named_modules())]
    assert layers == ["stem", "inner", "deep", "outer", "gate", "side", "grouped", "head"]
    joins = [part for part in parts if part.name not in layers]
    kinds = [{node.op_type for node in part.part.graph.node} & {"Add", "Mul", "Concat"} for part in joins]
    assert kinds == [{"Add"}, {"Mul"}, {"Concat"}]
    # Every operation but the image's quantization is in one part; what is dequantized may be read by several.
    counted = [node for part in parts for node in part.part.graph.node if node.op_type != "DequantizeLinear"]
    whole = [node for node in dense.graph.node if node.op_type != "DequantizeLinear"]
    assert len(counted) == len(whole) - 1


def test_every_part_runs_alone_at_every_size(dense: onnx.ModelProto) -> None:
    for part in kernel_graphs(dense):
        half = Size(part.dense.entering // 2, part.dense.filters // 2)
        for size in (part.dense, half) if part.name != "head" else (part.dense,):
            graph = part.at(size)
            running = session(graph.SerializeToString(), threads=1)
            (given,) = running.get_inputs()
            kind = np.uint8 if given.type == "tensor(uint8)" else np.float32
            outputs = running.run(None, {given.name: np.ones(given.shape, kind)})
            assert len(outputs) == len(part.outputs)
            assert str(size.entering) in part.signature(size).split(" -> ")[0].split("x")


def test_alike_parts_have_one_signature(dense: onnx.ModelProto) -> None:
    by_name = {part.name: part for part in kernel_graphs(dense)}
    inner, gate, outer = (by_name[name] for name in ("inner", "gate", "outer"))
    assert inner.signature(Size(8, 16)) != inner.signature(Size(16, 8))
    assert inner.signature(inner.dense) != gate.signature(gate.dense)
    assert not by_name["deep"].has_filters and outer.has_filters
    assert "[" not in inner.signature(inner.dense).split(":")[0]


def test_an_operation_whose_channels_are_not_known_is_named(dense: onnx.ModelProto) -> None:
    strange = onnx.ModelProto()
    strange.CopyFrom(dense)
    node = next(each for each in strange.graph.node if each.op_type == "Sigmoid")
    node.op_type = "CumSum"
    with pytest.raises(
        QuantizationError, match="how many channels CumSum leaves of a narrower network is not"
    ):
        channels(strange, {"input": 3})
