"""onnxruntime's integer kernels in numpy: sums of products in int32, one float32 product, rounding to even.

Each takes a node, its quantized inputs, and the scale and zero point of its output; it returns rounded steps
of the output, not all of them clipped yet. Tensors are NCHW. Each rounds where onnxruntime's does: before or
after adding the zero point. What depends on one or two 8-bit integers alone is computed once for all of their
values, and looked up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
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
EXACT_IN_FLOAT32 = 2**24
"""Sums of integers are exact in float32, in any order, if the sum of their magnitudes is below it."""


@dataclass(frozen=True)
class Affine:
    """Integers q stand for (q − zero) · scale."""

    scale: Array
    zero: Array


@dataclass(frozen=True)
class Quantized(Affine):
    """Integers q that stand for (q − zero) · scale; scale and zero: a number, or one a channel (weights).

    Attributes:
        name: of the tensor that holds the integers; of the moved tensor, where values were only moved.
    """

    q: Array
    name: str
    axis: int = 1

    def floats(self) -> Array:
        """float32, as DequantizeLinear computes it."""
        return (self.centred(f32) * self._by_axis(self.scale)).astype(f32)

    def centred(self, kind: type[np.floating[Any]] = np.float64) -> Array:
        """q − zero as floats; in float64 sums of products are exact."""
        return self.q.astype(kind) - self._by_axis(self.zero).astype(kind)

    def _by_axis(self, values: Array) -> Array:
        """Scales or zero points in the shape in which they meet the integers."""
        if values.size == 1:
            return values.reshape(())
        return values.reshape([-1 if axis == self.axis % self.q.ndim else 1 for axis in range(self.q.ndim)])

    @property
    def largest(self) -> int:
        """The largest |q − zero| of any q."""
        kind, zero = np.iinfo(self.q.dtype), int(self.zero.reshape(-1)[0])
        return max(kind.max - zero, zero - kind.min)

    def every(self) -> Quantized:
        """All values that its integers can have, in order: [256]."""
        kind = np.iinfo(self.q.dtype)
        return replace(self, q=np.arange(kind.min, kind.max + 1, dtype=self.q.dtype))


def clipped(steps: Array, zero: Array) -> Array:
    """Rounded steps of an output, zero point included, within its type."""
    kind = np.iinfo(zero.dtype)
    return np.clip(steps, kind.min, kind.max).astype(zero.dtype)


def by_table(function: Callable[..., Array], *inputs: Quantized) -> Array:
    """`function` of one or two 8-bit tensors, by element; it is called once, with all their values."""
    first, *second = inputs
    if not second:
        return function(first.every())[_place(first)]
    column = replace(first, q=first.every().q[:, None])
    table = function(column, second[0].every()).ravel()
    return table[(_place(first).astype(np.uint16) << 8) + _place(second[0])]


def _place(tensor: Quantized) -> Array:
    """The position of each integer in `every`."""
    if tensor.q.dtype == np.uint8:
        return tensor.q
    return (tensor.q.astype(np.int16) - np.iinfo(tensor.q.dtype).min).astype(np.uint8)


def product_factor(one: Array, other: Array, scale: Array) -> Array:
    """What turns a sum of products into steps of an output of `scale`: float32, in the kernels' order."""
    return one * other / scale


def mean_factor(one: Array, pixels: int, scale: Array) -> Array:
    """The same for a sum over all pixels."""
    return one / (scale * f32(pixels))


def addition(a: Affine, b: Affine, output: Affine) -> tuple[Array, Array, Array]:
    """ratio_a, ratio_b and fixed of out = a · ratio_a + (b · ratio_b + fixed), float32."""
    ratio_a, ratio_b = a.scale / output.scale, b.scale / output.scale
    # The kernel's compiler fuses the first of the two products: it is not rounded before they are added.
    zeros = _fused_multiply_add(ratio_a, a.zero, ratio_b * f32(b.zero))
    return ratio_a, ratio_b, f32(output.zero) - zeros


