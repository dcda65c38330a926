"""Writes each layer's constants and the call of its kernel.

Feature maps lie in memory as H, W, C. Layers with weights are written in `weighted`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from akgp.microcontroller.calls import Emitted, require
from akgp.microcontroller.constants import Constants
from akgp.microcontroller.layers import Layer
from akgp.microcontroller.weighted import add_structure, convolution, gemm
from akgp.quantization import operations as ops
from akgp.quantization import requantization
from akgp.quantization.fixed_point import FixedPoint


def emitted(layer: Layer, name: str, constants: Constants) -> Emitted:
    """Write the layer's constants; its call.

    Raises:
        QuantizationError: names a layer that has no exact fixed-point form.
    """
    return EMITTERS[type(layer.operation)](layer, name, constants)


def _add(layer: Layer, name: str, constants: Constants) -> Emitted:
    operation = layer.operation
    assert isinstance(operation, ops.Add)
    form = requantization.add(operation)
    require(form.proven, operation)
    structure = add_structure(name, form.constant, *form.multipliers, constants)
    count = int(np.prod(operation.output.shape))
    return Emitted(("common", "add", "add_layer"), f"add_layer({structure}, {{0}}, {{1}}, {{out}}, {count});")


def _mul(layer: Layer, name: str, constants: Constants) -> Emitted:
    operation = layer.operation
    assert isinstance(operation, ops.Mul)
    form = requantization.mul(operation)
    require(form.proven, operation)
    a, b = operation.inputs
    structure = constants.structure(
        "mul_t",
        name,
        fixed=constants.fixed(name, form),
        zero_a=int(a.zero),
        zero_b=int(b.zero),
        broadcast=int(a.shape != b.shape),
    )
    call = f"mul_layer({structure}, {{0}}, {{1}}, {{out}}, {a.pixels}, {a.shape[0]});"
    return Emitted(("common", "mul"), call)


def _window(operation: ops.MaxPool | ops.AveragePool, name: str, constants: Constants) -> str:
    (channels, height, width), (_, out_height, out_width) = operation.input.shape, operation.output.shape
    return constants.structure(
        "window_t",
        name,
        height=height,
        width=width,
        channels=channels,
        out_height=out_height,
        out_width=out_width,
        kernel_height=operation.kernel[0],
        kernel_width=operation.kernel[1],
        stride_y=operation.strides[0],
        stride_x=operation.strides[1],
        pad_top=operation.pads[0],
        pad_left=operation.pads[1],
    )


def _max_pool(layer: Layer, name: str, constants: Constants) -> Emitted:
    assert isinstance(layer.operation, ops.MaxPool)
    window = _window(layer.operation, name, constants)
    return Emitted(("window", "max_pool"), f"max_pool({window}, {{0}}, {{out}});")


def _average_pool(layer: Layer, name: str, constants: Constants) -> Emitted:
    operation = layer.operation
    assert isinstance(operation, ops.AveragePool)
    form = requantization.average_pool(operation)
    require(form.proven, operation)
    fixed = constants.fixed(f"{name}_counts", _by_count(form, operation.counts))
    structure = constants.declare("fixed_t", f"{name}_fixed", fixed)
    window = _window(operation, name, constants)
    files = ("common", "window", "average_pool")
    return Emitted(files, f"average_pool({window}, {structure}, {{0}}, {{out}});")


def _by_count(form: FixedPoint, counts: list[int]) -> FixedPoint:
    """With a channel for every number up to the largest of `counts`."""

    def spread(values: NDArray[np.int64]) -> NDArray[np.int64]:
        every = np.zeros(counts[-1] + 1, np.int64)
        every[counts] = values
        return every

    multipliers, constants = spread(form.multipliers), spread(form.constants)
    return FixedPoint(multipliers, constants, form.before, spread(form.after), form.proven)


def _global_average_pool(layer: Layer, name: str, constants: Constants) -> Emitted:
    operation = layer.operation
    assert isinstance(operation, ops.GlobalAveragePool)
    form = requantization.global_average_pool(operation)
    require(form.proven, operation)
    structure = constants.declare("fixed_t", name, constants.fixed(name, form))
    channels, pixels = operation.input.shape[0], operation.input.pixels
    call = f"global_average_pool({structure}, {{0}}, {{out}}, {pixels}, {channels});"
    return Emitted(("common", "global_average_pool"), call)


def _table(layer: Layer, name: str, constants: Constants) -> Emitted:
    operation = layer.operation
    assert isinstance(operation, ops.Table)
    table = constants.array(name, operation.table, np.uint8)
    count = int(np.prod(operation.output.shape))
    return Emitted(("table",), f"table_layer({table}, {{0}}, {{out}}, {count});")


def _concat(layer: Layer, name: str, constants: Constants) -> Emitted:
    operation = layer.operation
    assert isinstance(operation, ops.Concat)
    calls, offset, all_channels = [], 0, operation.output.shape[0]
    for index, (given, table) in enumerate(zip(operation.inputs, operation.tables, strict=True)):
        by = constants.array(f"{name}_{index}", table, np.uint8)
        into = f"{{out}} + {offset}"
        calls.append(
            f"concat_part({by}, {{{index}}}, {into}, {given.pixels}, {given.shape[0]}, {all_channels});"
        )
        offset += given.shape[0]
    return Emitted(("concat",), "\n    ".join(calls))


def _select(layer: Layer, name: str, constants: Constants) -> Emitted:
    operation = layer.operation
    assert isinstance(operation, ops.Select)
    index = constants.array(name, operation.index % 2**16, np.uint16)  # -1: the largest
    given, channels = operation.input, len(operation.index)
    sizes = f"{given.pixels}, {given.shape[0]}, {channels}, {int(given.zero)}"
    return Emitted(("select",), f"select_channels({index}, {{0}}, {{out}}, {sizes});")


EMITTERS: Mapping[type, Callable[[Layer, str, Constants], Emitted]] = {
    ops.Convolution: convolution,
    ops.Gemm: gemm,
    ops.Add: _add,
    ops.Mul: _mul,
    ops.MaxPool: _max_pool,
    ops.AveragePool: _average_pool,
    ops.GlobalAveragePool: _global_average_pool,
    ops.Table: _table,
    ops.Concat: _concat,
    ops.Select: _select,
}
