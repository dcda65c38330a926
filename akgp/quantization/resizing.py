"""A quantized graph with other numbers of filters: the first of each layer stay, further ones are zeros."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from akgp.quantization.channels import Channels, is_depthwise, layer_of, weight_name, weight_shape
from akgp.quantization.checking import QuantizationError
from akgp.quantization.operation_readers import name_of
from akgp.quantization.qdq import Qdq, attributes, has_rows

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


def resized(model: ModelProto, channels: Channels, widths: Mapping[str, int]) -> ModelProto:
    """The graph with so many filters in the layers named; others keep all of theirs.

    With fewer it is of use for its speed alone. Filters of zeros, which all that read them weight by zeros,
    change no other value.

    Args:
        model: a QDQ graph, or a part of it.
        channels: of the whole graph.
        widths: by the names of the layers, and of the graph's input.

    Raises:
        QuantizationError: it reshapes to fixed sizes.
    """
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(model)
    dense, graph = Qdq(model), Qdq(made)
    for node in graph.nodes:
        if (layer := layer_of(node, dense)) is not None:
            before = channels.count(node.input[0])
            _resize(node, dense, graph, widths.get(layer), before, channels.count(node.input[0], widths))
        elif node.op_type == "Reshape":
            share = channels.count(node.input[0], widths) / channels.count(node.input[0])
            if share != 1:
                _write(graph, node.input[1], _row(node, dense, share))
    return made


def _resize(
    node: NodeProto, dense: Qdq, graph: Qdq, width: int | None, before: int, channels_in: int
) -> None:
    """Cut the constants of a layer, or fill them up.

    Args:
        before: channels of its input in the dense graph; channels_in: in the resized one.
    """
    filters, columns = weight_shape(node, dense)
    groups = attributes(node).get("group", 1)
    if is_depthwise(node, columns, before):
        width = filters // before * channels_in
        for attribute in node.attribute:
            if attribute.name == "group":
                attribute.i = channels_in
    else:
        # Of a fully connected layer each channel may be several columns: its pixels.
        columns = columns * channels_in // before if node.op_type != "Conv" else channels_in // groups
    width = width or filters
    name = weight_name(node, dense)
    weight = dense.constant(name)
    shape = (width, columns) if has_rows(node) else (columns, width)
    _write(graph, name, _fitted(weight, (*shape, *weight.shape[2:]), "constant"))
    for each, role in constants_of(node, dense).items():
        values = dense.constant(each)
        if each != name and values.shape == (filters,):
            _write(graph, each, _fitted(values, (width,), "edge" if role == "scale" else "constant"))


def _fitted(
    values: NDArray[Any], shape: tuple[int, ...], further: Literal["constant", "edge"]
) -> NDArray[Any]:
    """The first entries of each axis; further ones are 0, or, since a scale must not be, as the last."""
    first = values[tuple(map(slice, shape))]
    return np.pad(first, [(0, size - known) for size, known in zip(shape, first.shape, strict=True)], further)


def constants_of(node: NodeProto, graph: Qdq) -> dict[str, str]:
    """The constants behind a layer's weight and bias: integers, their scales and zero points, or floats.

    By name; of each what it is: "values", "scale" or "zero point".
    """
    roles: dict[str | None, str] = {}
    for name in node.input[1:]:
        if behind := graph.dequantized(name):
            roles |= {behind.integers: "values", behind.scale: "scale", behind.zero_point: "zero point"}
        else:
            roles[name] = "values"
    return {name: role for name, role in roles.items() if name in graph.tensors}


def _row(node: NodeProto, dense: Qdq, share: float) -> NDArray[np.int64]:
    """The shape that a Reshape to a row for each image has where only `share` of the channels are left."""
    shape = dense.constant(node.input[1])
    if len(shape) != 2:
        raise QuantizationError(f"{name_of(node)}: a Reshape to {shape.tolist()} cannot be narrowed")
    batch, size = shape.tolist()
    return np.array([batch, round(size * share) if size > 0 else size], np.int64)


def _write(graph: Qdq, name: str, values: NDArray[Any]) -> None:
    from onnx import numpy_helper

    graph.tensors[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))
