"""Parts of a quantized graph that are timed alone: a layer with all that follows it up to the next one.

Also sums and products of several activations, likewise with what follows. Each part is a graph of its own
with integers as its input, in the form in which a runtime finds its integer kernels.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from akgp.quantization.channels import Channels, channels, layer_of
from akgp.quantization.qdq import Qdq, attributes
from akgp.quantization.resizing import resized

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, ValueInfoProto

NCHW_TO_NHWC, NHWC_TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)


@dataclass(frozen=True)
class Edge:
    """An activation that enters or leaves a part: ONNX's element type, and its dense shape for one image."""

    name: str
    kind: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Size:
    """Channels that enter a part, and filters of its layer; as many where they are the same channels."""

    entering: int
    filters: int


@dataclass(frozen=True)
class KernelGraph:
    """A part of a graph.

    Attributes:
        name: of its layer; of the node that it begins with if that is no layer.
        inputs: activations that enter it; the first is what it is run with.
        outputs: those that leave it.
        part: its nodes and constants, without inputs and outputs.
        channels: of its own activations, as functions of those that enter and of its layer's filters.
    """

    name: str
    inputs: tuple[Edge, ...]
    outputs: tuple[Edge, ...]
    part: ModelProto
    channels: Channels

    @property
    def dense(self) -> Size:
        entering = self.inputs[0].shape[1]
        return Size(entering, self.channels.dense.get(self.name, entering))

    @property
    def has_filters(self) -> bool:
        """Whether its filters are chosen apart from its input's channels."""
        return self.name in self.channels.dense

    def at(self, size: Size) -> ModelProto:
        """The graph of this size, to be run with one image, whose channels come last.

        Integer kernels compute so: between them, in a whole network, nothing is rearranged.
        """
        from onnx import helper, numpy_helper

        widths = self._widths(size)
        made = resized(self.part, self.channels, widths)
        # Constants but for the first: a runtime's networks are run with one input.
        for edge in self.inputs[1:]:
            zeros = np.zeros(self._shape(edge, widths), helper.tensor_dtype_to_np_dtype(edge.kind))
            made.graph.initializer.append(numpy_helper.from_array(zeros, edge.name))
        first = self.inputs[0]
        name, shape = _channels_last(first.name, self._shape(first, widths))
        if name != first.name:
            made.graph.node.insert(0, helper.make_node("Transpose", [name], [first.name], perm=NHWC_TO_NCHW))
        made.graph.input.append(helper.make_tensor_value_info(name, first.kind, shape))
        for edge in self.outputs:
            name, shape = _channels_last(edge.name, self._shape(edge, widths))
            if name != edge.name:
                made.graph.node.append(helper.make_node("Transpose", [edge.name], [name], perm=NCHW_TO_NHWC))
            made.graph.output.append(helper.make_tensor_value_info(name, edge.kind, shape))
        return made

    def signature(self, size: Size) -> str:
        """All that its time depends on, as text: shapes, operations, their attributes."""
        widths = self._widths(size)
        shapes = (
            "+".join("x".join(map(str, self._shape(edge, widths))) for edge in edges)
            for edges in (self.inputs, self.outputs)
        )
        return f"{' -> '.join(shapes)}: {'; '.join(map(_step, self.part.graph.node))}"

    def _widths(self, size: Size) -> dict[str, int]:
        share = size.entering / self.dense.entering
        entering = {edge.name: round(edge.shape[1] * share) for edge in self.inputs}
        return entering | ({self.name: size.filters} if self.has_filters else {})

    def _shape(self, edge: Edge, widths: Mapping[str, int]) -> tuple[int, ...]:
        batch, size, *pixels = edge.shape
        return (
            batch,
            size * self.channels.count(edge.name, widths) // self.channels.count(edge.name),
            *pixels,
        )


