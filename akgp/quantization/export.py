"""Networks as ONNX files without ballast, and which kernels onnxruntime runs for them.

The float graph is written here; `static` quantizes it.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    import onnx
    import onnxruntime

INPUT, OUTPUT = "input", "logits"
INTEGER_CONVOLUTIONS = ("QLinearConv", "ConvInteger", "ConvIntegerToFloat")
FLOATING_CONVOLUTIONS = ("Conv", "FusedConv", "NhwcFusedConv")


class QuantizationError(ValueError):
    """A network cannot be exported or quantized."""


@dataclass(frozen=True)
class Kernels:
    """How many of a graph's convolutions run in integers and how many in floating point."""

    integer: int
    floating: int


def export_onnx(model: nn.Module, example_input: Tensor, path: str | Path) -> None:
    """Write a network in eval mode as an ONNX graph: `input` [N, C, H, W] → `logits` [N, classes].

    The batch size N is free; names, documentation and intermediate shapes, which can outweigh a
    small network, are left out. The network keeps its mode.

    Args:
        example_input: [any N, C, H, W], on the network's device.

    Raises:
        QuantizationError: torch.export cannot trace the network for any batch size.
    """
    import onnx

    modes = [(module, module.training) for module in model.modules()]
    # torch.export takes a batch of 1 as fixed.
    batch = example_input[:1].expand(2, *example_input.shape[1:]).contiguous()
    try:
        program = torch.onnx.export(
            model.eval(),
            (batch,),
            dynamo=True,
            verbose=False,
            dynamic_shapes=({0: torch.export.Dim("N")},),
            input_names=[INPUT],
            output_names=[OUTPUT],
        )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise QuantizationError(
            f"{type(model).__name__} cannot be exported to ONNX for input [N, "
            f"{', '.join(map(str, example_input.shape[1:]))}]: {reason}"
        ) from error
    finally:
        for module, mode in modes:
            module.training = mode
    assert program is not None
    graph = program.model_proto
    strip(graph)
    onnx.checker.check_model(graph)
    onnx.save(graph, str(path))


def strip(graph: onnx.ModelProto) -> None:
    """Remove, in place, what a runtime does not need: metadata, documentation, intermediate shapes."""
    body = graph.graph
    body.ClearField("value_info")
    for part in (graph, body, *body.node, *body.initializer, *body.input, *body.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def convolution_kernels(path: str | Path) -> Kernels:
    """Integer and floating convolutions of the graph that onnxruntime runs, after its optimisation."""
    counts = Counter(node.op_type for node in optimized(path).graph.node)
    integer, floating = (
        sum(counts[kind] for kind in kinds) for kinds in (INTEGER_CONVOLUTIONS, FLOATING_CONVOLUTIONS)
    )
    return Kernels(integer, floating)


def optimized(path: str | Path) -> onnx.ModelProto:
    """The graph after onnxruntime's own optimisation on this processor, fusions included."""
    import onnx

    options = session_options(threads=1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(file)
        _session(path, options)
        return onnx.load(str(file))


def session(path: str | Path, *, threads: int) -> onnxruntime.InferenceSession:
    """An onnxruntime session on the CPU; `threads` workers that sleep while they wait.

    Raises:
        QuantizationError: onnxruntime cannot load the file.
    """
    return _session(path, session_options(threads))


def session_options(threads: int) -> onnxruntime.SessionOptions:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors
    return options


def _session(path: str | Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf, NoSuchFile

    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except (Fail, InvalidGraph, InvalidProtobuf, NoSuchFile) as error:
        reason = " ".join(str(error).split())
        raise QuantizationError(f"{path}: onnxruntime cannot load it: {reason}") from error
