"""What an int8 file computes, as a typed list of operations: the one thing that exports are written from.

The list is made from the simulator's steps, so it says what the oracle does. An operation that is not among
`operations`, or that stays in floating point, is refused by the name of its node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from akgp.quantization import operations as ops
from akgp.quantization.checking import QuantizationError
from akgp.quantization.integer_kernels import Affine, Quantized, is_global
from akgp.quantization.layers import layer_of
from akgp.quantization.operations import Activation, Operation
from akgp.quantization.qdq import WEIGHTED, Qdq, attributes, reference, selected_channels
from akgp.quantization.simulator import Pending, Step, quantized, simulate
from akgp.quantization.tables import FUNCTIONS, function_name

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

ARITHMETIC = {"Abs", "Add", "Clip", "Div", "LeakyRelu", "Max", "Min", "Mul", "Neg", "Relu", "Sub"}
ELEMENTWISE = FUNCTIONS | ARITHMETIC
"""Operations that are a table if all of their inputs but one are single constants."""


@dataclass(frozen=True)
class Description:
    """The operations of a file, in an order in which they can be computed.

    Attributes:
        input: the image: uint8 [C, H, W]; q = clip(rint(x / scale) + zero) of a normalised value x.
        output: the logits: uint8 [classes].
    """

    input: Activation
    output: Activation
    operations: tuple[Operation, ...]


def describe(model: ModelProto) -> Description:
    """The operations of an int8 file for one image.

    Raises:
        QuantizationError: names the first node that computes something else, or an input that is no image
            of a fixed size.
    """
    if len(model.graph.input) != 1:
        names = ", ".join(each.name for each in model.graph.input)
        raise QuantizationError(f"it must have one input, the images, got {names}")
    (given,) = model.graph.input
    dims = [dim.dim_value for dim in given.type.tensor_type.shape.dim[1:]]
    if not all(dims):
        raise QuantizationError(f"the size of its images must be fixed, got {given.name} of {dims}, 0: open")
    # The steps are the same for every image.
    steps = simulate(model, np.zeros((1, *dims), np.float32)).steps
    reader = _Reader(Qdq(model))
    first, operations = None, []
    for step in steps:
        if step.node is None and not isinstance(step.inputs[0], Quantized):
            reader.require_image(step, given.name)
            if first is not None:
                raise QuantizationError(
                    f"{given.name} must be quantized once, not to {step.output.name} also"
                )
            first = reader.activation(step.output)
        else:
            operations.append(reader.operation(step))
    assert first is not None
    return Description(first, reader.logits(model.graph.output[0].name), tuple(operations))


class _Reader:
    """Makes operations of steps; `tensors` are the activations so far, by the name of their integers."""

    def __init__(self, graph: Qdq) -> None:
        self.graph = graph
        self.tensors: dict[str, Activation] = {}

    def activation(self, value: Quantized) -> Activation:
        if value.q.dtype != np.uint8 or value.scale.size != 1 or value.q.shape[0] != 1:
            raise QuantizationError(
                f"{value.name}: activations must be unsigned 8-bit with one scale, of the shape [N, ...], "
                f"got {value.q.dtype} {list(value.q.shape)} with {value.scale.size} scale(s)"
            )
        scale, zero = value.scale.reshape(()), value.zero.astype(np.int32).reshape(())
        made = Activation(scale, zero, value.name, value.q.shape[1:])
        return self.tensors.setdefault(value.name, made)

    def operation(self, step: Step) -> Operation:
        if step.node is None:
            (x,) = step.inputs
            same = x.scale == step.output.scale and x.zero == step.output.zero
            return _identity(self, step) if same else _table(self, "Requantize", step)
        inputs = [value for value in step.inputs if value is not None]
        if step.node.op_type in ELEMENTWISE and [_is_single(value) for value in inputs].count(False) == 1:
            return _table(self, step.node.op_type, step)
        known = step.node.op_type in OPERATIONS and (
            len(step.node.output) == 1 or step.node.op_type in SELECTIONS
        )
        if not known or not all(isinstance(value, Quantized) for value in inputs[: _values(step.node)]):
            refuse(step.node)
        constants = [value for value in inputs if getattr(value, "name", "") in self.graph.tensors]
        if constants and step.node.op_type not in WEIGHTED:
            refuse(step.node, "of a constant tensor")
        if attributes(step.node).get("auto_pad", b"NOTSET") != b"NOTSET":
            refuse(step.node, "with auto_pad")
        return OPERATIONS[step.node.op_type](self, step.node, step)

    def require_image(self, step: Step, image: str) -> None:
        """A float tensor that is quantized must be the graph's input."""
        source = self.graph.made_by[step.output.name].input[0]
        if source != image:
            refuse(self._layer_in_float(self.graph.made_by[source]), "in floating point")

    def _layer_in_float(self, node: NodeProto) -> NodeProto:
        """The layer with a float weight that an operation, such as a ReLU, belongs to; else the operation."""
        behind: NodeProto | None = node
        while behind is not None and behind.op_type != "DequantizeLinear":
            if behind.op_type in WEIGHTED and behind.input[1] in self.graph.tensors:
                return behind
            behind = self.graph.made_by.get(behind.input[0]) if behind.input else None
        return node

    def logits(self, name: str) -> Activation:
        """The integers of the graph's output."""
        behind = self.graph.dequantized(name)
        if (behind.integers if behind else name) not in self.tensors:
            refuse(self.graph.made_by[name], "in floating point")
        return self.tensors[behind.integers if behind else name]


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


