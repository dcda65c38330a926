"""Puts operations that scale and shift channels by constants into the weights of a layer.

Batch normalizations that the exporter left, layer scales (`gamma * x`), a normalization of the image inside
the network (`(x - mean) / std`): each is factor · x + shift by channel. No runtime has an integer kernel for
that, but all have one for a depthwise 1×1 convolution, whose weights int8 holds exactly. A hard sigmoid is
max(0, min(1, x / 6 + 1 / 2)): a layer that gives x / 6 + 1 / 2, and limits, which int8 has anyway.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from akgp.quantization.qdq import attributes, bias_name, has_rows, sizes_of, write_initializer

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class ChannelAffine:
    """factor · x + shift of a tensor x [N, C, ...]; both are float64 [C]."""

    x: str
    factor: Vector
    shift: Vector


class _Graph:
    """A float graph whose nodes are rewritten; what is made goes to its initializers."""

    def __init__(self, model: ModelProto) -> None:
        from onnx import numpy_helper

        self.initializers, self.sizes = model.graph.initializer, sizes_of(model)
        self.constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
        self.uses = Counter(name for node in model.graph.node for name in node.input)
        self.users: dict[str, list[NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.input:
                self.users[name].append(node)
        self.uses.update(each.name for each in model.graph.output)

    def only_user(self, name: str) -> NodeProto | None:
        """The node that alone uses a tensor, once; None if it is a result of the graph."""
        return self.users[name][0] if self.uses[name] == 1 and self.users[name] else None

    def write(self, name: str, values: Vector) -> None:
        """Make or replace a float32 initializer."""
        self.constants[name] = write_initializer(self.initializers, name, values.astype(np.float32))


def fold_channel_affines(model: ModelProto) -> None:
    """Put, in place, what scales and shifts channels by constants into the weights of a layer.

    Of the layer before, where nothing else uses its result; of features [N, C], of the fully connected layer
    behind; of feature maps, else of a depthwise 1×1 convolution that is made. Scalars are left: they are
    functions of one element.
    """
    graph = _Graph(model)
    nodes = _folded_behind(graph, _folded_before(graph, list(model.graph.node)))
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)


def _folded_before(graph: _Graph, nodes: list[NodeProto]) -> list[NodeProto]:
    """The nodes that are left when layers have taken what is behind them; some have become convolutions."""
    left: list[NodeProto] = []
    made_by: dict[str, NodeProto] = {}
    for node in nodes:
        if node.op_type == "HardSigmoid":
            left.append(_limited(graph, node, made_by.get(node.input[0])))
            continue
        affine = _affine(graph, node)
        layer = made_by.get(affine.x) if affine else None
        if affine and layer and graph.only_user(affine.x) and _is_own_layer(graph, layer):
            _fold_into_outputs(graph, layer, affine)
            layer.output[0] = node.output[0]
            made_by[node.output[0]] = layer
            continue
        maps = affine and len(graph.sizes[affine.x]) > 2
        left.append(_convolution(graph, node, affine) if affine and maps else node)
        made_by |= dict.fromkeys(left[-1].output, left[-1])
    return left


def _limited(graph: _Graph, node: NodeProto, layer: NodeProto | None) -> NodeProto:
    """A hard sigmoid as limits, if a layer is before it, which takes its factor and gives to no other."""
    from onnx import helper

    if not (layer and graph.only_user(node.input[0]) and _is_own_layer(graph, layer)):
        return node
    given = {"alpha": 0.2, "beta": 0.5} | attributes(node)
    ones = np.ones(len(_weight(graph, layer)))
    _fold_into_outputs(
        graph, layer, ChannelAffine(node.input[0], ones * given["alpha"], ones * given["beta"])
    )
    limits = [f"{node.output[0]}_least", f"{node.output[0]}_most"]
    for name, value in zip(limits, (0, 1), strict=True):
        graph.write(name, np.array(value, np.float64))
    return helper.make_node("Clip", [node.input[0], *limits], node.output, node.name)


def _folded_behind(graph: _Graph, nodes: list[NodeProto]) -> list[NodeProto]:
    """The nodes that are left when fully connected layers have taken what is before them, the last first."""
    left: list[NodeProto] = []
    for node in reversed(nodes):
        affine, layer = _affine(graph, node), graph.only_user(node.output[0])
        if affine and layer and layer.op_type == "Gemm" and _is_own_layer(graph, layer):
            _fold_into_inputs(graph, layer, affine)
            layer.input[0] = affine.x
            graph.users[affine.x] = [layer if user is node else user for user in graph.users[affine.x]]
        else:
            left.insert(0, node)
    return left


def _affine(graph: _Graph, node: NodeProto) -> ChannelAffine | None:
    """What a node does to the channels of a tensor [N, C, ...]; None if it does anything else."""
    if node.op_type == "BatchNormalization":
        values = [graph.constants.get(name) for name in node.input[1:]]
        size = graph.sizes.get(node.input[0], [])
        if len(node.output) > 1 or len(size) < 2 or any(value is None for value in values):
            return None
        scale, shift, mean, variance = (np.asarray(value, np.float64) for value in values)
        factor = scale / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
        return ChannelAffine(node.input[0], factor, shift - mean * factor)
    if node.op_type not in ("Add", "Sub", "Mul", "Div"):
        return None
    swapped = node.input[0] in graph.constants
    x, other = reversed(node.input) if swapped else node.input
    value = _by_channel(graph.constants.get(other), graph.sizes.get(x, []))
    if value is None or (swapped and node.op_type == "Div"):
        return None
    zeros, ones = np.zeros_like(value), np.ones_like(value)
    if node.op_type == "Mul":
        return ChannelAffine(x, value, zeros)
    if node.op_type == "Div":
        return ChannelAffine(x, 1 / value, zeros) if value.all() else None
    if node.op_type == "Add":
        return ChannelAffine(x, ones, value)
    return ChannelAffine(x, -ones, value) if swapped else ChannelAffine(x, ones, -value)


def _by_channel(value: NDArray[np.float32] | None, size: list[int]) -> Vector | None:
    """A constant as [C], if it is one number a channel of a tensor of this size [N, C, ...]."""
    if value is None or len(size) < 2 or value.ndim > len(size) or not value.ndim:
        return None
    shape = [1] * (len(size) - value.ndim) + list(value.shape)
    if value.size == 1 or shape != [1, size[1], *[1] * (len(size) - 2)]:
        return None
    return value.reshape(-1).astype(np.float64)


def _is_own_layer(graph: _Graph, node: NodeProto) -> bool:
    """Whether it is a convolution or a fully connected layer whose weights no other node has."""
    given = attributes(node)
    plain = not given.get("transA") and given.get("alpha", 1.0) == given.get("beta", 1.0) == 1
    mine = [name for name in node.input[1:] if name]
    return (
        node.op_type in ("Conv", "Gemm")
        and plain
        and all(name in graph.constants and graph.uses[name] == 1 for name in mine)
    )


def _fold_into_outputs(graph: _Graph, node: NodeProto, affine: ChannelAffine) -> None:
    """Make a layer give factor · y + shift."""
    weight = _weight(graph, node)
    _write(graph, node, weight * affine.factor.reshape(-1, *[1] * (weight.ndim - 1)))
    _write_bias(graph, node, _bias(graph, node, len(weight)) * affine.factor + affine.shift)


def _fold_into_inputs(graph: _Graph, node: NodeProto, affine: ChannelAffine) -> None:
    """Make a fully connected layer take x where it took factor · x + shift."""
    weight_OK = _weight(graph, node)
    _write(graph, node, weight_OK * affine.factor)
    _write_bias(graph, node, _bias(graph, node, len(weight_OK)) + weight_OK @ affine.shift)


def _weight(graph: _Graph, node: NodeProto) -> Vector:
    """float64 [O, ...]."""
    weight = graph.constants[node.input[1]].astype(np.float64)
    return weight if has_rows(node) else weight.T


def _write(graph: _Graph, node: NodeProto, weight: Vector) -> None:
    graph.write(node.input[1], weight if has_rows(node) else weight.T)


def _bias(graph: _Graph, node: NodeProto, channels: int) -> Vector:
    given = node.input[2] if len(node.input) > 2 else ""
    return np.broadcast_to(graph.constants[given].reshape(-1), channels) if given else np.zeros(channels)


def _write_bias(graph: _Graph, node: NodeProto, bias: Vector) -> None:
    name = bias_name(node)
    graph.uses[name] = 1  # of a layer whose constants no other node has
    graph.write(name, bias)


def _convolution(graph: _Graph, node: NodeProto, affine: ChannelAffine) -> NodeProto:
    from onnx import helper

    weight, bias = f"{node.output[0]}_weight", f"{node.output[0]}_bias"
    rank, channels = len(graph.sizes[affine.x]), len(affine.factor)
    graph.write(weight, affine.factor.reshape(-1, *[1] * (rank - 1)))  # [C, 1, 1, 1]
    graph.write(bias, affine.shift)
    graph.uses.update((weight, bias))
    return helper.make_node(
        "Conv", [affine.x, weight, bias], node.output, node.name,
        group=channels, kernel_shape=[1] * (rank - 2),
    )  # fmt: skip