def is_global(node: NodeProto, shape: tuple[int, ...]) -> bool:
    """Whether an average pool of this input shape has one window, as large as the feature map, unpadded."""
    given = attributes(node)
    return tuple(given["kernel_shape"]) == shape[2:] and not any(given.get("pads", ()))


def _fused_multiply_add(a: Array, b: Array, c: Array) -> Array:
    """a · b + c rounded once to float32: in float64 the product of 8 and 24 bits is exact."""
    return (a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)).astype(f32)


def _requantized(sums: Array, scale: Array, zero: Array) -> Array:
    """int32 sums to steps of the output: float32 product, rounded half to even, then the zero point."""
    steps = sums.astype(f32)
    steps *= scale
    np.rint(steps, out=steps)
    steps += f32(zero)
    return steps


def _by_channel(values: Array, dims: int) -> Array:
    return values.reshape(1, -1, *[1] * (dims - 2)) if values.ndim else values


def _conv(node: NodeProto, inputs: tuple[Any, ...], scale: Array, zero: Array) -> Array:
    x, weight, *bias = inputs
    given = attributes(node)
    spatial = x.q.ndim - 2
    begin, end = np.split(np.array(given.get("pads", [0] * 2 * spatial)), 2)
    # ONNX: all begins, then all ends, first axis first. F.pad: (begin, end) by axis, last axis first.
    padding = [int(side) for pair in zip(begin[::-1], end[::-1], strict=True) for side in pair]
    weights = weight.centred()
    biases = bias[0].q.astype(np.float64) if bias else np.zeros(len(weights))
    kind = _exact_in(x, weights, biases)
    convolve = (F.conv1d, F.conv2d, F.conv3d)[spatial - 1]
    # NNPACK convolves by transforms, whose values are no integers.
    with torch.backends.nnpack.flags(enabled=False):
        sums = convolve(
            F.pad(torch.from_numpy(x.centred(kind)), padding),  # with 0: the zero point
            torch.from_numpy(weights.astype(kind)),
            torch.from_numpy(biases.astype(kind)),
            stride=given.get("strides", 1),
            dilation=given.get("dilations", 1),
            groups=given.get("group", 1),
        ).numpy()
    return _requantized(sums, _by_channel(product_factor(x.scale, weight.scale, scale), sums.ndim), zero)


def _exact_in(x: Quantized, weight_OIHW: Array, bias: Array) -> type[np.floating[Any]]:
    """The faster float type in which all sums of these products are exact, whatever x holds."""
    reach = np.abs(weight_OIHW).reshape(len(weight_OIHW), -1).sum(1) * x.largest + np.abs(bias)
    # oneDNN's convolutions sum products; of others that is not known.
    fits = reach.max(initial=0) < EXACT_IN_FLOAT32 and torch.backends.mkldnn.is_available()
    return np.float32 if fits else np.float64


def _gemm(node: NodeProto, inputs: tuple[Any, ...], scale: Array, zero: Array) -> Array:
    x, weight, *bias = inputs
    given = attributes(node)
    left = x.centred().T if given.get("transA") else x.centred()
    right = weight.centred()
    sums = left @ (right.T if given.get("transB") else right)
    if bias and bias[0] is not None:
        sums = sums + bias[0].q.astype(np.float64)
    alpha = f32(given.get("alpha", 1.0))
    return _requantized(sums, product_factor(alpha * x.scale, weight.scale, scale), zero)


def _matmul(node: NodeProto, inputs: tuple[Any, ...], scale: Array, zero: Array) -> Array:
    x, y = inputs
    return _requantized(x.centred() @ y.centred(), product_factor(x.scale, y.scale, scale), zero)


