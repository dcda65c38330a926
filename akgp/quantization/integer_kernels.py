"""onnxruntime's integer kernels in numpy: sums of products in int32, one float32 product, rounding to even.

Each takes a node, its quantized inputs, and the scale and zero point of its output; it returns rounded steps
of the output, not yet clipped. Tensors are NCHW. Each rounds where onnxruntime's does: before or after adding
the zero point.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from akgp.quantization.qdq import attributes

if TYPE_CHECKING:
    from onnx import NodeProto

Array = NDArray[Any]
f32 = np.float32


@dataclass(frozen=True)
class Quantized:
    """Integers q that stand for (q − zero) · scale; scale and zero: a number, or one a channel (weights).

    Attributes:
        name: of the tensor that holds the integers; of the moved tensor, where values were only moved.
    """

    q: Array
    scale: Array
    zero: Array
    name: str
    axis: int = 1

    def floats(self) -> Array:
        """float32, as DequantizeLinear computes it."""
        scale, zero = self.scale, self.zero.astype(np.int32)
        if scale.ndim:
            shape = [-1 if axis == self.axis % self.q.ndim else 1 for axis in range(self.q.ndim)]
            scale, zero = scale.reshape(shape), zero.reshape(shape)
        return ((self.q.astype(np.int32) - zero).astype(f32) * scale).astype(f32)

    def centred(self) -> Array:
        """q − zero as float64, in which sums of products are exact."""
        return self.q.astype(np.float64) - self.zero.astype(np.float64).reshape(-1)[0]


def factor(node: NodeProto, inputs: tuple[Any, ...], scale: Array) -> Array:
    """What turns a sum of products, or of a feature map's pixels, into steps of an output of `scale`.

    float32, a number or one an output channel; the order of the operations is the kernels'.
    """
    if node.op_type.endswith("AveragePool"):
        return np.asarray(inputs[0].scale / (scale * f32(np.prod(inputs[0].q.shape[2:]))))
    alpha = f32(attributes(node).get("alpha", 1.0))  # Gemm's; a product with 1 changes nothing
    return np.asarray(alpha * inputs[0].scale * inputs[1].scale / scale)


def addition(a: Quantized, b: Quantized, scale: Array, zero: Array) -> tuple[Array, Array, Array]:
    """ratio_a, ratio_b and fixed of out = a · ratio_a + (b · ratio_b + fixed)."""
    ratio_a, ratio_b = a.scale / scale, b.scale / scale
    return ratio_a, ratio_b, f32(zero) - (ratio_a * f32(a.zero) + ratio_b * f32(b.zero))


def is_global(node: NodeProto, shape: tuple[int, ...]) -> bool:
    """Whether an average pool of this input shape has one window, as large as the feature map, unpadded."""
    given = attributes(node)
    return tuple(given["kernel_shape"]) == shape[2:] and not any(given.get("pads", ()))


def _fused_multiply_add(a: Array, b: Array, c: Array) -> Array:
    """a · b + c rounded once to float32: in float64 the product of 8 and 24 bits is exact."""
    return (a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)).astype(f32)


def _requantized(sums: Array, scale: Array, zero: Array) -> Array:
    """int32 sums to steps of the output: float32 product, rounded half to even, then the zero point."""
    return np.rint(sums.astype(f32) * scale) + zero.astype(np.float64)


def _by_channel(values: Array, dims: int) -> Array:
    return values.reshape(1, -1, *[1] * (dims - 2)) if values.ndim else values


def _conv(node: NodeProto, inputs: tuple[Any, ...], scale: Array, zero: Array) -> Array:
    x, weight, *bias = inputs
    given = attributes(node)
    spatial = x.q.ndim - 2
    begin, end = np.split(np.array(given.get("pads", [0] * 2 * spatial)), 2)
    # ONNX: all begins, then all ends, first axis first. F.pad: (begin, end) by axis, last axis first.
    padding = [int(side) for pair in zip(begin[::-1], end[::-1], strict=True) for side in pair]
    # In float64, where sums of 8-bit products are exact. Padding with 0 is padding with the zero point here.
    convolve = (F.conv1d, F.conv2d, F.conv3d)[spatial - 1]
    sums = convolve(
        F.pad(torch.from_numpy(x.centred()), padding),
        torch.from_numpy(weight.q.astype(np.float64)),
        torch.from_numpy(bias[0].q.astype(np.float64)) if bias else None,
        stride=given.get("strides", 1),
        dilation=given.get("dilations", 1),
        groups=given.get("group", 1),
    ).numpy()
    return _requantized(sums, _by_channel(factor(node, inputs, scale), sums.ndim), zero)


def _gemm(node: NodeProto, inputs: tuple[Any, ...], scale: Array, zero: Array) -> Array:
    x, weight, *bias = inputs
    given = attributes(node)
    left = x.centred().T if given.get("transA") else x.centred()
    right = weight.q.astype(np.float64)
    sums = left @ (right.T if given.get("transB") else right)
    if bias and bias[0] is not None:
        sums = sums + bias[0].q.astype(np.float64)
    return _requantized(sums, factor(node, inputs, scale), zero)


def _matmul(node: NodeProto, inputs: tuple[Any, ...], scale: Array, zero: Array) -> Array:
    x, y = inputs
    return _requantized(x.centred() @ y.centred(), factor(node, inputs, scale), zero)


def _add(node: NodeProto, inputs: tuple[Any, ...], scale: Array, zero: Array) -> Array:
    a, b = inputs
    # Two fused multiply-adds in this order, then rounded.
    ratio_a, ratio_b, fixed = addition(a, b, scale, zero)
    return np.rint(_fused_multiply_add(a.q, ratio_a, _fused_multiply_add(b.q, ratio_b, fixed)))


def _mul(node: NodeProto, inputs: tuple[Any, ...], scale: Array, zero: Array) -> Array:
    a, b = inputs
    products = (a.centred() * b.centred()).astype(f32)
    return np.rint(products * factor(node, inputs, scale) + f32(zero))


def _average_pool(node: NodeProto, inputs: tuple[Any, ...], scale: Array, zero: Array) -> Array:
    """float32 sums in the order of the pixels, as in this kernel alone; rounded after adding the zero point.

    A window as large as the feature map, without padding, is pooled by the kernel for global pooling.
    """
    given = attributes(node)
    kernel = given["kernel_shape"]
    if is_global(node, inputs[0].q.shape):
        return _global_average_pool(node, inputs, scale, zero)
    dims = len(kernel)
    strides = given.get("strides", [1] * dims)
    begin, end = np.split(np.array(given.get("pads", [0] * 2 * dims)), 2)
    x = inputs[0].floats()
    lengths = np.array(x.shape[2:]) + begin + end - kernel
    steps = -(-lengths // strides) if given.get("ceil_mode") else lengths // strides
    beyond = np.maximum(steps * strides - lengths, 0)  # ceil_mode: the last window may reach past the padding
    widths = [(0, 0), (0, 0), *zip(begin, end + beyond, strict=True)]
    axes = tuple(range(2, 2 + dims))
    every: Any = (..., *(slice(None, None, stride) for stride in strides), *[slice(None)] * dims)

    def total(values: Array) -> Any:  # pixel by pixel: np.sum may add in another order
        windows: Any = np.lib.stride_tricks.sliding_window_view(np.pad(values, widths), kernel, axes)[every]
        return sum(windows[(..., *place)] for place in np.ndindex(*kernel))

    count = f32(np.prod(kernel)) if given.get("count_include_pad") else total(np.ones_like(x))
    return np.rint(total(x) / count / scale + f32(zero))


def _global_average_pool(node: NodeProto, inputs: tuple[Any, ...], scale: Array, zero: Array) -> Array:
    (x,) = inputs
    pixels = tuple(range(2, x.q.ndim))
    sums = x.centred().sum(pixels, keepdims=True)
    return _requantized(sums, factor(node, inputs, scale), zero)


def _concat(node: NodeProto, inputs: tuple[Any, ...], scale: Array, zero: Array) -> Array:
    parts = [np.rint(part.floats() / scale) + zero.astype(np.float64) for part in inputs]
    return np.concatenate(parts, attributes(node)["axis"])


KERNELS: Mapping[str, Callable[..., Array]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Add": _add,
    "Mul": _mul,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average_pool,
    "Concat": _concat,
}
