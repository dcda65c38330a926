"""Writes the operations of an int8 file as a LiteRT file (.tflite): same integers, scales and zero points.

LiteRT's int8 is signed: q − 128, with the zero point moved alike. Feature maps are NHWC inside; the input is
float32 [1, C, H, W], the output float32 logits [1, classes], as of the ONNX file. How sums are rounded
is the runtime's own affair.

Average pools and concatenations have one scale in LiteRT: a change of scale is written beside them. What
depends on one element is computed in float between two changes of scale, where LiteRT has it, else looked up
in its table (`quantization.tables` chose scales with which every approximation is rounded alike).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from akgp.deployment.targets.int8_file import Int8File, Kind, activations
from akgp.deployment.targets.tflite_writer import SIGNED, TfliteWriter, inside
from akgp.quantization import QuantizationError
from akgp.quantization import operations as ops
from akgp.quantization.description import Description

FLOAT_FUNCTIONS = {
    "Sigmoid": "LOGISTIC",
    "Tanh": "TANH",
    "HardSwish": "HARD_SWISH",
    "Relu": "RELU",
    "Elu": "ELU",
}


def litert_content(network: Description, *, floating: bool = False, observed: bool = False) -> bytes:
    """The file.

    Args:
        floating: the same operations on float32 tensors, to compare its speed with; functions that LiteRT
            lacks are replaced by a ReLU.
        observed: after the logits, the values of all activations, float32 [1, C, H, W], are outputs too.

    Raises:
        QuantizationError: names an operation that cannot be written.
    """
    writer = TfliteWriter(floating)
    image = writer.graph.tensor("input", (1, *network.input.shape), "FLOAT32")
    writer.image(image, network.input)
    for operation in network.operations:
        WRITERS[type(operation)](writer, operation)
    outputs = [writer.floats(network.output, "logits")]
    if observed:
        outputs += [writer.floats(each, f"{each.name}_observed") for each in activations(network)]
    return writer.graph.content([image], outputs)


def _convolution(writer: TfliteWriter, operation: ops.Convolution) -> None:
    channels, each, *kernel = operation.weight.shape
    depthwise = operation.groups == operation.input.shape[0] and each == 1 and operation.groups > 1
    x, padding = writer.padded(operation, (kernel[0], kernel[1]))
    weight = np.moveaxis(operation.weight, 1, -1)  # OHWI
    if depthwise:
        weight = np.ascontiguousarray(np.moveaxis(weight, 0, -1).reshape(1, *kernel, channels))
    constants = writer.weights(operation, weight, 3 if depthwise else 0)
    values = {
        "padding": padding,
        "strideH": operation.strides[0],
        "strideW": operation.strides[1],
        "dilationHFactor": operation.dilations[0],
        "dilationWFactor": operation.dilations[1],
        **writer.rectified(operation),
    }
    kind, options = "CONV_2D", "Conv2DOptions"
    if depthwise:
        kind, options = "DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions"
        values["depthMultiplier"] = channels // operation.groups
    writer.graph.operator(kind, [x, *constants], writer.output(operation), options, **values)


def _gemm(writer: TfliteWriter, operation: ops.Gemm) -> None:
    constants = writer.weights(operation, operation.weight, 0)
    given = [writer[operation.input], *constants]
    options = writer.rectified(operation)
    writer.graph.operator(
        "FULLY_CONNECTED", given, writer.output(operation), "FullyConnectedOptions", **options
    )


def _binary(writer: TfliteWriter, operation: ops.Add | ops.Mul) -> None:
    kind, options = ("ADD", "AddOptions") if isinstance(operation, ops.Add) else ("MUL", "MulOptions")
    given = [writer[each] for each in operation.inputs]
    writer.graph.operator(kind, given, writer.output(operation), options, **writer.rectified(operation))


def _max_pool(writer: TfliteWriter, operation: ops.MaxPool) -> None:
    x, padding = writer.padded(operation, operation.kernel, lowest=True)
    writer.graph.operator(
        "MAX_POOL_2D", [x], writer.output(operation), "Pool2DOptions", **_window(operation, padding)
    )


def _average_pool(writer: TfliteWriter, operation: ops.AveragePool) -> None:
    x, padding = writer.padded(operation, operation.kernel, counts=operation.counts_padding)
    if x != writer[operation.input] and not operation.counts_padding:
        raise QuantizationError(
            f"{operation.name}: an average pool with this padding cannot be written for LiteRT, "
            "which counts padding only where it is a separate operation"
        )
    values = writer.dequantized(x, f"{operation.name}_in")
    result = writer.output(operation)
    pooled = result
    if not writer.floating:
        pooled = writer.graph.tensor(f"{operation.name}_out", inside(operation.output.shape), "FLOAT32")
    writer.graph.operator("AVERAGE_POOL_2D", [values], pooled, "Pool2DOptions", **_window(operation, padding))
    if not writer.floating:
        writer.graph.operator("QUANTIZE", [pooled], result)


def _window(operation: ops.MaxPool | ops.AveragePool, padding: int) -> dict[str, int]:
    return {
        "padding": padding,
        "strideH": operation.strides[0],
        "strideW": operation.strides[1],
        "filterHeight": operation.kernel[0],
        "filterWidth": operation.kernel[1],
    }


def _global_average_pool(writer: TfliteWriter, operation: ops.GlobalAveragePool) -> None:
    axes = writer.graph.constant(f"{operation.name}_axes", np.array([1, 2], np.int32))
    given = [writer[operation.input], axes]
    writer.graph.operator("MEAN", given, writer.output(operation), "ReducerOptions", keepDims=True)


def _concat(writer: TfliteWriter, operation: ops.Concat) -> None:
    parts = []
    for position, part in enumerate(operation.inputs):
        made = writer.new(operation.output, inside(part.shape), f"_part_{position}")
        parts.append(writer.rescaled(writer[part], made))
    axis = len(operation.output.shape)
    writer.graph.operator("CONCATENATION", parts, writer.output(operation), "ConcatenationOptions", axis=axis)


def _table(writer: TfliteWriter, operation: ops.Table) -> None:
    x, graph = writer[operation.input], writer.graph
    shape = inside(operation.output.shape)
    if operation.function == "Requantize":
        writer.rescaled(x, writer.output(operation))
    elif operation.function in FLOAT_FUNCTIONS:
        values, results = writer.dequantized(x, f"{operation.name}_in"), writer.output(operation)
        if not writer.floating:
            results = graph.tensor(f"{operation.name}_out", shape, "FLOAT32")
        graph.operator(FLOAT_FUNCTIONS[operation.function], [values], results)
        if not writer.floating:
            graph.operator("QUANTIZE", [results], writer[operation.output])
    else:
        _looked_up(writer, operation, shape)


def _looked_up(writer: TfliteWriter, operation: ops.Table, shape: tuple[int, ...]) -> None:
    if writer.floating:  # for its time alone
        writer.graph.operator("RELU", [writer[operation.input]], writer.output(operation))
        return
    graph, made = writer.graph, operation.output
    numbers = graph.operator(
        "CAST",
        [writer[operation.input]],
        graph.tensor(f"{operation.name}_numbers", shape, "INT32"),
        "CastOptions",
        inDataType=graph.schema.TensorType.INT8,
        outDataType=graph.schema.TensorType.INT32,
    )
    offset = graph.constant(f"{operation.name}_offset", np.array([SIGNED], np.int32))
    places = graph.operator(
        "ADD", [numbers, offset], graph.tensor(f"{operation.name}_places", shape, "INT32"), "AddOptions"
    )
    values = (operation.table.astype(np.int16) - SIGNED).astype(np.int8)
    table = graph.constant(f"{operation.name}_table", values, scale=made.scale, zero=int(made.zero) - SIGNED)
    graph.operator("GATHER", [table, places], writer.output(operation), "GatherOptions", axis=0)


def _reshape(writer: TfliteWriter, operation: ops.Reshape) -> None:
    x, tensor = operation.input, writer[operation.input]
    if x.shape == operation.output.shape:
        writer.reshaped(tensor, writer.output(operation))
        return
    if len(x.shape) == 3:
        tensor = writer.transposed(tensor, x, (0, 3, 1, 2))
    if len(operation.output.shape) == 3:
        made = writer.new(operation.output, (1, *operation.output.shape), "_reshaped")
        tensor = writer.reshaped(tensor, made)
        writer.tensors[operation.output.name] = writer.transposed(tensor, operation.output, (0, 2, 3, 1))
    else:
        writer.reshaped(tensor, writer.output(operation))


def _select(writer: TfliteWriter, operation: ops.Select) -> None:
    given, index, axis = writer[operation.input], operation.index, len(operation.output.shape)
    if (index < 0).any():  # a channel of zeros in front is what -1 selects
        amounts = np.array([[0, 0]] * axis + [[1, 0]], np.int32)
        pads = writer.graph.constant(f"{operation.name}_pads", amounts)
        channels, *others = operation.input.shape
        made = writer.new(operation.input, inside((channels + 1, *others)), f"_for_{operation.name}")
        given, index = writer.graph.operator("PAD", [given, pads], made, "PadOptions"), index + 1
    chosen = writer.graph.constant(f"{operation.name}_channels", index.astype(np.int32))
    writer.graph.operator("GATHER", [given, chosen], writer.output(operation), "GatherOptions", axis=axis)


WRITERS: Mapping[type, Callable[[TfliteWriter, Any], None]] = {
    ops.Convolution: _convolution,
    ops.Gemm: _gemm,
    ops.Add: _binary,
    ops.Mul: _binary,
    ops.MaxPool: _max_pool,
    ops.AveragePool: _average_pool,
    ops.GlobalAveragePool: _global_average_pool,
    ops.Concat: _concat,
    ops.Table: _table,
    ops.Reshape: _reshape,
    ops.Select: _select,
}


def write(source: Int8File, destination: Path, kind: Kind) -> None:
    content = litert_content(source.description, floating=kind == "float", observed=kind == "observed")
    destination.write_bytes(content)