def _values(node: NodeProto) -> int:
    """How many inputs are values: the rest of a Reshape's are shapes, of a Slice's places."""
    return 1 if node.op_type in (*RESHAPES, *SELECTIONS) else len(node.input)


def _is_single(value: Any) -> bool:
    """Whether an input is one constant number. An activation has a batch and elements."""
    return (value.q.ndim if isinstance(value, Quantized) else np.ndim(value)) == 0


def _table(reader: _Reader, name: str, step: Step) -> ops.Table:
    """The results of all 256 integers, by the simulator itself."""
    (x,) = [value for value in step.inputs if isinstance(value, Quantized) and not _is_single(value)]
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


def _weighted(reader: _Reader, node: NodeProto, step: Step, *, rows: bool) -> dict[str, Any]:
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


def _convolution(reader: _Reader, node: NodeProto, step: Step) -> Operation:
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


def _gemm(reader: _Reader, node: NodeProto, step: Step) -> Operation:
    given = attributes(node)
    plain = not given.get("transA") and given.get("alpha", 1.0) == given.get("beta", 1.0) == 1
    if not plain or step.inputs[0].q.ndim != 2:
        refuse(node, "of a transposed input, with alpha or beta, or of more than two dimensions")
    return ops.Gemm(**_weighted(reader, node, step, rows=bool(given.get("transB"))))


def _add(reader: _Reader, node: NodeProto, step: Step) -> Operation:
    a, b = (reader.activation(value) for value in step.inputs)
    if a.shape != b.shape:
        refuse(node, "of two shapes")
    return ops.Add(name_of(node), reader.activation(step.output), (a, b))


def _mul(reader: _Reader, node: NodeProto, step: Step) -> Operation:
    a, b = sorted((reader.activation(value) for value in step.inputs), key=lambda each: -np.prod(each.shape))
    if b.shape not in (a.shape, (a.shape[0], *[1] * (len(a.shape) - 1))):
        refuse(node, f"of the shapes {list(a.shape)} and {list(b.shape)}")
    return ops.Mul(name_of(node), reader.activation(step.output), (a, b))


def _window(reader: _Reader, node: NodeProto, step: Step) -> dict[str, Any]:
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


def _max_pool(reader: _Reader, node: NodeProto, step: Step) -> Operation:
    return ops.MaxPool(**_window(reader, node, step))


def _average_pool(reader: _Reader, node: NodeProto, step: Step) -> Operation:
    if is_global(node, step.inputs[0].q.shape):
        return _global_average_pool(reader, node, step)
    counts = bool(attributes(node).get("count_include_pad"))
    return ops.AveragePool(**_window(reader, node, step), counts_padding=counts)


def _global_average_pool(reader: _Reader, node: NodeProto, step: Step) -> Operation:
    x, output = reader.activation(step.inputs[0]), reader.activation(step.output)
    return ops.GlobalAveragePool(name_of(node), output, x)


def _concat(reader: _Reader, node: NodeProto, step: Step) -> Operation:
    axis = attributes(node)["axis"]
    if axis % step.output.q.ndim != 1:
        refuse(node, f"along axis {axis}")
    inputs = tuple(reader.activation(value) for value in step.inputs)
    tables = tuple(_rescaling(value, step.output) for value in step.inputs)
    return ops.Concat(name_of(node), reader.activation(step.output), inputs, tables)


def _rescaling(value: Quantized, output: Affine) -> NDArray[np.uint8]:
    return quantized(value.every(), output.scale, output.zero, Counter())


def _reshape(reader: _Reader, node: NodeProto, step: Step) -> Operation:
    return _identity(reader, step)


def _select(reader: _Reader, node: NodeProto, step: Step) -> Operation:
    x, *others = step.inputs
    position = list(node.output).index(step.output.name)
    index = selected_channels(
        x.q.shape[1:], lambda positions: reference(node, (positions, *others))[position]
    )
    if index is None:
        refuse(node, "of pixels")
    return ops.Select(_name(step), reader.activation(step.output), reader.activation(x), index)


def _identity(reader: _Reader, step: Step) -> ops.Reshape:
    output = reader.activation(step.output)
    return ops.Reshape(_name(step), output, reader.activation(step.inputs[0]))


def _name(step: Step) -> str:
    return name_of(step.node) if step.node is not None else step.output.name


RESHAPES = ("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
SELECTIONS = ("Gather", "Slice", "Split")
OPERATIONS: Mapping[str, Callable[[_Reader, NodeProto, Step], Operation]] = {
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
