"""A simulator of the integer arithmetic that an int8 file states: the oracle for onnxruntime's kernels.

A QDQ file says dequantize, compute in floating point, quantize. onnxruntime fuses such a triple into an
integer kernel: sums of products in int32 (exact), one multiplication by a float32 factor, rounding to even.
Here the same is computed from the file alone, without saturation or overflow, and independently of the
instruction set. Where the file keeps an operation in floating point whose result depends on the order of
summation, `Simulation.floating` names it: the logits of such a file cannot be promised bit for bit.

Tensors are NCHW integers with a scale and a zero point. `Simulation.steps` are the operations on integers as
they were carried out; `description` makes its typed list from them, so that a file is read in one way.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from akgp.quantization.integer_kernels import KERNELS, Array, Quantized, clipped, max_pool
from akgp.quantization.qdq import attributes, reference
from akgp.quantization.tables import FUNCTIONS, is_clear, magnitudes, table

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


@dataclass(frozen=True)
class Pending:
    """A node on quantized inputs, computed once the scale of its output is known.

    An integer kernel is node and QuantizeLinear in one, so the node alone has no value yet.
    """

    node: NodeProto
    inputs: tuple[Any, ...]

    @property
    def fused(self) -> bool:
        """Whether onnxruntime has an integer kernel for it: none of whose first input has several scales."""
        quantized = all(isinstance(value, Quantized) for value in self.inputs if value is not None)
        return quantized and self.node.op_type in KERNELS and self.inputs[0].scale.size == 1


@dataclass(frozen=True)
class Step:
    """One operation whose result is quantized.

    Attributes:
        node: None: the value is only quantized, or quantized again by another scale.
        inputs: each a Quantized, a constant, a float tensor of the graph, or None if it is not given.
    """

    node: NodeProto | None
    inputs: tuple[Any, ...]
    output: Quantized


@dataclass
class Simulation:
    """The result: logits, the integers of every activation, the operations left in floating point.

    Attributes:
        integers: by the name of the QuantizeLinear's output.
        steps: in the order of the graph.
    """

    logits: Array
    integers: dict[str, Array]
    floating: Counter[str] = field(default_factory=Counter)
    steps: list[Step] = field(default_factory=list)


def simulate(model: ModelProto, images_NCHW: Array) -> Simulation:
    """Run the network of an int8 file on float32 images."""
    from onnx import numpy_helper

    simulation = Simulation(np.empty(0), {})
    values: dict[str, Any] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    values[model.graph.input[0].name] = images_NCHW
    for node in model.graph.node:
        inputs: tuple[Any, ...] = tuple(values[name] if name else None for name in node.input)
        if node.op_type == "QuantizeLinear":
            zero = _zero(inputs, np.uint8)
            q = quantized(inputs[0], inputs[1], zero, simulation.floating)
            values[node.output[0]] = simulation.integers[node.output[0]] = q
            simulation.steps.append(_step(inputs[0], Quantized(inputs[1], zero, q, node.output[0])))
        elif node.op_type == "DequantizeLinear":
            axis = attributes(node).get("axis", 1)
            zero = _zero(inputs, inputs[0].dtype)
            values[node.output[0]] = Quantized(inputs[1], zero, inputs[0], node.input[0], axis)
        elif node.op_type == "MaxPool" and isinstance(inputs[0], Quantized):
            values[node.output[0]] = max_pool(node, inputs[0])
            simulation.steps.append(Step(node, inputs, values[node.output[0]]))
        elif node.op_type in MOVES and isinstance(inputs[0], Quantized):
            others = (None if value is None else _floats(value, simulation.floating) for value in inputs[1:])
            moved = reference(node, (inputs[0].q, *others))
            for name, q in zip(node.output, moved, strict=True):
                values[name] = Quantized(inputs[0].scale, inputs[0].zero, q, name)
                simulation.steps.append(Step(node, inputs, values[name]))
        elif len(node.output) == 1 and any(isinstance(value, Quantized) for value in inputs):
            values[node.output[0]] = Pending(node, inputs)
        else:
            results = _float(node, inputs, simulation.floating)
            values.update(zip(node.output, results, strict=True))
    simulation.logits = _floats(values[model.graph.output[0].name], simulation.floating)
    return simulation


def _zero(inputs: tuple[Any, ...], kind: Any) -> Array:
    """The zero point of a quantizing node, which may be left out."""
    return inputs[2] if len(inputs) > 2 and inputs[2] is not None else np.zeros((), kind)


def _step(value: Any, output: Quantized) -> Step:
    if isinstance(value, Pending):
        return Step(value.node, value.inputs, output)
    return Step(None, (value,), output)


def quantized(value: Any, scale: Array, zero: Array, floating: Counter[str]) -> Array:
    """The integers of a tensor that is a float one, a quantized one or a pending operation's result.

    Args:
        scale, zero: of the result.
        floating: counts what depends on the order of summation or on an approximation.
    """
    # onnxruntime removes a pair that dequantizes and quantizes by the same scale.
    if isinstance(value, Quantized) and value.scale == scale and value.zero == zero:
        return value.q
    if isinstance(value, Pending) and value.fused:
        if value.node.op_type == "Add" and value.inputs[0].q.shape != value.inputs[1].q.shape:
            floating["Add of two shapes"] += 1  # how its kernels round depends on the memory layout
        steps = KERNELS[value.node.op_type](value.node, value.inputs, scale, zero)
    elif (
        isinstance(value, Pending)
        and value.node.op_type in FUNCTIONS
        and isinstance(value.inputs[0], Quantized)
    ):
        x = value.inputs[0]
        values = table(value.node, x.scale, x.zero)
        if not is_clear(values, magnitudes(value.node, x.scale, x.zero), scale, zero):
            floating[value.node.op_type] += 1
        steps = np.rint(values / float(scale))[x.q] + zero.astype(np.float64)
    else:
        steps = np.rint(_floats(value, floating) / scale) + zero.astype(np.float64)
    return clipped(steps, zero)


def _floats(value: Any, floating: Counter[str]) -> Array:
    if isinstance(value, Quantized):
        return value.floats()
    if isinstance(value, Pending):
        (result, *_) = _float(value.node, value.inputs, floating)
        return result
    return np.asarray(value)


def _float(node: NodeProto, inputs: tuple[Any, ...], floating: Counter[str]) -> list[Array]:
    """A node's outputs in float32, by onnx's reference implementation."""
    if node.op_type not in EXACT:
        floating[node.op_type] += 1
    return reference(node, tuple(None if value is None else _floats(value, floating) for value in inputs))


MOVES = frozenset(
    {"MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split"}
    | {"Gather", "GatherND", "Identity"}
)
"""Operations that only move or select values: they give the same on integers as on floats."""
EXACT = MOVES | {
    "Relu",
    "Clip",
    "LeakyRelu",
    "Abs",
    "Neg",
    "Max",
    "Min",
}
EXACT |= {"Mul", "Add", "Sub", "Div", "Shape", "Cast", "Concat", "Constant", "ConstantOfShape", "Where"}
EXACT |= {"Pad", "Expand", "Tile", "ReduceMax", "ReduceMin", "GlobalMaxPool", "DepthToSpace", "SpaceToDepth"}
"""Float operations without sums over elements or approximations, which all processors round alike."""
