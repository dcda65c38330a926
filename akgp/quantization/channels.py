"""How many channels the activations of a quantized graph have, as a function of its layers' filters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from akgp.quantization.checking import QuantizationError
from akgp.quantization.operation_readers import ELEMENTWISE, name_of
from akgp.quantization.qdq import WEIGHTED, Qdq, attributes, has_rows

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

PASSING = ELEMENTWISE | {
    "AveragePool", "DequantizeLinear", "Flatten", "GlobalAveragePool", "Identity", "MaxPool",
    "QuantizeLinear", "Reshape", "Softmax", "Squeeze", "Unsqueeze",
}  # fmt: skip
"""Operations whose result has the channels of their first input, or a multiple of them, flattened."""
SUFFIX = "_quantized"
Terms = Counter[str]
"""A number of channels: how often each layer's filters are among them."""


@dataclass(frozen=True)
class Channels:
    """The channels of a graph's activations.

    Attributes:
        dense: filters of each layer, and the channels of the graph's input under its name.
        terms: for each activation, which of these are its channels.
    """

    dense: Mapping[str, int]
    terms: Mapping[str, Terms]

    def count(self, activation: str, widths: Mapping[str, int] | None = None) -> int:
        """Channels if layers have these widths; those that are not named are dense."""
        widths = widths or {}
        return sum(
            times * widths.get(layer, self.dense[layer]) for layer, times in self.terms[activation].items()
        )


def channels(model: ModelProto, given: Mapping[str, int]) -> Channels:
    """The channels of all activations of a QDQ graph, as `quantize` writes it, or of a part of one.

    Args:
        given: channels of the activations that enter it, and no others: of the image, for a whole graph.

    Raises:
        QuantizationError: names an operation of which it is not known what channels it has.
    """
    graph, dense = Qdq(model), dict(given)
    terms = {name: Terms([name]) for name in given}
    for node in graph.nodes:
        inputs = [terms[name] for name in node.input if name in terms]
        if not inputs:
            continue  # it dequantizes a constant
        made = inputs[0]
        if (layer := layer_of(node, graph)) is not None:
            filters, columns = weight_shape(node, graph)
            before = sum(times * dense[each] for each, times in made.items())
            if is_depthwise(node, columns, before):
                made = Terms({each: times * (filters // before) for each, times in made.items()})
            else:
                dense[layer], made = filters, Terms([layer])
        elif node.op_type == "Concat":
            made = sum(inputs, Terms())
        elif node.op_type not in PASSING:
            raise QuantizationError(
                f"{name_of(node)}: how many channels {node.op_type} leaves of a narrower network is not known"
            )
        terms |= dict.fromkeys(node.output, made)
    return Channels(dense, terms)


def layer_of(node: NodeProto, graph: Qdq) -> str | None:
    """The layer that a node with a constant weight is, by the weight's name; None for other nodes."""
    if node.op_type not in WEIGHTED:
        return None
    weight = weight_name(node, graph)
    return weight.removesuffix(SUFFIX).removesuffix(".weight") if weight in graph.tensors else None


def weight_name(node: NodeProto, graph: Qdq) -> str:
    behind = graph.dequantized(node.input[1])
    return behind.integers if behind else node.input[1]


def weight_shape(node: NodeProto, graph: Qdq) -> tuple[int, int]:
    """Filters, and the columns of each."""
    first, second, *_ = graph.tensors[weight_name(node, graph)].dims
    return (first, second) if has_rows(node) else (second, first)


def is_depthwise(node: NodeProto, columns: int, channels_in: int) -> bool:
    """Whether every channel has filters of its own."""
    return columns == 1 and 1 < attributes(node).get("group", 1) == channels_in
