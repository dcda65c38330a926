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

TWO = "two"
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
    nodes: list[NodeProto] = []
    halved: set[str] = set()
    for node in graph.nodes:
        if node.name in chosen:
            given, weight = node.input[:2]
            doubled = f"{given}_doubled_{node.name}"
            nodes.append(helper.make_node("Mul", [given, TWO], [doubled], doubled))
            node.input[0] = doubled
            if weight not in halved:  # several nodes may share it
                graph.write(weight, graph.constant(weight) / np.float32(2))
                halved.add(weight)
        nodes.append(node)
    if halved:
        model.graph.initializer.append(numpy_helper.from_array(np.array(2, np.float32), TWO))
        model.graph.ClearField("node")
        model.graph.node.extend(nodes)
