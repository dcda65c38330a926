"""An int8 ONNX file as the source of exports: its graph, its operations, and twins of it to compare with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from akgp.quantization import QuantizationError, unaligned
from akgp.quantization.description import Description, describe
from akgp.quantization.operations import Activation
from akgp.quantization.qdq import Qdq, reference
from akgp.quantization.simulator import Simulation, simulate
from akgp.runtimes.onnx_file import read_onnx

Kind = Literal["int8", "float", "observed"]
"""The network itself; the same operations in float32, to compare its speed with; or the network with the
values of all activations as outputs after the logits, to compare its layers with the oracle's."""


@dataclass(frozen=True)
class Int8File:
    """A file that `akgp.quantization.quantize` wrote, whatever channels of zeros it has."""

    path: Path

    @cached_property
    def model(self) -> onnx.ModelProto:
        """Its graph, without channels of zeros that only onnxruntime gains by.

        Raises:
            GraphError: it is no ONNX file; QuantizationError: it has no quantized activations.
        """
        model = unaligned(read_onnx(self.path))
        if not any(node.op_type == "QuantizeLinear" for node in model.graph.node):
            raise QuantizationError(f"{self.path}: is no int8 file: it quantizes nothing")
        return model

    @cached_property
    def description(self) -> Description:
        """
        Raises:
            QuantizationError: names a node that cannot be exported.
        """
        try:
            return describe(self.model)
        except QuantizationError as error:
            raise QuantizationError(f"{self.path}: {error}") from error

    def checked(self) -> Int8File:
        """This file, whose graph has been read; raises as `model`."""
        _ = self.model
        return self

    def simulate(self, images_NCHW: NDArray[np.float32]) -> Simulation:
        """The oracle's result."""
        return simulate(self.model, images_NCHW)


def activations(network: Description) -> tuple[Activation, ...]:
    """All activations, in the order in which they are computed: the outputs of an `observed` file."""
    return (network.input, *(operation.output for operation in network.operations))


def observed_graph(model: onnx.ModelProto, network: Description) -> onnx.ModelProto:
    """The graph with all activations as outputs, dequantized."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    dequantizers = {
        node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"
    }
    for each in activations(network):
        # Values that were only moved are known by the name of the tensor itself. Identity: a tensor may be
        # wanted twice, and cannot be two outputs.
        name = f"{each.name}_observed"
        made.graph.node.append(helper.make_node("Identity", [dequantizers.get(each.name, each.name)], [name]))
        made.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return made


def float_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph without quantization: weights as floats, and the ReLU that unsigned integers from 0 imply."""
    graph = Qdq(model)
    nodes: list[onnx.NodeProto] = []
    initializers = []
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in graph.tensors:
            (values,) = reference(node, tuple(graph.constant(name) for name in node.input))
            initializers.append(numpy_helper.from_array(values, node.output[0]))
        elif node.op_type == "QuantizeLinear":
            zero = node.input[2] if len(node.input) > 2 else ""  # none: 0
            kind = "Identity" if zero and graph.constant(zero).any() else "Relu"
            nodes.append(helper.make_node(kind, node.input[:1], node.output))
        elif node.op_type == "DequantizeLinear":
            nodes.append(helper.make_node("Identity", node.input[:1], node.output))
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input}
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.graph.ClearField("node")
    made.graph.ClearField("initializer")
    made.graph.node.extend(nodes)
    kept = [each for each in model.graph.initializer if each.name in used]
    made.graph.initializer.extend([*kept, *initializers])
    return made
