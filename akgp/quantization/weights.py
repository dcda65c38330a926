"""Requantizes weights and biases of a QDQ graph by scales with which no kernel can saturate or overflow.

Letters of shapes: O output channels, K weights of one output.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from akgp.quantization.qdq import Dequantized, Qdq, rows, unrows
from akgp.quantization.saturation import quantized, safe_scales

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

LARGEST_BIAS = 2**30
"""Largest quantized bias: half of int32, which leaves room for sums of K ≤ 33,000 products of 255 · 127."""


def make_safe(model: ModelProto, floating: ModelProto) -> None:
    """Quantize, in place, every int8 weight of a QDQ graph with safe scales, and the biases to match.

    Args:
        model: as onnxruntime's quantizer writes it.
        floating: the float graph that was quantized, with nodes of the same names: weights are rounded once.
    """
    graph, floats = Qdq(model), Qdq(floating)
    sources = {node.name: node for node in floats.nodes}
    layers: dict[str, list[_Layer]] = defaultdict(list)
    for node in graph.weighted():
        layer = _Layer(graph, node, [floats.constant(name) for name in sources[node.name].input[1:]])
        layers[layer.weight.integers].append(layer)
    for sharing in layers.values():  # a weight that several nodes use has one scale
        first = sharing[0]
        weight_OK = rows(first.node, first.floats[0])
        scales = reduce(np.maximum, [layer.bias_limit() for layer in sharing], safe_scales(weight_OK))
        if graph.constant(first.weight.scale).size == 1:  # one scale for all channels: the largest is safe
            scales = np.full_like(scales, scales.max())
        first.write_weight(quantized(weight_OK, scales), scales)
        for layer in sharing:
            layer.write_bias(scales)


@dataclass(frozen=True)
class _Layer:
    """A node with a quantized weight. floats: its float weight and, if it has one, its float bias."""

    graph: Qdq
    node: NodeProto
    floats: list[NDArray[np.float32]]

    @property
    def weight(self) -> Dequantized:
        weight = self.graph.dequantized(self.node.input[1])
        assert weight is not None
        return weight

    @property
    def bias(self) -> Dequantized | None:
        """None if there is none, or it stays in floating point."""
        bias = self.graph.dequantized(self.node.input[2]) if len(self.node.input) > 2 else None
        return bias if bias and bias.integers in self.graph.tensors else None

    @property
    def input_scale(self) -> NDArray[np.float32]:
        given = self.graph.dequantized(self.node.input[0])
        assert given is not None
        return self.graph.constant(given.scale)

    def bias_limit(self) -> NDArray[np.float32]:
        """Weight scales below which the bias would exceed LARGEST_BIAS, as it can beside tiny weights."""
        if self.bias is None:
            return np.zeros(1, np.float32)
        return (np.abs(self.floats[1]) / (self.input_scale * LARGEST_BIAS)).astype(np.float32)

    def write_weight(self, integers_OK: NDArray[np.int8], scales: NDArray[np.float32]) -> None:
        integers = unrows(self.node, integers_OK, self.floats[0].shape)
        self.graph.write(self.weight.integers, integers)
        self.graph.write(self.weight.scale, scales)

    def write_bias(self, scales: NDArray[np.float32]) -> None:
        if self.bias is None:
            return
        # Fixed by the integer kernels, which add the bias to the sums of products.
        bias_scales = self.input_scale * scales
        integers = np.rint(self.floats[1].astype(np.float64) / bias_scales)
        self.graph.write(self.bias.integers, integers.astype(np.int32))
        self.graph.write(self.bias.scale, bias_scales)
