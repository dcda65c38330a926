"""Static post-training quantization to int8 (Jacob et al. 2018) by onnxruntime, as a QDQ ONNX graph.

Activations are unsigned 8-bit with one scale a tensor; weights signed 8-bit with one scale an output
channel, chosen so that no processor's sums can saturate; sums are int32. `fake_quantization` is for training
with that rounding.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from akgp.params import Quantize
from akgp.quantization.checking import QuantizationError, as_array
from akgp.quantization.exact_scales import move_activation_scales, move_weight_scales, separate_pool_scales
from akgp.quantization.export import strip
from akgp.quantization.kernels import Kernels, convolution_kernels
from akgp.quantization.layers import keep_in_float, layers, nodes_behind, precisions
from akgp.quantization.qdq import attributes
from akgp.quantization.remaining import quantize_remaining
from akgp.quantization.rewriting import restore_hard_swish
from akgp.quantization.tables import round_alike
from akgp.quantization.weight_sharing import FOUR_BITS, share_layers
from akgp.quantization.weights import make_safe
from akgp.runtimes.onnxruntime import guarded, session

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

log = logging.getLogger(__name__)

BATCH = 32
"""Calibration images in memory at a time, with all their activations."""
AVERAGED = 4
"""Images whose extremes are averaged with those of others: fewer clip more, more let one image count."""
METHODS = {
    "auto": "MinMax", "minmax": "MinMax", "averaged": "MinMax",
    "entropy": "Entropy", "percentile": "Percentile",
}  # fmt: skip
"""How onnxruntime calls them."""


def quantize(
    fp32_path: str | Path,
    inputs: Tensor | NDArray[np.float32],
    params: Quantize,
    destination: str | Path,
    *,
    ranges: Path | None = None,
) -> Kernels:
    """Quantize a float ONNX graph and write it; returns the kernels of its convolutions.

    One step of the stage of that name: of `params` it takes `calibration`, `images` and `precision` alone.
    The stage also averages ranges, equalizes, corrects biases, and looks for the layers that meet budgets.

    Activation ranges: `minmax` and `auto` take the extremes over the calibration images, `averaged` the mean
    over every four images of their extremes, `percentile` cuts off 0.001 % and `entropy` minimises the
    Kullback-Leibler divergence of the histograms.

    Args:
        fp32_path: as `export_onnx` writes it.
        inputs: float32 [N, C, H, W], normalised calibration images; the first `params.images` count.
        destination: the file to write.
        ranges: a file that activation ranges are kept in: read if it exists, else written. They depend on
            graph, images and method, not on which layers stay in float.

    Raises:
        QuantizationError: no image, a value that is not finite, images that do not fit the graph, a graph
            that is quantized already, or a pattern of `params.precision` that matches no layer.
        GraphError: onnxruntime cannot load the float graph.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    averaged = params.calibration == "averaged"
    reader = _Batches(_checked(fp32_path, inputs)[: params.images], AVERAGED if averaged else BATCH)
    failure = f"{fp32_path}: onnxruntime cannot quantize it"
    with tempfile.TemporaryDirectory() as folder:
        prepared, quantized = Path(folder) / "prepared.onnx", Path(folder) / "quantized.onnx"
        with guarded(failure):
            floating = _floating(fp32_path, prepared)
        if any(node.op_type == "QuantizeLinear" for node in floating.graph.node):
            raise QuantizationError(f"{fp32_path}: is quantized already, must be a float graph")
        precision = precisions(floating, params.precision)
        floats = [
            node.name
            for name, nodes in layers(floating).items()
            if precision.get(name) == "float"
            for node in nodes
        ]
        with guarded(failure), contextlib.redirect_stdout(io.StringIO()):  # the histogram methods print
            quantize_static(
                str(prepared),
                str(quantized),
                reader,
                quant_format=QuantFormat.QDQ,
                nodes_to_exclude=[*floats, *nodes_behind(floating, floats), *_unwritable(floating)],
                per_channel=True,
                # With signed activations onnxruntime's kernels were slower than fp32 (0.66 times its speed).
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod[METHODS[params.calibration]],
                # Averages over batches; or extremes, merged batch by batch in bounded memory.
                extra_options={"CalibMovingAverage": True} if averaged else {"CalibStridedMinMax": 1},
                calibration_cache_path=ranges,
            )
        graph = onnx.load(str(quantized))
    quantize_remaining(graph, reader.extremes)
    # First the activations' scales, since a bias has that of its layer's input. Each may move the other's.
    separate_pool_scales(graph)
    round_alike(graph)
    while move_activation_scales(graph):
        round_alike(graph)
    # The quantizer's weight scales can saturate on processors without VNNI: see `saturation`.
    make_safe(graph, floating)
    share_layers(graph, [name for name, each in precision.items() if each == "int4"], FOUR_BITS)
    move_weight_scales(graph)
    keep_in_float(graph, floats)
    strip(graph)
    onnx.checker.check_model(graph)
    onnx.save(graph, str(destination))
    return convolution_kernels(destination)


