"""Tensors of a LiteRT file for the activations of an int8 network: layouts, scales, padding, weights.

LiteRT's int8 is signed: q − 128, with the zero point moved alike. Feature maps are NHWC.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from akgp.deployment.targets.tflite_graph import TfliteGraph
from akgp.quantization import operations as ops

SIGNED = 128
"""What is subtracted from an unsigned 8-bit integer to make it a signed one."""


class TfliteWriter:
    """The graph so far; `tensors`: the index of each activation, by its name."""

    def __init__(self, floating: bool) -> None:
        self.graph, self.floating = TfliteGraph(), floating
        self.tensors: dict[str, int] = {}

    def new(self, like: ops.Activation, shape: tuple[int, ...], suffix: str = "") -> int:
        """A tensor in the scale of an activation."""
        if self.floating:
            return self.graph.tensor(like.name + suffix, shape, "FLOAT32")
        return self.graph.tensor(
            like.name + suffix, shape, "INT8", scale=like.scale, zero=int(like.zero) - SIGNED
        )

    def output(self, operation: Any) -> int:
        """The tensor of the operation's output."""
        made: ops.Activation = operation.output
        self.tensors[made.name] = self.new(made, inside(made.shape))
        return self.tensors[made.name]

    def __getitem__(self, activation: ops.Activation) -> int:
        return self.tensors[activation.name]

    def image(self, image: int, activation: ops.Activation) -> None:
        steps = image
        if not self.floating:
            steps = self.new(activation, (1, *activation.shape), "_image")
            self.graph.operator("QUANTIZE", [image], steps)
        self.tensors[activation.name] = self.transposed(steps, activation, (0, 2, 3, 1))

    def transposed(self, tensor: int, like: ops.Activation, order: tuple[int, ...]) -> int:
        """A feature map in another order of its axes; a reshape where nothing moves."""
        before = self.graph.shape(tensor)
        after = tuple(before[axis] for axis in order)
        made = self.new(like, after, f"_{''.join(map(str, order))}")
        if [axis for axis in order if before[axis] > 1] == [axis for axis in range(4) if before[axis] > 1]:
            return self.reshaped(tensor, made)
        axes = self.graph.constant(f"{self.graph.graph.tensors[made].name}_axes", np.array(order, np.int32))
        return self.graph.operator("TRANSPOSE", [tensor, axes], made, "TransposeOptions")

    def reshaped(self, tensor: int, made: int) -> int:
        shape = np.array(self.graph.shape(made), np.int32)
        wanted = self.graph.constant(f"{self.graph.graph.tensors[made].name}_shape", shape)
        return self.graph.operator(
            "RESHAPE", [tensor, wanted], made, "ReshapeOptions", newShape=shape.tolist()
        )

    def rescaled(self, tensor: int, made: int) -> int:
        """The same values in the scale of `made`, by way of float32, which is rounded half to even."""
        if self.floating:
            return self.reshaped(tensor, made)
        between = self.dequantized(tensor, f"{self.graph.graph.tensors[made].name}_float")
        return self.graph.operator("QUANTIZE", [between], made)

    def dequantized(self, tensor: int, name: str) -> int:
        """The values of a tensor as float32."""
        if self.floating:
            return tensor
        made = self.graph.tensor(name, self.graph.shape(tensor), "FLOAT32")
        return self.graph.operator("DEQUANTIZE", [tensor], made)

    def floats(self, activation: ops.Activation, name: str) -> int:
        """The values of an activation as an output of the graph."""
        tensor = self[activation]
        if len(activation.shape) == 3:
            tensor = self.transposed(tensor, activation, (0, 3, 1, 2))
        made = self.graph.tensor(name, (1, *activation.shape), "FLOAT32")
        if self.floating:
            return self.reshaped(tensor, made)
        return self.graph.operator("DEQUANTIZE", [tensor], made)

    def padded(
        self, operation: Any, kernel: tuple[int, int], lowest: bool = False, counts: bool = False
    ) -> tuple[int, int]:
        """The input of a window, padded where needed, and the schema's padding of the operation itself.

        lowest: padded with the least integer instead of the zero point; counts: padding must be explicit.
        """
        x, pads, kinds = operation.input, operation.pads, self.graph.schema.Padding
        dilations = getattr(operation, "dilations", (1, 1))
        _, height, width = x.shape
        axes = list(
            zip(
                operation.output.shape[1:], operation.strides, kernel, dilations, (height, width), strict=True
            )
        )
        # How far the windows reach past the map, if the first one starts at its border.
        beyond = [
            (out - 1) * stride + (size - 1) * dilation + 1 - length
            for out, stride, size, dilation, length in axes
        ]
        if not any(pads) and max(beyond) <= 0:
            return self[x], kinds.VALID
        same = all(out == -(-length // stride) for out, stride, _, _, length in axes)
        if same and not counts and pads[:2] == tuple(max(each, 0) // 2 for each in beyond):
            return self[x], kinds.SAME
        # With ceil_mode the last windows go past the padding that is given.
        bottom, right = (max(each - begin, 0) for each, begin in zip(beyond, pads[:2], strict=True))
        widths = np.array([[0, 0], [pads[0], bottom], [pads[1], right], [0, 0]], np.int32)
        shape = (1, height + int(widths[1].sum()), width + int(widths[2].sum()), x.shape[0])
        made = self.new(x, shape, f"_padded_for_{operation.name}")
        given = [self[x], self.graph.constant(f"{operation.name}_pads", widths)]
        if not lowest:
            return self.graph.operator("PAD", given, made, "PadOptions"), kinds.VALID
        least = np.array([np.finfo(np.float32).min if self.floating else -SIGNED])
        kind = {} if self.floating else {"scale": x.scale, "zero": int(x.zero) - SIGNED}
        value = self.graph.constant(
            f"{operation.name}_lowest", least.astype(np.float32 if self.floating else np.int8), **kind
        )
        return self.graph.operator("PADV2", [*given, value], made, "PadV2Options"), kinds.VALID

    def weights(self, operation: Any, weight: NDArray[np.int8], axis: int) -> tuple[int, int]:
        """Weight and bias as constants; weight: in LiteRT's layout, its output channels along `axis`."""
        scales, bias_scales = operation.weight_scales, operation.input.scale * operation.weight_scales
        if self.floating:
            along = [-1 if each == axis else 1 for each in range(weight.ndim)]
            floats = weight.astype(np.float32) * scales.reshape(along)
            bias = operation.bias.astype(np.float32) * bias_scales
            return (
                self.graph.constant(f"{operation.name}_weight", floats),
                self.graph.constant(f"{operation.name}_bias", bias),
            )
        return (
            self.graph.constant(f"{operation.name}_weight", weight, scale=scales, axis=axis),
            self.graph.constant(f"{operation.name}_bias", operation.bias, scale=bias_scales),
        )

    def rectified(self, operation: Any) -> dict[str, int]:
        """Of a float twin the ReLU that unsigned integers from 0 imply, a field of options."""
        relu = self.floating and operation.output.zero == 0
        return {"fusedActivationFunction": self.graph.schema.ActivationFunctionType.RELU} if relu else {}


def inside(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an activation inside of the file: [1, H, W, C] or [1, K]."""
    return (1, *shape[1:], shape[0]) if len(shape) == 3 else (1, *shape)
