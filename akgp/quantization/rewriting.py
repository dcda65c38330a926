"""Replaces operations of a float graph by equivalent ones for which onnxruntime has integer kernels."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from akgp.quantization.qdq import attributes, sizes_of, write_initializer

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


def use_integer_operations(model: ModelProto) -> None:
    """Replace, in place, means over all pixels, every nth pixel and some pools.

    Every nth row or column is a pool of one pixel. Means become GlobalAveragePool: a mean in floating point
    depends on the order of summation, and so on the processor. Average pools that count their padding, and
    whose last windows reach past it (ceil_mode), are padded by an operation of its own and count no padding:
    onnxruntime's integer kernel divides by the whole window.
    """
    from onnx import numpy_helper

    sizes = sizes_of(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        size = sizes.get(node.input[0], []) if node.input else []
        rank = len(size)
        values = [numpy_helper.to_array(constants[name]) for name in node.input[1:] if name in constants]
        # Axes must be constants, and the input must have pixels: [N, C, ...].
        if _counts_padding_and_more(node) and size and all(size[2:]):
            nodes += _padded_pool(model, node, np.array(size[2:]))
        elif rank > 2 and _takes_every_nth(node, values, size):
            nodes.append(_skipping_pool(node, values, rank))
        elif rank < 3 or not values or len(values) != len(node.input) - 1:
            nodes.append(node)
        elif node.op_type == "ReduceMean" and {int(axis) % rank for axis in values[0]} == {*range(2, rank)}:
            nodes += _pooling(model, node)
        else:
            nodes.append(node)
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)


def restore_hard_swish(model: ModelProto) -> None:
    """Replace, in place, x · hardsigmoid(x) by HardSwish, which onnxruntime's preparation has taken apart.

    As one function of one tensor it is rounded once, and every runtime but onnxruntime has a kernel for it.
    """
    from onnx import helper

    body = model.graph
    uses = Counter(name for node in body.node for name in node.input)
    gates = {node.output[0]: node for node in body.node if _is_gate(node) and uses[node.output[0]] == 1}
    nodes: list[NodeProto] = []
    for node in body.node:
        gate = next((gates[name] for name in node.input if name in gates), None)
        if node.op_type == "Mul" and gate is not None and gate.input[0] in node.input:
            nodes.remove(gate)
            nodes.append(helper.make_node("HardSwish", gate.input, node.output, node.name))
        else:
            nodes.append(node)
    body.ClearField("node")
    body.node.extend(nodes)


def _is_gate(node: NodeProto) -> bool:
    """Whether it computes hardsigmoid(x) = max(0, min(1, x / 6 + 1 / 2))."""
    given = {"alpha": 0.2, "beta": 0.5} | attributes(node)
    return node.op_type == "HardSigmoid" and abs(given["alpha"] - 1 / 6) < 1e-6 and given["beta"] == 0.5


def _takes_every_nth(node: NodeProto, values: list[NDArray[Any]], size: list[int]) -> bool:
    """Whether it is a slice of pixels from the first to the last with a step."""
    if node.op_type != "Slice" or len(values) != 4:
        return False
    starts, ends, axes, steps = (value.reshape(-1) for value in values)
    whole = all(end >= size[axis] > 0 for end, axis in zip(ends, axes, strict=True))
    return whole and not starts.any() and bool((axes > 1).all() and (steps > 0).all())


def _skipping_pool(node: NodeProto, values: list[NDArray[Any]], rank: int) -> NodeProto:
    from onnx import helper

    strides = [1] * (rank - 2)
    for axis, step in zip(values[2].reshape(-1), values[3].reshape(-1), strict=True):
        strides[axis - 2] = int(step)
    return helper.make_node(
        "MaxPool", node.input[:1], node.output, node.name, kernel_shape=[1] * (rank - 2), strides=strides
    )


def _counts_padding_and_more(node: NodeProto) -> bool:
    given = attributes(node) if node.op_type == "AveragePool" else {}
    return bool(given.get("ceil_mode") and given.get("count_include_pad"))


def _padded_pool(model: ModelProto, node: NodeProto, size: NDArray[np.int64]) -> list[NodeProto]:
    """The pool, after a Pad if any of its windows reaches past the padding of the map of this size."""
    from onnx import helper

    given = attributes(node)
    kernel, ones = np.array(given["kernel_shape"]), [1] * len(size)
    strides, dilations = np.array(given.get("strides", ones)), np.array(given.get("dilations", ones))
    begin, end = np.split(np.array(given.get("pads", [0] * 2 * len(size))), 2)
    reach = (kernel - 1) * dilations + 1
    steps = -(-(size + begin + end - reach) // strides)
    steps -= steps * strides >= size + begin  # PyTorch has no window that begins behind the map
    last = steps * strides + reach - begin  # where the last window ends
    if (last <= size + end).all():
        del given["ceil_mode"]
        return [helper.make_node("AveragePool", node.input, node.output, node.name, **given)]
    given.pop("pads", None)
    del given["count_include_pad"]  # of what is left, everything counts but what lies beyond it
    end = np.clip(last - size, 0, end)
    source, nodes = node.input[0], []
    if begin.any() or end.any():
        source, amounts = f"{node.output[0]}_padded", f"{node.output[0]}_pads"
        write_initializer(model.graph.initializer, amounts, np.array([0, 0, *begin, 0, 0, *end]))
        nodes = [helper.make_node("Pad", [node.input[0], amounts], [source], f"{node.name}_pad")]
    return [*nodes, helper.make_node("AveragePool", [source], node.output, node.name, **given)]


def _pooling(model: ModelProto, node: NodeProto) -> list[NodeProto]:
    from onnx import helper

    if attributes(node).get("keepdims", 1):
        return [helper.make_node("GlobalAveragePool", node.input[:1], node.output, node.name)]
    mean, shape = f"{node.output[0]}_mean", f"{node.output[0]}_shape"
    # 0: the batch size as it is, -1: all the rest.
    write_initializer(model.graph.initializer, shape, np.array([0, -1]))
    return [
        helper.make_node("GlobalAveragePool", node.input[:1], [mean], node.name),
        helper.make_node("Reshape", [mean, shape], node.output, f"{node.name}_flat"),
    ]
