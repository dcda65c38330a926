"""Cross-layer equalisation: channels of one tensor get ranges that are alike, so one scale suits them all.

Between two layers with only ReLU or pooling between them, s · relu(x) = relu(s · x) for s > 0: dividing a
channel by s in the first layer and multiplying what reads it in the second by s changes nothing in floating
point (Nagel et al. 2019, Data-Free Quantization, section 4.1). ReLU6 and hard-swish do not allow it and end a
pair, as sums and concatenations do.

There both layers' weights share one scale. Here weights have a scale for each output channel, so the first
layer's need nothing: what is balanced are the ranges of the activations on calibration images, against the
second layer's weights that read the channel, each as a share of the largest beside it in its row
(s = √(a / w), as Xiao et al. 2023, SmoothQuant, has it). Every s is a power of two: the float graph gives the
same bits as before.

Letters of shapes: O output channels, I input channels, G groups.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from akgp.params import Quantize
from akgp.quantization.judging import UNJUDGED, Judgement, halves, judged
from akgp.quantization.observing import Floats, observed
from akgp.quantization.ptq import prepare, quantize
from akgp.quantization.qdq import Qdq, attributes, has_rows

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

BETWEEN = frozenset({"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool"})
"""Operations that keep channels apart and commute with positive factors."""
FLATTENING = frozenset({"Flatten", "Reshape", "Squeeze"})  # before a Gemm, if a channel is one number then
LARGEST = 16  # powers of two, which no float32 weight leaves its range by


@dataclass(frozen=True)
class Pair:
    """Two layers whose channels can be scaled against each other; `tensor`: what the second reads."""

    first: NodeProto
    second: NodeProto
    tensor: str


def equalize(
    fp32_path: str | Path, inputs: Tensor | NDArray[np.float32], params: Quantize, int8_path: str | Path
) -> Judgement | None:
    """Equalise a float graph and its int8 graph, both in place, if calibration images say that int8 gains.

    Args:
        fp32_path: the float graph that `quantize` was given.
        inputs: float32 [N, C, H, W], normalised calibration images: every other one measures the ranges, the
            rest judges.
        params: as `quantize` was given.
        int8_path: the int8 graph that `quantize` wrote.

    Returns:
        None if no channel needs a factor: nothing was tried.
    """
    import onnx

    measuring, judging = halves(inputs)
    if not len(judging):
        return UNJUDGED
    with tempfile.TemporaryDirectory() as folder:
        prepared, equal = Path(folder) / "equal.onnx", Path(folder) / "model.onnx"
        prepare(fp32_path, prepared)
        floating = onnx.load(str(prepared))
        equalized = type(floating)()
        equalized.CopyFrom(floating)
        if not balance(equalized, measuring):
            return None
        onnx.save(equalized, str(prepared))
        quantize(prepared, inputs, params, equal)
        after = onnx.load(str(equal))
    judgement = judged(floating, onnx.load(str(int8_path)), after, judging)
    if judgement.kept:
        onnx.save(equalized, str(fp32_path))
        onnx.save(after, str(int8_path))
    return judgement


def balance(model: ModelProto, images: Floats) -> bool:
    """Scale, in place, the channels of every pair of a float graph; whether any factor is not 1."""
    graph = Qdq(model)
    found = pairs(model)
    ranges = _ranges(model, [pair.tensor for pair in found], images)
    changed = False
    for pair, range_I in zip(found, ranges, strict=True):
        factors_I = _factors(range_I, _shares(graph, pair.second))
        changed |= bool((factors_I != 1).any())
        for name in pair.first.input[1:]:  # weight and, if there is one, bias
            values = graph.constant(name)
            axis = 0 if has_rows(pair.first) or values.ndim == 1 else 1
            graph.write(name, values / _along(factors_I, axis, values.ndim))
        weight = graph.constant(pair.second.input[1])
        graph.write(pair.second.input[1], weight * _spread(factors_I, pair.second, weight))
    return changed


def pairs(model: ModelProto) -> list[Pair]:
    """The pairs of layers of a float graph between which channels can be scaled."""
    graph, outputs = Qdq(model), {output.name for output in model.graph.output}
    uses = Counter(name for node in graph.nodes for name in node.input)
    readers = {name: node for node in graph.nodes for name in node.input}

    def scalable(node: NodeProto) -> bool:
        # Constants that no other node has as well.
        return node.op_type in ("Conv", "Gemm") and all(
            name in graph.tensors and uses[name] == 1 for name in node.input[1:]
        )

    found = []
    for first in filter(scalable, graph.nodes):
        tensor, flat = first.output[0], False
        while uses[tensor] == 1 and tensor not in outputs:
            reader = readers[tensor]
            if reader.op_type in BETWEEN | FLATTENING and reader.input[0] == tensor:
                tensor, flat = reader.output[0], flat or reader.op_type in FLATTENING
                continue
            fits = scalable(reader) and reader.input[0] == tensor and not (flat and reader.op_type == "Conv")
            if fits and _channels_in(graph, reader) == _channels_out(graph, first):
                found.append(Pair(first, reader, tensor))
            break
    return found


def _channels_out(graph: Qdq, node: NodeProto) -> int:
    return graph.constant(node.input[1]).shape[0 if has_rows(node) else 1]


def _channels_in(graph: Qdq, node: NodeProto) -> int:
    shape = graph.constant(node.input[1]).shape
    return shape[1] * attributes(node).get("group", 1) if has_rows(node) else shape[0]


def _ranges(model: ModelProto, names: list[str], images: Floats) -> list[Floats]:
    """The largest magnitude in each channel of each tensor, [I] each."""
    ranges: list[Floats] = [np.zeros(1, np.float32)] * len(names)
    for outputs in observed(model, names, images) if names else ():
        for index, output in enumerate(outputs):
            others = tuple(axis for axis in range(output.ndim) if axis != 1)
            ranges[index] = np.maximum(ranges[index], np.abs(output).max(others))
    return ranges


def _shares(graph: Qdq, node: NodeProto) -> Floats:
    """[I]: the largest weight that reads each channel, each as a share of the largest weight in its row.

    Factors of other pairs, which scale whole rows, do not change it.
    """
    weight = np.abs(graph.constant(node.input[1]))
    weight_OI = (weight if has_rows(node) else weight.T).reshape(_channels_out(graph, node), -1)
    largest_O = weight_OI.max(1, keepdims=True)
    share_OI = np.divide(weight_OI, largest_O, out=np.zeros_like(weight_OI), where=largest_O > 0)
    groups = attributes(node).get("group", 1)
    return (
        share_OI.reshape(groups, len(weight_OI) // groups, -1, int(np.prod(weight.shape[2:])))
        .max((1, 3))
        .ravel()
    )


def _factors(range_I: Floats, share_I: Floats) -> Floats:
    """Powers of two near √(range / share), with a median of 1; 1 where a channel is 0 or nothing reads it."""
    live = (range_I > 0) & (share_I > 0)
    factors_I = np.ones_like(range_I)
    if live.any():
        exponents = np.log2(range_I[live] / share_I[live]) / 2
        exponents = np.rint(exponents - np.median(exponents))
        factors_I[live] = np.exp2(np.clip(exponents, -LARGEST, LARGEST))
    return factors_I


def _along(factors: Floats, axis: int, dimensions: int) -> Floats:
    return factors.reshape([-1 if each == axis else 1 for each in range(dimensions)])


def _spread(factors_I: Floats, node: NodeProto, weight: Floats) -> Floats:
    """The factors of the channels that each weight reads, to be multiplied with the weight."""
    if not has_rows(node):
        return _along(factors_I, 0, weight.ndim)
    groups = attributes(node).get("group", 1)
    factors_OI = np.repeat(factors_I.reshape(groups, -1), len(weight) // groups, axis=0)
    return factors_OI.reshape(*factors_OI.shape, *[1] * (weight.ndim - 2))
