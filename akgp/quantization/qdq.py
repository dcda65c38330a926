"""Reads a QDQ graph: constants, the node that makes a tensor, the integers and scale that represent it.

Letters of shapes: O output channels, K weights of one output.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, MutableSequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from akgp.runtimes.onnxruntime import session

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

log = logging.getLogger(__name__)

OPSET, IR_VERSION = 20, 10
WEIGHTED = ("Conv", "Gemm", "MatMul")
"""Operations with a weight as their second input, for which onnxruntime has integer kernels."""


@dataclass(frozen=True)
class Dequantized:
    """Names of the initializers (or, of an activation, the integer tensor) behind a DequantizeLinear."""

    integers: str
    scale: str
    zero_point: str | None


class Qdq:
    """A QDQ graph (QuantizeLinear and DequantizeLinear around float operations), indexed by names."""

    def __init__(self, model: ModelProto) -> None:
        self.nodes: list[NodeProto] = list(model.graph.node)
        self.tensors: dict[str, TensorProto] = {tensor.name: tensor for tensor in model.graph.initializer}
        self.made_by = {name: node for node in self.nodes for name in node.output}

    def constant(self, name: str) -> NDArray[Any]:
        """The value of an initializer."""
        from onnx import numpy_helper

        return numpy_helper.to_array(self.tensors[name])

    def write(self, name: str, values: NDArray[Any]) -> None:
        """Replace an initializer's values; its shape and type stay."""
        from onnx import numpy_helper

        before = self.constant(name)
        values = np.ascontiguousarray(values.reshape(-1)[: before.size]).reshape(before.shape)
        assert values.dtype == before.dtype, name
        self.tensors[name].CopyFrom(numpy_helper.from_array(values, name))

    @cached_property
    def constants(self) -> dict[str, NDArray[Any]]:
        return {name: self.constant(name) for name in self.tensors}

    def dequantized(self, name: str) -> Dequantized | None:
        """What is dequantized to the tensor `name`; None if another operation makes it."""
        node = self.made_by.get(name)
        if node is None or node.op_type != "DequantizeLinear":
            return None
        return Dequantized(node.input[0], node.input[1], node.input[2] if len(node.input) > 2 else None)

    def weighted(self) -> list[NodeProto]:
        """The nodes with a quantized constant as their weight."""
        return [
            node
            for node in self.nodes
            if node.op_type in WEIGHTED
            and (weight := self.dequantized(node.input[1]))
            and weight.integers in self.tensors
        ]


def rows(node: NodeProto, weight: NDArray[Any]) -> NDArray[Any]:
    """A node's weight as [O, K], K in the order in which onnxruntime's kernels sum: kh, kw, c.

    The order decides which weights are neighbours, and so which pairs of products can saturate.
    """
    if node.op_type == "Conv":
        return np.moveaxis(weight, 1, -1).reshape(len(weight), -1)  # weight_OIHW
    return weight if attributes(node).get("transB") else weight.T


def unrows(node: NodeProto, weight_OK: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The inverse of `rows`, for a weight of `shape`."""
    if node.op_type == "Conv":
        return np.moveaxis(weight_OK.reshape(shape[0], *shape[2:], shape[1]), -1, 1)
    return weight_OK if attributes(node).get("transB") else weight_OK.T


def attributes(node: NodeProto) -> dict[str, Any]:
    """The attributes of a node by name."""
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def write_initializer(
    initializers: MutableSequence[TensorProto], name: str, values: NDArray[Any]
) -> NDArray[Any]:
    """Make or replace an initializer; its values."""
    from onnx import numpy_helper

    values = np.asarray(values, order="C")  # np.ascontiguousarray makes a number a vector
    known = next((each for each in initializers if each.name == name), None)
    tensor = numpy_helper.from_array(values, name)
    if known is None:
        initializers.append(tensor)
    else:
        known.CopyFrom(tensor)
    return values


def sizes_of(model: ModelProto) -> dict[str, list[int]]:
    """The sizes of a float graph's tensors, as far as they can be inferred; 0: open, as of the batch."""
    from onnx import shape_inference

    body = shape_inference.infer_shapes(model).graph
    return {
        each.name: [dim.dim_value for dim in each.type.tensor_type.shape.dim]
        for each in (*body.value_info, *body.input)
    }


def selected_channels(
    shape: tuple[int, ...], move: Callable[[NDArray[np.int64]], NDArray[np.int64]]
) -> NDArray[np.int64] | None:
    """Which channels of a tensor [1, C, ...] make up what values are moved to; None if not whole channels do.

    Args:
        shape: of an image, (C, ...).
        move: what is done to the tensor's values; it may put zeros between them.

    Returns:
        For each channel of the result that of the tensor, -1 for zeros.
    """
    positions = np.arange(1, 1 + np.prod(shape)).reshape(1, *shape)
    moved = move(positions)
    if moved.ndim != positions.ndim or moved.shape[2:] != positions.shape[2:] or not moved.size:
        return None
    index = (moved.reshape(moved.shape[1], -1)[:, 0] - 1) // int(np.prod(shape[1:]))
    with_zeros = np.concatenate([positions, np.zeros_like(positions[:, :1])], 1)  # -1 selects the last
    return index if np.array_equal(moved, with_zeros[:, index]) else None


def reference(node: NodeProto, inputs: tuple[Any, ...]) -> list[NDArray[Any]]:
    """A node's outputs by onnx's reference implementation; None: an optional input that is not given.

    By onnxruntime, what the reference lacks, such as transposed convolutions in groups.
    """
    import onnx
    from onnx.reference import ReferenceEvaluator

    names = [name for name, value in zip(node.input, inputs, strict=True) if value is not None]
    feed = {name: value for name, value in zip(node.input, inputs, strict=True) if value is not None}
    kinds = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(feed[name].dtype), None)
        for name in dict.fromkeys(names)
    ]
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in node.output]
    graph = onnx.helper.make_graph([node], "one node", kinds, outputs)
    opsets = [onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    try:
        # Its sigmoid computes both of two branches, and 1 / x is infinite at 0.
        with np.errstate(all="ignore"):
            return list(ReferenceEvaluator(model).run(None, feed))
    except Exception as error:  # of whatever it has not implemented
        log.debug("%s by onnxruntime: %s", node.op_type, error)
        return list(session(model.SerializeToString(), threads=1).run(None, feed))


def has_rows(node: NodeProto) -> bool:
    """Whether a layer's filters are the first axis of its weight."""
    return node.op_type == "Conv" or bool(attributes(node).get("transB"))


def bias_name(node: NodeProto) -> str:
    """The name of a layer's bias; one that has none is given it, the initializer is still to be written."""
    if len(node.input) < 3 or not node.input[2]:
        node.input[:] = [*node.input[:2], f"{node.input[1].removesuffix('.weight')}.bias"]
    return node.input[2]