def _unwritable(model: ModelProto) -> list[str]:
    """Names of layers that stay in float, since the quantizer gives them scales that no kernel has.

    The bias of a transposed convolution in groups: it scales the filters of one group. A constant that a
    product has on the left, or of another rank than 2: it has a scale for each of what the kernels sum over.
    A normalization over channels and pixels: it takes the bias for a convolution's.
    """
    ranks = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}

    def is_unwritable(node: NodeProto) -> bool:
        if node.op_type == "ConvTranspose":
            return len(node.input) > 2 and attributes(node).get("group", 1) > 1
        if node.op_type == "LayerNormalization":
            return ranks.get(node.input[1], 1) > 1
        return node.op_type == "MatMul" and (node.input[0] in ranks or ranks.get(node.input[1], 2) != 2)

    return [node.name for node in model.graph.node if is_unwritable(node)]


def _floating(fp32_path: str | Path, destination: Path) -> ModelProto:
    """The graph of `prepare` in operations and names that onnxruntime's quantizer takes; written, too."""
    import onnx

    prepare(fp32_path, destination)
    floating = onnx.load(str(destination))
    restore_hard_swish(floating)
    rename_shared_biases(floating)
    onnx.save(floating, str(destination))
    return floating


def rename_shared_biases(model: ModelProto) -> None:
    """Rename biases that several layers have, in place, so that their copies get names of their own.

    onnxruntime's quantizer calls the fifth copy of `val_12` `val_124`, which may be another tensor (1.32).
    """
    uses = Counter(name for node in model.graph.node for name in node.input[2:3])
    renamed = {
        tensor.name: f"{tensor.name}_of"
        for tensor in model.graph.initializer
        if uses[tensor.name] > 1 and tensor.name[-1].isdigit()
    }
    for tensor in model.graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]


def prepare(fp32_path: str | Path, destination: Path) -> None:
    """Write the float graph that is quantized: constants folded, operations fused, shapes inferred.

    Shapes are inferred symbolically too, where onnxruntime is able to.

    Symbolic inference fails on operations whose axes are an input that it doesn't know, such as ReduceMax
    (onnxruntime 1.32). Few layers need it. Where it fails it leaves files in the working directory, which is
    therefore that of `destination` meanwhile.
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process

    source, prepared = str(Path(fp32_path).absolute()), str(destination.absolute())
    with contextlib.chdir(destination.parent):
        try:
            quant_pre_process(source, prepared)
        except Exception as error:  # errors of many types escape from its inference
            log.debug("%s: no symbolic shapes: %s", fp32_path, error)
            quant_pre_process(source, prepared, skip_symbolic_shape=True)


class _Batches:
    """Calibration images in batches: onnxruntime's CalibrationDataReader.

    With CalibStridedMinMax it asks for ranges of batches, one after another, by `set_range`.
    """

    def __init__(self, inputs_NCHW: NDArray[np.float32], size: int) -> None:
        self.batches = np.array_split(inputs_NCHW, -(-len(inputs_NCHW) // size))
        self.remaining = iter(self.batches)

    @property
    def extremes(self) -> tuple[float, float]:
        """The least and the largest value."""
        return min(float(x.min()) for x in self.batches), max(float(x.max()) for x in self.batches)

    def __len__(self) -> int:
        return len(self.batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        self.remaining = iter(self.batches[start_index:end_index])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        batch = next(self.remaining, None)
        return None if batch is None else {"input": batch}


def _checked(path: str | Path, inputs: Tensor | NDArray[np.float32]) -> NDArray[np.float32]:
    array = as_array(inputs)
    expected = session(path, threads=1).get_inputs()[0].shape
    if array.ndim != 4 or not len(array) or list(array.shape[1:]) != expected[1:]:
        raise QuantizationError(
            f"calibration images must be {expected} with N > 0 as {path} takes, got {list(array.shape)}"
        )
    if not np.isfinite(array).all():
        raise QuantizationError("calibration images must be finite, got nan or inf")
    return array
