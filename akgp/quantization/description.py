"""What an int8 file computes, as a typed list of operations: the one thing that exports are written from.

The list is made from the simulator's steps, so it says what the oracle does. An operation that is not among
`operations`, or that stays in floating point, is refused by the name of its node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from akgp.quantization.checking import QuantizationError
from akgp.quantization.integer_kernels import Quantized
from akgp.quantization.operation_readers import (
    ELEMENTWISE,
    OPERATIONS,
    SELECTIONS,
    identity,
    is_single,
    refuse,
    table_of,
    values_of,
)
from akgp.quantization.operations import Activation, Operation
from akgp.quantization.qdq import WEIGHTED, Qdq, attributes
from akgp.quantization.simulator import MOVES, Step, simulate

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


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
    if first is None:
        raise QuantizationError(f"{given.name} is not quantized: all stays in floating point")
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
            return identity(self, step) if same else table_of(self, "Requantize", step)
        inputs = [value for value in step.inputs if value is not None]
        if step.node.op_type in ELEMENTWISE and [is_single(value) for value in inputs].count(False) == 1:
            return table_of(self, step.node.op_type, step)
        known = step.node.op_type in OPERATIONS and (
            len(step.node.output) == 1 or step.node.op_type in SELECTIONS
        )
        values = inputs[: values_of(step.node)]
        if not known or not all(isinstance(value, Quantized) for value in values):
            refuse(step.node)
        constants = [value for value in values if getattr(value, "name", "") in self.graph.tensors]
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
        """The layer with a float weight that an operation, such as a ReLU, belongs to; else the operation.

        Not one that only moves what another gave.
        """
        while node.op_type in MOVES and node.input[0] in self.graph.made_by:
            node = self.graph.made_by[node.input[0]]
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
