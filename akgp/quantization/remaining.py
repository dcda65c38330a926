"""Rounds what onnxruntime's quantizer leaves in floating point between operations that can be in integers.

It rounds what layers, additions and products take and give. A pool, a reshape or a function of one element
that takes the image, or the result of another function, would stay in float between them.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from akgp.quantization.operation_readers import ELEMENTWISE
from akgp.quantization.qdq import Qdq, reference
from akgp.quantization.simulator import MOVES

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

TAKING = ELEMENTWISE | MOVES | {"AveragePool"}
"""Operations with a form in integers for which the quantizer does not round what they take."""


def quantize_remaining(model: ModelProto, image_extremes: tuple[float, float]) -> None:
    """Let TAKING's operations take integers where their inputs can be rounded to them, in place.

    The range of a function's result is that of its values at the 256 integers that it can be given.

    Args:
        model: a QDQ graph.
        image_extremes: the least and the largest value of the calibration images.
    """
    remaining = _Remaining(model)
    remaining.round(model.graph.input[0].name, np.array(image_extremes))
    for node in remaining.graph.nodes:
        remaining.visit(node)
    model.graph.ClearField("node")
    model.graph.node.extend(remaining.nodes)


class _Remaining:
    """Writes the nodes of a QDQ graph again, from its beginning.

    Attributes:
        values: by tensor, the 256 values that its elements can have.
    """

    def __init__(self, model: ModelProto) -> None:
        self.initializers, self.graph = model.graph.initializer, Qdq(model)
        self.nodes: list[NodeProto] = []
        self.values: dict[str, NDArray[np.floating]] = {}
        self.users: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.graph.nodes:
            for name in node.input:
                self.users[name].append(node)

    def visit(self, node: NodeProto) -> None:
        """Write a node, and round its result where that is needed."""
        if any(node is each for each in self.nodes):  # a QuantizeLinear, written where its input was made
            return
        self.nodes.append(node)
        known = [self.values[name] for name in node.input if name in self.values]
        if node.op_type == "DequantizeLinear" and node.input[0] not in self.graph.tensors:
            self.values[node.output[0]] = self._every(node)
        elif known and node.op_type in MOVES:
            self.values |= dict.fromkeys(node.output, known[0])
        elif known and node.op_type == "AveragePool":
            self.round(node.output[0], known[0])
        elif len(known) == 1 and node.op_type in ELEMENTWISE:
            given = [self.values.get(name, self.graph.constants.get(name)) for name in node.input]
            if all(each is not None and each.ndim == 0 for each in given if each is not known[0]):
                (values,) = reference(node, tuple(given))
                self.round(node.output[0], values)

    def _every(self, node: NodeProto) -> NDArray[np.floating]:
        scale, zero = (self.graph.constant(name) for name in node.input[1:])
        return (np.arange(256) - int(zero)).astype(np.float32) * scale

    def round(self, name: str, values: NDArray[np.floating]) -> None:
        """Let the operations of TAKING that use a tensor use integers.

        Args:
            values: all that its elements can be, or the least and the largest.
        """
        from onnx import helper

        takers = [node for node in self.users[name] if node.op_type in TAKING]
        if not takers or not np.isfinite(values).all():  # 1 / x at 0
            return
        rounded = next((node for node in self.users[name] if node.op_type == "QuantizeLinear"), None)
        quantizer = rounded or self._quantizer(name, values)
        inputs = [quantizer.output[0], *quantizer.input[1:]]
        dequantizer = helper.make_node("DequantizeLinear", inputs, [f"{name}_rounded"], f"{name}_rounded")
        for node in takers:
            node.input[:] = [dequantizer.output[0] if each == name else each for each in node.input]
        self.nodes += [quantizer, dequantizer]
        self.values[dequantizer.output[0]] = self._every(dequantizer)

    def _quantizer(self, name: str, values: NDArray[np.floating]) -> NodeProto:
        """Unsigned 8-bit steps over the range of the values and 0."""
        from onnx import helper, numpy_helper

        low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
        scale = np.array((high - low) / 255 or 1.0, np.float32)
        constants: dict[str, NDArray[Any]] = {
            "scale": scale,
            "zero_point": np.array(round(-low / float(scale)), np.uint8),
        }
        inputs = [name]
        for kind, value in constants.items():
            inputs.append(f"{name}_rounded_{kind}")
            tensor = self.initializers.add()
            tensor.CopyFrom(numpy_helper.from_array(value, inputs[-1]))
            self.graph.tensors[inputs[-1]] = tensor
        return helper.make_node("QuantizeLinear", inputs, [f"{name}_integers"], f"{name}_integers")
