"""Reads each operation of an int8 file from the simulator's step; what exports cannot compute is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from akgp.quantization import operations as ops
from akgp.quantization.channel_moves import channel_indices
from akgp.quantization.checking import QuantizationError
from akgp.quantization.integer_kernels import Affine, Quantized, is_global
from akgp.quantization.layers import layer_of
from akgp.quantization.operations import Activation, Operation
from akgp.quantization.qdq import Qdq, attributes
from akgp.quantization.simulator import Pending, Step, quantized
from akgp.quantization.tables import FUNCTIONS, function_name

if TYPE_CHECKING:
    from onnx import NodeProto

ARITHMETIC = {"Abs", "Add", "Clip", "Div", "LeakyRelu", "Max", "Min", "Mul", "Neg", "Relu", "Sub"}
ELEMENTWISE = FUNCTIONS | ARITHMETIC
"""Operations that are a table if all of their inputs but one are single constants."""


class Reader(Protocol):
    """What is known of the file, and its activations so far."""

    graph: Qdq

    def activation(self, value: Quantized) -> Activation:
        """Of the integers that a step gives or takes."""


def name_of(node: NodeProto) -> str:
    """A node's name, or that of its result if it has none."""
    return node.name or node.output[0]


def refuse(node: NodeProto, how: str = "") -> NoReturn:
    """Raise the error for a node that exports cannot compute."""
    known = ", ".join(sorted({*OPERATIONS, *ELEMENTWISE}))
    constant = node.input[1] if len(node.input) > 1 else ""  # of a layer in float: named as its module
    layer = f" ({constant.removesuffix('.weight')})" if constant.endswith(".weight") else ""
    raise QuantizationError(
        f"{name_of(node)}{layer}: {node.op_type}{f' {how}' if how else ''} cannot be exported, "
        f"only these operations on int8 can: {known}"
    )


def values_of(node: NodeProto) -> int:
    """How many inputs are values: the rest of a Reshape's are shapes, of a Slice's places."""
    return 1 if node.op_type in (*RESHAPES, *SELECTIONS) else len(node.input)


def is_single(value: Any) -> bool:
    """Whether an input is one constant number. An activation, quantized or not, has a batch and elements."""
    if isinstance(value, Pending):
        return False
    return (value.q.ndim if isinstance(value, Quantized) else np.ndim(value)) == 0


def table_of(reader: Reader, name: str, step: Step) -> ops.Table:
    """The results of all 256 integers, by the simulator itself."""
    (x,) = [value for value in step.inputs if isinstance(value, Quantized) and not is_single(value)]
    every = x.every()
    floating: Counter[str] = Counter()
    value: Any = every
    if step.node is not None:
        value = Pending(step.node, tuple(every if given is x else given for given in step.inputs))
    table = quantized(value, step.output.scale, step.output.zero, floating)
    # Two shapes: an activation and one number, added in float32 as all processors do.
    if set(floating) - {"Add of two shapes"} and step.node is not None:
        refuse(step.node, "with values that processors round differently")
    function = name if step.node is None else function_name(step.node)
    return ops.Table(_name(step), reader.activation(step.output), reader.activation(x), function, table)


def _weighted(reader: Reader, node: NodeProto, step: Step, *, rows: bool) -> dict[str, Any]:
    """The fields of an operation with weights. rows: whether output channels are the weight's first axis."""
    x, weight, *bias = step.inputs
    if weight.name not in reader.graph.tensors or weight.q.dtype != np.int8 or weight.zero.any():
        refuse(node, "of weights that are not constant, signed 8-bit and symmetric")
    values = weight.q if rows else weight.q.T
    channels, given = len(values), [each for each in bias if each is not None]
    return {
        "name": name_of(node),
        "output": reader.activation(step.output),
        "input": reader.activation(x),
        "weight": np.ascontiguousarray(values),
        "weight_scales": np.broadcast_to(weight.scale.reshape(-1), channels),
        "bias": given[0].q.reshape(-1) if given else np.zeros(channels, np.int32),
        "layer": layer_of(node),
    }


def _convolution(reader: Reader, node: NodeProto, step: Step) -> Operation:
    given = attributes(node)
    if step.inputs[0].q.ndim != 4:
        refuse(node, "that is not two-dimensional")
    return ops.Convolution(
        **_weighted(reader, node, step, rows=True),
        strides=tuple(given.get("strides", (1, 1))),
        pads=tuple(given.get("pads", (0, 0, 0, 0))),
        dilations=tuple(given.get("dilations", (1, 1))),
        groups=given.get("group", 1),
    )


