"""Sequential bias correction: the mean of each channel is what it is in the float network.

Rounded weights and activations shift the means of a layer's outputs, and the shifts add up from layer to
layer. Layer by layer, in the order of computation, the shift on calibration images is taken off the biases
(Nagel et al. 2019, Data-Free Quantization, section 4.2 and appendix D: empirical bias correction). The graph
keeps its operations and scales, so it costs no time and stays exact on every processor.
O: output channels.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from akgp.quantization.exact_scales import move_weight_scales
from akgp.quantization.judging import UNJUDGED, Judgement, halves, judged
from akgp.quantization.observing import Floats, observed
from akgp.quantization.ptq import prepare
from akgp.quantization.qdq import Qdq
from akgp.quantization.weights import LARGEST_BIAS

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Means = NDArray[np.float64]


def correct_biases(
    fp32_path: str | Path, inputs: Tensor | NDArray[np.float32], int8_path: str | Path
) -> Judgement | None:
    """Correct the biases of an int8 graph, in place, if calibration images say that it gains.

    Args:
        fp32_path: the float graph that `quantize` was given.
        inputs: float32 [N, C, H, W], normalised calibration images: every other one measures the shifts,
            the rest judges.
        int8_path: the int8 graph that `quantize` wrote.

    Returns:
        None if no layer has an integer bias: nothing was tried.
    """
    import onnx

    measuring, judging = halves(inputs)
    if not len(judging):
        return UNJUDGED
    model = onnx.load(str(int8_path))
    graph = Qdq(model)
    if not any(_bias(graph, node) for node in graph.weighted()):
        return None
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        prepare(fp32_path, prepared)
        floating = onnx.load(str(prepared))
    corrected = _corrected(model, floating, measuring)
    judgement = judged(floating, model, corrected, judging)
    if judgement.kept:
        onnx.save(corrected, str(int8_path))
    return judgement


def _corrected(model: ModelProto, floating: ModelProto, images: Floats) -> ModelProto:
    """A copy of the int8 graph whose layers have the float graph's mean outputs, one after another."""
    corrected = type(model)()
    corrected.CopyFrom(model)
    graph, sources = Qdq(corrected), {node.name: node for node in floating.graph.node}
    layers = [node for node in graph.weighted() if _bias(graph, node)]
    wanted = _means(floating, [sources[node.name] for node in layers], images)
    for node, mean_O in zip(layers, wanted, strict=True):
        bias = _bias(graph, node)
        assert bias is not None
        # Measured with the layers before it corrected: later shifts include what is left of earlier ones.
        (found_O,) = _means(corrected, [node], images)
        integers, scale = graph.constant(bias[0]).astype(np.float64), graph.constant(bias[1])
        moved = np.rint(integers + (mean_O - found_O) / scale)
        graph.write(bias[0], np.clip(moved, -LARGEST_BIAS, LARGEST_BIAS).astype(np.int32))
    move_weight_scales(corrected)  # other sums than before occur
    return corrected


def _bias(graph: Qdq, node: NodeProto) -> tuple[str, str] | None:
    """The names of a layer's integer bias and its scale; None if it has none, or a float one."""
    bias = graph.dequantized(node.input[2]) if len(node.input) > 2 else None
    return (bias.integers, bias.scale) if bias and bias.integers in graph.tensors else None


def _means(model: ModelProto, nodes: list[NodeProto], images: Floats) -> list[Means]:
    """The mean over images and pixels of each node's output, [O] each."""
    sums: list[Means] = [np.zeros(1)] * len(nodes)
    rows = [0] * len(nodes)  # not always one an image: windows of attention are rows too
    for outputs in observed(model, [node.output[0] for node in nodes], images):
        for index, output in enumerate(outputs):
            # Convolutions have their channels in dimension 1, matrix products in the last.
            channels = 1 if nodes[index].op_type == "Conv" else output.ndim - 1
            others = tuple(axis for axis in range(output.ndim) if axis != channels)
            sums[index] = sums[index] + len(output) * output.mean(others, dtype=np.float64)
            rows[index] += len(output)
    return [total / count for total, count in zip(sums, rows, strict=True)]