def _add(node: NodeProto, inputs: tuple[Any, ...], scale: Array, zero: Array) -> Array:
    def total(a: Quantized, b: Quantized) -> Array:
        # Two fused multiply-adds in this order, then rounded.
        ratio_a, ratio_b, fixed = addition(a, b, Affine(scale, zero))
        steps = _fused_multiply_add(a.q, ratio_a, _fused_multiply_add(b.q, ratio_b, fixed))
        return clipped(np.rint(steps), zero)

    return by_table(total, *inputs)


def _mul(node: NodeProto, inputs: tuple[Any, ...], scale: Array, zero: Array) -> Array:
    def product(a: Quantized, b: Quantized) -> Array:
        products = (a.centred() * b.centred()).astype(f32)
        return clipped(np.rint(products * product_factor(a.scale, b.scale, scale) + f32(zero)), zero)

    return by_table(product, *inputs)


def _windows(node: NodeProto, x: Array, outside: float) -> list[Array]:
    """For each place in a pooling window, top left first, the pixels that lie there, one a window.

    outside: what surrounds the map. With ceil_mode the last window may reach past the padding.
    """
    given = attributes(node)
    kernel = given["kernel_shape"]
    dims = len(kernel)
    strides, dilations = (given.get(key, [1] * dims) for key in ("strides", "dilations"))
    begin, end = np.split(np.array(given.get("pads", [0] * 2 * dims)), 2)
    size = np.array(x.shape[2:])
    lengths = size + begin + end - (np.array(kernel) - 1) * dilations - 1
    steps = -(-lengths // strides) if given.get("ceil_mode") else lengths // strides
    steps -= steps * strides >= size + begin  # no window begins behind the map
    beyond = np.maximum(steps * strides - lengths, 0)
    widths = [(0, 0), (0, 0), *zip(begin, end + beyond, strict=True)]
    padded = np.pad(x, widths, constant_values=outside)

    def pixels(place: tuple[int, ...]) -> Array:
        ranges = zip(np.array(place) * dilations, steps, strides, strict=True)
        axes = (slice(start, start + count * stride + 1, stride) for start, count, stride in ranges)
        where: Any = (..., *axes)
        return padded[where]

    return [pixels(place) for place in np.ndindex(*kernel)]


def _average_pool(node: NodeProto, inputs: tuple[Any, ...], scale: Array, zero: Array) -> Array:
    """float32 sums in the order of the pixels, as in this kernel alone; rounded after adding the zero point.

    A window as large as the feature map, without padding, is pooled by the kernel for global pooling.
    """
    given = attributes(node)
    if is_global(node, inputs[0].q.shape):
        return _global_average_pool(node, inputs, scale, zero)
    x = inputs[0].floats()
    total: Any = sum(_windows(node, x, 0))  # pixel by pixel: np.sum may add in another order
    count: Any = f32(np.prod(given["kernel_shape"]))
    if not given.get("count_include_pad"):
        count = sum(_windows(node, np.ones_like(x[:1]), 0))
    return np.rint(total / count / scale + f32(zero))


def _global_average_pool(node: NodeProto, inputs: tuple[Any, ...], scale: Array, zero: Array) -> Array:
    (x,) = inputs
    pixels = tuple(range(2, x.q.ndim))
    sums = x.q.astype(np.int64).sum(pixels, keepdims=True) - np.prod(x.q.shape[2:]) * int(x.zero)
    return _requantized(sums, mean_factor(x.scale, int(np.prod(x.q.shape[2:])), scale), zero)


def _concat(node: NodeProto, inputs: tuple[Any, ...], scale: Array, zero: Array) -> Array:
    def rescaled(part: Quantized) -> Array:
        return clipped(np.rint(part.floats() / scale) + zero.astype(np.float64), zero)

    return np.concatenate([by_table(rescaled, part) for part in inputs], attributes(node)["axis"])


def max_pool(node: NodeProto, x: Quantized) -> Quantized:
    """The largest integers, whose order is that of the values; padding is less than all of them."""
    windows = _windows(node, x.q, np.iinfo(x.q.dtype).min)
    return replace(x, q=reduce(np.maximum, windows), name=node.output[0])


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
