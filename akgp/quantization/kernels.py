"""The graph that onnxruntime optimizes a file to on this processor, and the kernels of its convolutions."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from akgp.runtimes.onnxruntime import session_options, session_with

if TYPE_CHECKING:
    import onnx

# Operators of optimized graphs: ONNX's own, and those that onnxruntime's fusions make (com.microsoft).
INTEGER_CONVOLUTIONS = ("QLinearConv", "ConvInteger", "ConvIntegerToFloat")
FLOATING_CONVOLUTIONS = ("Conv", "FusedConv", "NhwcFusedConv")


@dataclass(frozen=True)
class Kernels:
    """How many of a graph's convolutions run in integers and how many in floating point."""

    integer: int
    floating: int


def optimized(path: str | Path) -> onnx.ModelProto:
    """The graph after onnxruntime's optimization on this processor, fusions included.

    Raises:
        GraphError: onnxruntime cannot load the file.
    """
    import onnx

    options = session_options(threads=1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(file)  # written when the session is made, nothing is run
        session_with(path, options)
        return onnx.load(str(file))


def convolution_kernels(path: str | Path) -> Kernels:
    """Integer and floating convolutions of the graph that onnxruntime runs, after its optimisation.

    Raises:
        GraphError: onnxruntime cannot load the file.
    """
    counts = Counter(node.op_type for node in optimized(path).graph.node)
    integer, floating = (
        sum(counts[kind] for kind in kinds) for kinds in (INTEGER_CONVOLUTIONS, FLOATING_CONVOLUTIONS)
    )
    return Kernels(integer, floating)
