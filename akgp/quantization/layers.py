"""Layers of a graph by the names of the network's modules, as their weights are named; layers in float."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np

from akgp.params import Precision
from akgp.quantization.checking import QuantizationError
from akgp.quantization.qdq import WEIGHTED, Qdq

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

TWO = "akgp::two"
"""No name that a module or a parameter can have."""
PARAMETER = re.compile(r"(?P<layer>.+)\.(weight|bias)(_\w+)?$")
"""A layer's parameter, as export and quantizer name it: layer1.0.conv1.weight, ….weight_quantized, ….bias."""


def layer_of(node: NodeProto) -> str:
    """The module of a node, by the names of its weights; empty if it has none, or they are not named."""
    return next((match["layer"] for name in node.input if (match := PARAMETER.match(name))), "")


def layers(model: ModelProto) -> dict[str, list[NodeProto]]:
    """The nodes of a float graph with a constant weight, by layer; a weight can serve several nodes."""
    graph = Qdq(model)
    named: dict[str, list[NodeProto]] = {}
    for node in graph.nodes:
        if node.op_type in WEIGHTED and node.input[1] in graph.tensors:
            named.setdefault(node.input[1].removesuffix(".weight"), []).append(node)
    return named


def precisions(model: ModelProto, table: Mapping[str, Precision]) -> dict[str, Precision]:
    """The precision of the layers that `table` names, by name or by a pattern such as `features.0.*`.

    Of several patterns that fit a layer the last one counts.

    Raises:
        QuantizationError: names a pattern that no layer matches.
    """
    named = layers(model)
    found: dict[str, Precision] = {}
    for pattern, precision in table.items():
        fitting = [name for name in named if fnmatchcase(name, pattern)]
        if not fitting:
            raise QuantizationError(
                f"quantize.precision: {pattern!r} matches no layer; these are: {', '.join(named)}"
            )
        found |= dict.fromkeys(fitting, precision)
    return found


def nodes_behind(model: ModelProto, names: Iterable[str]) -> list[str]:
    """Names of the nodes that take nothing but the results of these, one behind the other: no layers.

    What follows a layer in float, such as a sigmoid and its product, would lose again what the layer keeps if
    it were rounded: an EfficientNet-B0 with all layers in float had 15.5 % instead of 42.1.

    Args:
        model: a float graph.
        names: of nodes.
    """
    graph, chosen = Qdq(model), set(names)
    floating = {name for node in graph.nodes if node.name in chosen for name in node.output}
    behind = []
    for node in graph.nodes:
        given = {name for name in node.input if name and name not in graph.tensors}
        if node.name not in chosen and node.op_type not in WEIGHTED and given and given <= floating:
            floating |= set(node.output)
            behind.append(node.name)
    return behind


def keep_in_float(model: ModelProto, names: Iterable[str]) -> None:
    """Make onnxruntime compute layers with float weights in float, in place.

    It quantizes float weights by itself, with scales of its own, where a layer's input is dequantized and its
    output quantized (1.32). Doubled inputs and halved weights give the same products, bit for bit, and are no
    such pattern.

    Args:
        model: a QDQ graph.
        names: of nodes.
    """
    from onnx import helper, numpy_helper

    graph, chosen = Qdq(model), set(names)
    halved = {  # of all nodes that share the weight
        node.input[1]
        for node in graph.nodes
        if node.name in chosen and graph.dequantized(node.input[0]) is not None
    }
    nodes: list[NodeProto] = []
    for node in graph.nodes:
        if node.name in chosen and node.input[1] in halved:
            doubled = f"{node.input[0]}_doubled_{node.name}"
            nodes.append(helper.make_node("Mul", [node.input[0], TWO], [doubled], doubled))
            node.input[0] = doubled
        nodes.append(node)
    for weight in halved:
        graph.write(weight, graph.constant(weight) / np.float32(2))
    if halved:
        model.graph.initializer.append(numpy_helper.from_array(np.array(2, np.float32), TWO))
        model.graph.ClearField("node")
        model.graph.node.extend(nodes)
