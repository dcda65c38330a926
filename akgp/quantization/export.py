"""Exports networks as float ONNX graphs without what a runtime does not need; `ptq` quantizes them."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from akgp.io.errors import first_line
from akgp.models import ChannelMap
from akgp.models.copying import deep_copy
from akgp.models.plain import why_wrapped
from akgp.models.user_code import at, at_in
from akgp.quantization.channel_affine import fold_channel_affines
from akgp.quantization.channel_layout import read_channels_in_place
from akgp.quantization.channel_moves import gather_shuffled_channels
from akgp.quantization.checking import QuantizationError, logits_of, require_same
from akgp.quantization.rewriting import use_integer_operations

if TYPE_CHECKING:
    import onnx

INPUT, OUTPUT = "input", "logits"


def export_onnx(model: nn.Module, example_input: Tensor, path: str | Path) -> None:
    """Write a network in eval mode as an ONNX graph: `input` [N, C, H, W] → `logits` [N, classes].

    The batch size N is free; names, documentation and intermediate shapes, which can outweigh a
    small network, are left out. The network itself is not changed.

    Args:
        example_input: [any N, C, H, W], on the network's device.

    Raises:
        QuantizationError: it is in a wrapper, a weight is not float32, torch.export cannot trace the network
            for any batch size, its output is not a tensor, or not a function of the images alone, or the
            graph does not compute what the network does.
    """
    import onnx

    if wrapped := why_wrapped(model):
        raise QuantizationError(f"{type(model).__name__} cannot be exported to ONNX: it {wrapped}")
    if not isinstance(example_input, Tensor):
        raise QuantizationError(
            f"example_input must be a tensor [N, C, H, W], got {type(example_input).__name__}"
        )
    network = for_runtimes(model).eval()
    # torch.export specialises a dimension of size 1 to a constant.
    batch = example_input[:1].expand(2, *example_input.shape[1:]).contiguous()
    failure = f"{type(model).__name__} cannot be exported to ONNX for input [N, {_shape(batch)}]"
    for name, weight in network.named_parameters():
        if weight.dtype != torch.float32:
            raise QuantizationError(f"{failure}: {name} is {weight.dtype}, must be float32: call .float()")
    _require_tensor(network, batch)
    try:
        graph = _converted(network, batch)
    except torch.onnx.OnnxExporterError as error:
        cause = error.__cause__ or error
        raise QuantizationError(f"{failure}: {first_line(cause)}{at(cause)}") from error
    # The exporter may fix the batch size without an error.
    if not _takes_any_batch(graph):
        graph = _traced_by_bytecode(network, batch, failure)
    use_integer_operations(graph)
    gather_shuffled_channels(graph)
    read_channels_in_place(graph)
    fold_channel_affines(graph)
    strip(graph)
    flatten_biases(graph)
    onnx.checker.check_model(graph)
    onnx.save(graph, str(path))
    require_same(network, path, example_input)


def _require_tensor(model: nn.Module, batch: Tensor) -> None:
    """Raise QuantizationError if `model` gives something else; errors of its code are left to the export."""
    try:
        logits_of(model, batch)
    except QuantizationError:
        raise
    except Exception:
        return


def _converted(model: nn.Module | torch.export.ExportedProgram, batch: Tensor) -> onnx.ModelProto:
    # A fused kernel of attention lays its output out in other strides than torch expects in `view`.
    with sdpa_kernel(SDPBackend.MATH):
        program = torch.onnx.export(
            model,
            (batch,),
            dynamo=True,
            verbose=False,
            dynamic_shapes=({0: torch.export.Dim("N")},),
            input_names=[INPUT],
            output_names=[OUTPUT],
        )
    assert program is not None
    return program.model_proto


def _takes_any_batch(graph: onnx.ModelProto) -> bool:
    return bool(graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param)


def _traced_by_bytecode(model: nn.Module, batch: Tensor, failure: str) -> onnx.ModelProto:
    """The graph for any batch size of a forward that makes it a Python number: `int(x.shape[0])`, `len(x)`.

    Tracing Python's bytecode (`strict`) keeps such numbers symbolic; it takes longer, so it comes second.

    Raises:
        QuantizationError: the graph depends on that number, as of a loop over the images; names the line.
    """
    guards = logging.getLogger("torch._guards")
    guards.addFilter(_drop)  # it logs the whole stack of an error that is reported in one line here
    try:
        program = torch.export.export(
            model, (batch,), dynamic_shapes=({0: torch.export.Dim("N")},), strict=True
        )
        return _converted(program, batch)
    except Exception as error:  # of dynamo, which raises many kinds, or of the exporter
        raise QuantizationError(
            f"{failure}: its forward makes the batch size a constant, as a loop over the images does"
            f"{at_in(str(error))}"
        ) from error
    finally:
        guards.removeFilter(_drop)


def _drop(record: logging.LogRecord) -> bool:
    return False


def _shape(batch: Tensor) -> str:
    return ", ".join(map(str, batch.shape[1:]))


def for_runtimes(model: nn.Module) -> nn.Module:
    """A copy of `model` that computes the same with operations for which runtimes have int8 kernels.

    A `ChannelMap` becomes the 1×1 convolution that selects its channels. Its padding and gathering would
    run in floating point, and its strided slices in another memory layout than the convolutions: as a
    convolution the int8 ResNet-20 is 6 to 8 % faster.
    """
    model = deep_copy(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, ChannelMap) and name:
            model.set_submodule(name, module.as_convolution())
    return model


def strip(graph: onnx.ModelProto) -> None:
    """Remove, in place, what a runtime does not need.

    That is metadata, documentation, intermediate shapes, constants and operator sets that no node uses.
    """
    body = graph.graph
    used = {name for node in body.node for name in node.input}
    domains = {node.domain for node in body.node} | {""}
    for field, unused in (
        (body.initializer, [x for x in body.initializer if x.name not in used]),
        (graph.opset_import, [x for x in graph.opset_import if x.domain not in domains]),
    ):
        for each in unused:
            field.remove(each)
    body.ClearField("value_info")
    for part in (graph, body, *body.node, *body.initializer, *body.input, *body.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def flatten_biases(graph: onnx.ModelProto) -> None:
    """Reshape, in place, constants [1, N] that are added to a matrix product to [N]: the sum is the same.

    onnxruntime fuses product and sum into one node, where its quantizer fails on a bias of two dimensions.
    """
    body = graph.graph
    products = {output for node in body.node if node.op_type in ("MatMul", "Gemm") for output in node.output}
    users = Counter(name for node in body.node for name in node.input)
    added = {
        name
        for node in body.node
        if node.op_type == "Gemm" or (node.op_type == "Add" and products & set(node.input))
        for name in (node.input[2:] if node.op_type == "Gemm" else node.input)
    }
    # Used nowhere else: another node may need both dimensions.
    for constant in body.initializer:
        alone = constant.name in added and users[constant.name] == 1
        if alone and len(constant.dims) == 2 and constant.dims[0] == 1:
            del constant.dims[0]  # the values stay: row-major order is the same
