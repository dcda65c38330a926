"""Networks as ONNX files without ballast, and which kernels onnxruntime runs for them.

The float graph is written here; `static` quantizes it.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from akgp.models import ChannelMap
from akgp.runtime import optimized

if TYPE_CHECKING:
    import onnx

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
    small network, are left out. The network itself is not changed.

    Args:
        example_input: [any N, C, H, W], on the network's device.

    Raises:
        QuantizationError: torch.export cannot trace the network for any batch size.
    """
    import onnx

    model = for_runtimes(model).eval()
    # torch.export takes a batch of 1 as fixed.
    batch = example_input[:1].expand(2, *example_input.shape[1:]).contiguous()
    try:
        program = torch.onnx.export(
            model,
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
    assert program is not None
    graph = program.model_proto
    strip(graph)
    onnx.checker.check_model(graph)
    onnx.save(graph, str(path))


def for_runtimes(model: nn.Module) -> nn.Module:
    """A copy of `model` that computes the same by operations that runtimes have int8 kernels for.

    A `ChannelMap` becomes the 1×1 convolution that picks its channels: its padding and gathering
    run in floating point, and its strided slices in another memory layout than convolutions.
    """
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, ChannelMap) and name:
            model.set_submodule(name, module.as_convolution())
    return model


def strip(graph: onnx.ModelProto) -> None:
    """Remove, in place, what a runtime does not need: metadata, documentation, intermediate shapes."""
    body = graph.graph
    body.ClearField("value_info")
    for part in (graph, body, *body.node, *body.initializer, *body.input, *body.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


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
