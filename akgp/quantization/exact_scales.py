"""Moves scales of a QDQ graph by a few float32 steps, until every operation has an exact fixed-point form.

A program without floating point can then compute the file's integers bit for bit: see `fixed_point`. A
scale moves by some 1e-7 of itself, a few by up to 1.2e-4, an average pool's mostly by less than 1 %, by 6
at most. This is done when a file is written, so that file and program are one function, and accuracy is
measured on it. A graph with other operations stays as it is: it cannot be exported.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from akgp.quantization import requantization
from akgp.quantization.checking import QuantizationError
from akgp.quantization.description import describe
from akgp.quantization.operation_readers import name_of
from akgp.quantization.operations import (
    Activation,
    Add,
    AveragePool,
    Convolution,
    Gemm,
    GlobalAveragePool,
    Mul,
    Operation,
)
from akgp.quantization.qdq import Qdq
from akgp.quantization.simulator import MOVES

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

log = logging.getLogger(__name__)

CANDIDATES, MANY = 64, 1024
"""Scales that are tried; MANY where weights are so fine that the middle between two steps is often hit."""
STEP = 2.0**-23
"""By which each is larger than the one before: a step of float32."""
POOL_STEP = 2.0**-14
"""The same for average pools: they must get past the errors of float32 sums."""

FORMS: Mapping[type, Callable[[Any], Any]] = {
    Add: requantization.add,
    Mul: requantization.mul,
    AveragePool: requantization.average_pool,
    GlobalAveragePool: requantization.global_average_pool,
}
Scales = NDArray[np.float32]


def separate_pool_scales(model: ModelProto) -> None:
    """Give average pools, in place, a scale of their own, where the quantizer gave them that of their input.

    Means of integers in steps of the input often lie in the middle between two steps, where errors of float32
    sums decide how the runtime rounds. What moves the pool's values takes its scale over.
    """
    graph = Qdq(model)
    separate: dict[str, str] = {}  # an activation → its new scale
    for node in graph.nodes:
        if node.op_type == "DequantizeLinear" and node.input[0] in separate:
            node.input[1] = separate[node.input[0]]
        maker = graph.made_by.get(node.input[0]) if node.op_type == "QuantizeLinear" else None
        given = graph.dequantized(maker.input[0]) if maker is not None else None
        if maker is None or given is None:
            continue
        if maker.op_type in MOVES and given.integers in separate:
            node.input[1] = separate[node.output[0]] = separate[given.integers]
        elif maker.op_type in ("AveragePool", "GlobalAveragePool") and node.input[1] == given.scale:
            name = f"{node.output[0]}_scale"
            tensor = model.graph.initializer.add()
            tensor.CopyFrom(graph.tensors[given.scale])
            tensor.name = node.input[1] = separate[node.output[0]] = name


def move_activation_scales(model: ModelProto) -> bool:
    """Enlarge, in place, output scales of additions, products and averages; whether any was."""
    operations, graph = _operations(model), Qdq(model)
    names: dict[str, str] = {}  # an activation's scale, by the activation's name
    for node in graph.nodes:
        if node.op_type == "QuantizeLinear":
            names[node.output[0]] = node.input[1]
    scales: dict[str, Scales] = {}

    def moved(activation: Activation) -> Activation:
        return replace(activation, scale=scales.get(names.get(activation.name, ""), activation.scale))

    for each in operations:
        inputs: Any = {"input": moved(each.input)} if hasattr(each, "input") else {}
        if hasattr(each, "inputs"):
            inputs = {"inputs": tuple(moved(one) for one in each.inputs)}
        operation = replace(each, output=moved(each.output), **inputs)
        if hasattr(each, "input") and each.output.name not in names:  # values were moved, not computed
            names[each.output.name] = names[each.input.name]
        # A scale that another operation has as well is left: moving it would undo what was done there.
        if type(operation) not in FORMS or names[each.output.name] in scales:
            continue
        step = POOL_STEP if isinstance(operation, AveragePool) else STEP
        for scale in _larger(operation.output.scale, step, MANY):
            tried = replace(operation, output=replace(operation.output, scale=scale))
            if np.all(FORMS[type(operation)](tried).proven):
                if scale != operation.output.scale:
                    scales[names[each.output.name]] = scale
                break
    for name, scale in scales.items():
        graph.write(name, scale)
    return bool(scales)


def move_weight_scales(model: ModelProto) -> None:
    """Enlarge, in place, scales of output channels' weights, and those of their biases to match."""
    operations, graph = _operations(model), Qdq(model)
    nodes = {name_of(node): node for node in graph.weighted()}
    sharing: dict[str, list[Convolution | Gemm]] = defaultdict(list)
    for each in operations:
        if isinstance(each, Convolution | Gemm):
            weight = graph.dequantized(nodes[each.name].input[1])
            assert weight is not None
            sharing[weight.scale].append(each)
    for name, layers in sharing.items():
        scales = _proven_scales(layers, per_channel=graph.constant(name).size > 1)
        graph.write(name, scales)
        for each in layers:
            _write_bias_scale(graph, nodes[each.name], each.input.scale * scales)


def _proven_scales(layers: list[Convolution | Gemm], *, per_channel: bool) -> Scales:
    """float32 [O]: the least candidates that suit every layer; where none does, the scale as it was."""
    given = layers[0].weight_scales
    scales, left = given.copy(), np.arange(len(given))
    for candidate in _larger(given, STEP):
        proven = np.ones(len(left), bool)
        for each in layers:
            proven &= requantization.weighted(_channels(each, left, candidate)).proven
        suits = proven if per_channel else np.full_like(proven, proven.all())
        scales[left[suits]] = candidate[left[suits]]
        left = left[~suits]
        if not len(left):
            break
    if per_channel:
        for channel in left:
            scales[channel] = _searched(layers, channel)
    return scales


def _searched(layers: list[Convolution | Gemm], channel: np.intp) -> np.float32:
    """The scale of a channel that needs many candidates: as many at once as channels are looked at."""
    given = layers[0].weight_scales[channel]
    candidates = np.array(list(_larger(given, STEP, MANY)))
    for some in np.split(candidates[CANDIDATES:], MANY // CANDIDATES - 1):
        proven = np.ones(CANDIDATES, bool)
        for each in layers:
            same = _channels(each, np.full(CANDIDATES, channel), each.weight_scales)
            proven &= requantization.weighted(replace(same, weight_scales=some)).proven
        if proven.any():
            return np.float32(some[proven.argmax()])
    return np.float32(given)


def _channels(layer: Convolution | Gemm, index: NDArray[np.intp], scales: Scales) -> Convolution | Gemm:
    return replace(layer, weight=layer.weight[index], weight_scales=scales[index], bias=layer.bias[index])


def _write_bias_scale(graph: Qdq, node: NodeProto, scales: Scales) -> None:
    bias = graph.dequantized(node.input[2]) if len(node.input) > 2 else None
    if bias is not None:
        graph.write(bias.scale, scales)


def _larger(scale: NDArray[np.float32], step: float, candidates: int = CANDIDATES) -> Iterator[Any]:
    for count in range(candidates):
        yield (scale * (1 + count * step)).astype(np.float32)


def _operations(model: ModelProto) -> tuple[Operation, ...]:
    try:
        return describe(model).operations
    except QuantizationError as error:
        log.debug("scales stay as they are: %s", error)
        return ()