def kernel_graphs(model: ModelProto) -> list[KernelGraph]:
    """The parts of a graph, in its order; the quantization of the image is none.

    Raises:
        QuantizationError: see `channels`.
    """
    graph = Qdq(model)
    members: dict[str, list[NodeProto]] = {}
    owner = {model.graph.input[0].name: ""}
    for node in graph.nodes:
        owners = {owner[name] for name in node.input if name in owner}
        if not owners:
            continue  # it dequantizes a constant
        layer = layer_of(node, graph)
        if layer is None:
            key = owners.pop() if len(owners) == 1 else node.output[0]
        else:
            key = layer if layer not in members else f"{layer} ({node.output[0]})"
        owner |= dict.fromkeys(node.output, key)
        members.setdefault(key, []).append(node)
    members.pop("", None)
    edges = _edges(model)
    parts = (_part(name, nodes, graph, model, edges) for name, nodes in members.items())
    return [part for part in parts if part is not None]


def _part(
    name: str, nodes: list[NodeProto], graph: Qdq, model: ModelProto, edges: Mapping[str, Edge]
) -> KernelGraph | None:
    """The part that these nodes are; None where the shape of an activation at its edges is not known."""
    import onnx

    leaving = dict.fromkeys(_leaving(nodes, graph, model))
    nodes = [node for node in nodes if node.op_type != "DequantizeLinear" or _is_read(node, nodes, leaving)]
    here = {output for node in nodes for output in node.output}
    needed: dict[str, NodeProto] = {}
    entering: dict[str, None] = {}
    for name_in in (each for node in nodes for each in node.input if each and each not in here):
        behind = graph.made_by.get(name_in)
        if behind is not None and behind.op_type == "DequantizeLinear":
            needed[name_in], name_in = behind, behind.input[0]
        if name_in not in graph.tensors:
            entering[name_in] = None
    if not entering or not edges.keys() >= {*entering, *leaving}:
        return None
    part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    part.graph.name = name
    part.graph.node.extend([*needed.values(), *nodes])
    used = {each for node in part.graph.node for each in node.input}
    part.graph.initializer.extend(each for each in model.graph.initializer if each.name in used)
    inputs, outputs = ([edges[each] for each in names] for names in (entering, leaving))
    given = {edge.name: edge.shape[1] for edge in inputs}
    return KernelGraph(name, tuple(inputs), tuple(outputs), part, channels(part, given))


def _is_read(node: NodeProto, nodes: list[NodeProto], leaving: Container[str]) -> bool:
    return node.output[0] in leaving or any(node.output[0] in each.input for each in nodes)


def _leaving(nodes: list[NodeProto], graph: Qdq, model: ModelProto) -> Iterator[str]:
    """Results that other parts read, or the network's: the integers where these are dequantized."""
    here = {output for node in nodes for output in node.output}
    mine = {id(node) for node in nodes}
    results = {each.name for each in model.graph.output}
    for output in here:
        readers = [each for each in graph.nodes if output in each.input]
        if output in results or any(id(each) not in mine for each in readers):
            behind = graph.dequantized(output)
            yield behind.integers if behind and behind.integers in here else output


def _edges(model: ModelProto) -> dict[str, Edge]:
    """All activations whose shapes are known, for one image."""
    import onnx

    one = onnx.ModelProto()
    one.CopyFrom(model)
    one.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    for each in one.graph.output:
        each.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(one).graph
    every = map(_edge, (*inferred.input, *inferred.value_info, *inferred.output))
    return {edge.name: edge for edge in every if len(edge.shape) > 1 and all(edge.shape)}


def _edge(value: ValueInfoProto) -> Edge:
    given = value.type.tensor_type
    return Edge(value.name, given.elem_type, tuple(dim.dim_value for dim in given.shape.dim))


def _step(node: NodeProto) -> str:
    # The groups of a depthwise convolution are its channels, which the shapes say.
    given = {key: value for key, value in attributes(node).items() if key not in ("auto_pad", "axis")}
    if "group" in given:
        given["group"] = given["group"] > 1
    return f"{node.op_type}{given or ''}"


def _channels_last(name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """Another name for an activation that is rearranged, and its shape then; others stay."""
    if len(shape) != 4:
        return name, shape
    return f"{name}_nhwc", tuple(shape[axis] for axis in NCHW_TO_NHWC)
