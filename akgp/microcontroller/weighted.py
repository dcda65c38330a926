"""Writes the constants and calls of layers with weights: convolutions and fully connected layers.

Weights of a convolution are rows of kh, kw, I, padded with zeros to a multiple of 4 bytes. For MVE one row
follows another; for other cores they come in pairs, in turn. Those of a depthwise one lie as kh, kw, C.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from akgp.microcontroller.calls import Emitted, require
from akgp.microcontroller.constants import Constants
from akgp.microcontroller.layers import Layer
from akgp.quantization import QuantizationError, requantization
from akgp.quantization import operations as ops

LARGEST_KERNEL = 49
"""Elements of a depthwise kernel's window, as kernels/depthwise.c has room for."""


def _weights(layer: Layer, name: str, constants: Constants) -> tuple[str, str]:
    """The initializers of `fixed` and `add`, which convolutions of all kinds have."""
    operation: Any = layer.operation
    form = requantization.weighted(operation)
    require(form.proven, operation)
    depthwise = isinstance(operation, ops.Convolution) and _is_depthwise(operation)
    sums = operation.weight.reshape(len(operation.weight), -1).astype(np.int64).sum(1)
    return constants.fixed(name, form, None if depthwise else sums), _addition(layer, name, constants)


def _addition(layer: Layer, name: str, constants: Constants) -> str:
    if layer.add is None:
        return "0"
    form = requantization.add(layer.add)
    require(form.proven, layer.add)
    a, b = form.multipliers
    if not layer.add_first:  # the kernel adds its result as a
        a, b = b, a
    return add_structure(name, form.constant, a, b, constants)


def add_structure(name: str, constant: int, a: int, b: int, constants: Constants) -> str:
    """Declare the constants of an addition; a reference to them."""
    return constants.structure("add_t", f"{name}_add", constant=f"INT64_C({constant})", a=a, b=b)


def _rows(weight_OK: NDArray[np.int8]) -> NDArray[np.int8]:
    """Padded to a multiple of 4 columns."""
    return np.pad(weight_OK, [(0, 0), (0, -weight_OK.shape[1] % 4)])


def _in_turn(rows: NDArray[np.int8], groups: int) -> NDArray[np.int8]:
    """Two rows in turn, 4 weights of each; in each group a row that is left over has zeros beside it."""
    outputs, row = rows.shape
    in_groups = rows.reshape(groups, outputs // groups, row)
    even = np.pad(in_groups, [(0, 0), (0, in_groups.shape[1] % 2), (0, 0)])
    return even.reshape(-1, 2, row // 4, 4).swapaxes(1, 2).reshape(-1)


def _is_depthwise(operation: ops.Convolution) -> bool:
    return operation.groups == operation.input.shape[0] == operation.output.shape[0] > 1


def convolution(layer: Layer, name: str, constants: Constants) -> Emitted:
    """A convolution of any grouping."""
    operation = layer.operation
    assert isinstance(operation, ops.Convolution)
    if _is_depthwise(operation):
        return _depthwise(layer, operation, name, constants)
    outputs, inputs, *kernel = operation.weight.shape
    rows = _rows(np.moveaxis(operation.weight, 1, -1).reshape(outputs, -1))
    plain = operation.strides == (1, 1) and not any(operation.pads) and kernel == [1, 1]
    direct = plain and operation.groups == 1 and inputs == rows.shape[1]
    fixed, add = _weights(layer, name, constants)
    structure = constants.structure(
        "convolution_t",
        name,
        fixed=fixed,
        weights=constants.array(
            f"{name}_weights", _in_turn(rows, operation.groups), np.int8, mve=rows.reshape(-1)
        ),
        add=add,
        row=rows.shape[1],
        **_geometry(operation),
        outputs=outputs,
        group_channels=inputs,
        group_outputs=outputs // operation.groups,
        direct=int(direct),
    )
    macs = operation.weight.size * operation.output.pixels
    scratch = (4 if direct else 6) * rows.shape[1]
    return _weighted_call(layer, "convolution", structure, scratch, macs)


def _weighted_call(layer: Layer, kernel: str, structure: str, scratch: int, macs: int) -> Emitted:
    residual = "{1}" if layer.add else "0"
    call = f"{kernel}({structure}, {{0}}, {{out}}, {'{scratch}' if scratch else '0'}, {residual});"
    files = ("common", "add", "depthwise") if kernel == "depthwise" else ("common", "add", "dots", kernel)
    return Emitted(files, call, scratch, macs)


def _geometry(operation: ops.Convolution) -> dict[str, int]:
    (channels, height, width), (_, out_height, out_width) = operation.input.shape, operation.output.shape
    return {
        "height": height,
        "width": width,
        "channels": channels,
        "out_height": out_height,
        "out_width": out_width,
        "kernel_height": operation.weight.shape[2],
        "kernel_width": operation.weight.shape[3],
        "stride_y": operation.strides[0],
        "stride_x": operation.strides[1],
        "pad_top": operation.pads[0],
        "pad_left": operation.pads[1],
        "dilation_y": operation.dilations[0],
        "dilation_x": operation.dilations[1],
        "zero": int(operation.input.zero),
    }


def _depthwise(layer: Layer, operation: ops.Convolution, name: str, constants: Constants) -> Emitted:
    channels = len(operation.weight)
    taps = operation.weight.reshape(channels, -1).T
    if len(taps) > LARGEST_KERNEL:
        raise QuantizationError(
            f"{operation.label}: a depthwise kernel may have {LARGEST_KERNEL} elements in C, got {len(taps)}"
        )
    fixed, add = _weights(layer, name, constants)
    weights = constants.array(f"{name}_weights", taps.reshape(-1), np.int8)
    structure = constants.structure(
        "depthwise_t", name, fixed=fixed, weights=weights, add=add, **_geometry(operation)
    )
    macs = operation.weight.size * operation.output.pixels
    return _weighted_call(layer, "depthwise", structure, channels, macs)


def gemm(layer: Layer, name: str, constants: Constants) -> Emitted:
    """As a convolution of one pixel."""
    operation = layer.operation
    assert isinstance(operation, ops.Gemm)
    outputs, inputs = operation.weight.shape
    same = ops.Convolution(
        name=operation.name,
        output=replace(operation.output, shape=(outputs, 1, 1)),
        input=replace(operation.input, shape=(inputs, 1, 1)),
        weight=operation.weight[:, :, None, None],
        weight_scales=operation.weight_scales,
        bias=operation.bias,
        strides=(1, 1),
        pads=(0, 0, 0, 0),
        dilations=(1, 1),
        groups=1,
        layer=operation.layer,
    )
    return convolution(replace(layer, operation=same), name, constants)
