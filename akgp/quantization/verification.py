"""Checks that onnxruntime computes on this processor what an int8 file states: the simulator's logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from akgp.quantization.checking import QuantizationError, as_array
from akgp.quantization.layers import layer_of
from akgp.quantization.simulator import simulate
from akgp.runtimes.onnxruntime import session

if TYPE_CHECKING:
    from onnx import ModelProto

PIXELS, FEWEST = 2**18, 8
"""Images are compared up to PIXELS in all, but FEWEST at least, so that it takes seconds: 256 of 32×32, 8 of
224×224."""
BATCH = 32  # images whose simulated integers of all layers are in memory at a time


@dataclass(frozen=True)
class Verification:
    """The result of a comparison.

    Attributes:
        images: how many were compared.
        floating: operations that the file leaves in floating point and whose sums a processor may
            order in its own way, with their number. Without any, the logits are the same everywhere.
        equal: whether all logits agreed, bit for bit; always true of a file without such operations.
    """

    images: int
    floating: Mapping[str, int]
    equal: bool


def verify(path: str | Path, inputs: Tensor | NDArray[np.float32]) -> Verification:
    """Compare the logits of the first images, as many as PIXELS allow, between onnxruntime and the simulator.

    Args:
        path: an int8 graph that `quantize` has written.
        inputs: float32 [N, C, H, W], normalised images.

    Raises:
        QuantizationError: they differ although `floating` is empty; names the first layer that differs.
    """
    import onnx

    images = as_array(inputs)
    images = images[: max(FEWEST, PIXELS // int(np.prod(images.shape[2:])))]
    model, running = onnx.load(str(path)), session(path, threads=1)
    floating: Mapping[str, int] = {}
    different = 0
    for batch in np.array_split(images, -(-len(images) // BATCH)):
        simulation = simulate(model, batch)
        (logits,) = running.run(None, {running.get_inputs()[0].name: batch})
        # As bits, so that −0 differs from 0, and NaN equals itself.
        rows = (logits.view(np.int32) != simulation.logits.view(np.int32)).any(tuple(range(1, logits.ndim)))
        different += int(rows.sum())
        floating = simulation.floating
        if rows.any() and not floating:
            raise QuantizationError(
                f"{path}: onnxruntime's integer kernels on this processor don't compute what the file "
                f"states: the logits of {rows.sum()} of {len(batch)} images differ; first in "
                f"{first_difference(model, batch, simulation.integers)}"
            )
    return Verification(len(images), floating, different == 0)


def first_difference(
    model: ModelProto, batch: NDArray[np.float32], simulated: Mapping[str, NDArray[np.uint8]]
) -> str:
    """The first operation whose integers differ, and by how much."""
    import onnx

    # onnxruntime keeps an activation's integers if they are an output of the graph.
    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    quantizers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    for node in quantizers:
        observed.graph.output.append(
            onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.UINT8, None)
        )
    names = [node.output[0] for node in quantizers]
    running = session(observed.SerializeToString(), threads=1)
    made_by = {name: node for node in model.graph.node for name in node.output}
    computed = running.run(names, {running.get_inputs()[0].name: batch})
    for node, steps in zip(quantizers, computed, strict=True):
        error = np.abs(steps.astype(int) - simulated[node.output[0]].astype(int))
        if error.any():
            maker = made_by.get(node.input[0], node)
            name = layer_of(maker) or maker.name or node.input[0]
            wrong = f"{np.count_nonzero(error)} of {error.size} values"
            return f"{maker.op_type} {name}: {wrong}, by up to {error.max()} steps"
    return "the last layer: its logits alone"