def _gemm(reader: Reader, node: NodeProto, step: Step) -> Operation:
    given = attributes(node)
    plain = not given.get("transA") and given.get("alpha", 1.0) == given.get("beta", 1.0) == 1
    if not plain or step.inputs[0].q.ndim != 2:
        refuse(node, "of a transposed input, with alpha or beta, or of more than two dimensions")
    return ops.Gemm(**_weighted(reader, node, step, rows=bool(given.get("transB"))))


def _add(reader: Reader, node: NodeProto, step: Step) -> Operation:
    a, b = (reader.activation(value) for value in step.inputs)
    if a.shape != b.shape:
        refuse(node, "of two shapes")
    return ops.Add(name_of(node), reader.activation(step.output), (a, b))


def _mul(reader: Reader, node: NodeProto, step: Step) -> Operation:
    a, b = sorted((reader.activation(value) for value in step.inputs), key=lambda each: -np.prod(each.shape))
    if b.shape not in (a.shape, (a.shape[0], *[1] * (len(a.shape) - 1))):
        refuse(node, f"of the shapes {list(a.shape)} and {list(b.shape)}")
    return ops.Mul(name_of(node), reader.activation(step.output), (a, b))


def _window(reader: Reader, node: NodeProto, step: Step) -> dict[str, Any]:
    given = attributes(node)
    if step.inputs[0].q.ndim != 4 or set(given.get("dilations", [1])) != {1}:
        refuse(node, "that is dilated or not two-dimensional")
    return {
        "name": name_of(node),
        "output": reader.activation(step.output),
        "input": reader.activation(step.inputs[0]),
        "kernel": tuple(given["kernel_shape"]),
        "strides": tuple(given.get("strides", (1, 1))),
        "pads": tuple(given.get("pads", (0, 0, 0, 0))),
    }


def _max_pool(reader: Reader, node: NodeProto, step: Step) -> Operation:
    return ops.MaxPool(**_window(reader, node, step))


def _average_pool(reader: Reader, node: NodeProto, step: Step) -> Operation:
    if is_global(node, step.inputs[0].q.shape):
        return _global_average_pool(reader, node, step)
    counts = bool(attributes(node).get("count_include_pad"))
    return ops.AveragePool(**_window(reader, node, step), counts_padding=counts)


def _global_average_pool(reader: Reader, node: NodeProto, step: Step) -> Operation:
    x, output = reader.activation(step.inputs[0]), reader.activation(step.output)
    return ops.GlobalAveragePool(name_of(node), output, x)


def _concat(reader: Reader, node: NodeProto, step: Step) -> Operation:
    axis = attributes(node)["axis"]
    if axis % step.output.q.ndim != 1:
        refuse(node, f"along axis {axis}")
    inputs = tuple(reader.activation(value) for value in step.inputs)
    tables = tuple(_rescaling(value, step.output) for value in step.inputs)
    return ops.Concat(name_of(node), reader.activation(step.output), inputs, tables)


def _rescaling(value: Quantized, output: Affine) -> NDArray[np.uint8]:
    return quantized(value.every(), output.scale, output.zero, Counter())


def _reshape(reader: Reader, node: NodeProto, step: Step) -> Operation:
    return identity(reader, step)


def _select(reader: Reader, node: NodeProto, step: Step) -> Operation:
    x, *others = step.inputs
    constants = [each.floats() if isinstance(each, Quantized) else each for each in others]
    indices = channel_indices(node, x.q.shape[1:], constants)
    if indices is None:
        refuse(node, "of pixels")
    if (step.output.scale, step.output.zero) != (x.scale, x.zero):
        refuse(node, "to another scale")
    index = indices[list(node.output).index(step.output.name) if len(indices) > 1 else 0]
    return ops.Select(_name(step), reader.activation(step.output), reader.activation(x), index)


def identity(reader: Reader, step: Step) -> ops.Reshape:
    output = reader.activation(step.output)
    return ops.Reshape(_name(step), output, reader.activation(step.inputs[0]))


def _name(step: Step) -> str:
    return name_of(step.node) if step.node is not None else step.output.name


RESHAPES = ("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
SELECTIONS = ("Gather", "Pad", "Slice", "Split")
OPERATIONS: Mapping[str, Callable[[Reader, NodeProto, Step], Operation]] = {
    "Conv": _convolution,
    "Gemm": _gemm,
    "MatMul": _gemm,
    "Add": _add,
    "Mul": _mul,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average_pool,
    "Concat": _concat,
    **dict.fromkeys(RESHAPES, _reshape),
    **dict.fromkeys(SELECTIONS, _select),
}
