"""The operations of an int8 network, as a deployed program has to compute them.

Activations are unsigned 8-bit integers q that stand for (q − zero) · scale. Sums of products are exact in
int32. `factors` turn them into steps of the output: out = clip(rint(f32(sum) · factor) + zero, 0, 255), in
float32, halves to even, unless an operation says otherwise.

Letters of shapes: O output channels, I input channels of a group, K inputs of a fully connected layer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from akgp.quantization.integer_kernels import Affine, addition, mean_factor, product_factor

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Activation(Affine):
    """A tensor between operations: scale float32, zero int32; shape (C, H, W) or (K,), without the batch."""

    name: str
    shape: tuple[int, ...]

    @property
    def pixels(self) -> int:
        """H · W."""
        return int(np.prod(self.shape[1:]))


@dataclass(frozen=True)
class _Operation:
    """name: the node's in the file."""

    name: str
    output: Activation

    @property
    def label(self) -> str:
        """What messages and tables call it."""
        return self.name


@dataclass(frozen=True)
class _Weighted(_Operation):
    """A sum of products with constant weights.

    Attributes:
        weight: int8, one row an output channel.
        weight_scales: float32 [O].
        bias: int32 [O], in steps of the input's times the weight's scale; zeros where there is none.
        layer: the name of the network's module, as its weights are named; several operations may share it.
    """

    input: Activation
    weight: NDArray[np.int8]
    weight_scales: Floats
    bias: NDArray[np.int32]
    layer: str = field(default="", kw_only=True)

    @property
    def label(self) -> str:
        return self.layer or self.name

    @property
    def factors(self) -> Floats:
        """float32 [O]."""
        return product_factor(self.input.scale, self.weight_scales, self.output.scale)


@dataclass(frozen=True)
class Convolution(_Weighted):
    """weight: [O, I, kh, kw], not flipped; padded with the input's zero point.

    Attributes:
        pads: top, left, bottom, right.
        strides, dilations: vertical, horizontal.
        groups: the input's channels, if it is depthwise.
    """

    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]
    groups: int


@dataclass(frozen=True)
class Gemm(_Weighted):
    """weight: [O, K], K in the order of the input's elements: C, H, W."""


@dataclass(frozen=True)
class Add(_Operation):
    """Of two tensors of one shape: rint(fma(a, ratio_a, fma(b, ratio_b, fixed))), float32."""

    inputs: tuple[Activation, Activation]

    @property
    def terms(self) -> tuple[Floats, Floats, Floats]:
        """ratio_a, ratio_b and fixed, float32."""
        return addition(*self.inputs, self.output)


@dataclass(frozen=True)
class Mul(_Operation):
    """Of two tensors of one shape, or [C, H, W] by [C, 1, 1]: rint((a − zero)(b − zero) · factor + zero)."""

    inputs: tuple[Activation, Activation]

    @property
    def factor(self) -> Floats:
        """float32."""
        return product_factor(self.inputs[0].scale, self.inputs[1].scale, self.output.scale)


@dataclass(frozen=True)
class _Pool(_Operation):
    """A window over each channel. The last windows may reach past the bottom and right padding."""

    input: Activation
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]


@dataclass(frozen=True)
class MaxPool(_Pool):
    """The largest integer of a window; padding does not count."""


@dataclass(frozen=True)
class AveragePool(_Pool):
    """The mean of the float32 values of a window, divided by the output's scale, plus zero, rounded.

    Attributes:
        counts_padding: whether padded elements, which are 0, are counted.
    """

    counts_padding: bool

    @property
    def counts(self) -> list[int]:
        """The numbers of elements within the feature map that a window can have."""
        rows, columns = (self._inside(axis) for axis in (0, 1))
        return sorted({row * column for row in rows for column in columns})

    def _inside(self, axis: int) -> set[int]:
        begins = np.arange(self.output.shape[1 + axis]) * self.strides[axis] - self.pads[axis]
        ends = np.minimum(begins + self.kernel[axis], self.input.shape[1 + axis])
        return set((ends - np.maximum(begins, 0)).tolist())


@dataclass(frozen=True)
class GlobalAveragePool(_Operation):
    """The sum over all pixels, less their zero points, is multiplied by `factor`."""

    input: Activation

    @property
    def factor(self) -> Floats:
        """float32."""
        return mean_factor(self.input.scale, self.input.pixels, self.output.scale)


@dataclass(frozen=True)
class Concat(_Operation):
    """Along the channels. tables: for each input, uint8 [256]: the output's integer for the input's."""

    inputs: tuple[Activation, ...]
    tables: tuple[NDArray[np.uint8], ...]


@dataclass(frozen=True)
class Table(_Operation):
    """Any function of one element, also a change of scale.

    Attributes:
        function: its name, with the parameters that are not the usual ones.
        table: uint8 [256], by the input's integer.
    """

    input: Activation
    function: str
    table: NDArray[np.uint8]


@dataclass(frozen=True)
class Reshape(_Operation):
    """The same integers in the same order (C, H, W) in another shape."""

    input: Activation


@dataclass(frozen=True)
class Select(_Operation):
    """Channels of a tensor, in another order or some of them.

    Attributes:
        index: int64 [O], of the input's channels; -1: the value 0, the integer of the zero point.
    """

    input: Activation
    index: NDArray[np.int64]

    @property
    def begin(self) -> int | None:
        """The first of channels that lie side by side; None if these do not."""
        begin = max(0, int(self.index[0]))
        return begin if np.array_equal(self.index, np.arange(begin, begin + len(self.index))) else None


Operation = (
    Convolution
    | Gemm
    | Add
    | Mul
    | MaxPool
    | AveragePool
    | GlobalAveragePool
    | Concat
    | Table
    | Reshape
    | Select
)
