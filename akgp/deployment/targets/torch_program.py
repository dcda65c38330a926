"""The operations of an int8 file as a PyTorch module, in the form that PyTorch's own quantization exports.

Every activation is dequantized, computed on in float32 and quantized by its scale: backends replace the three
by an integer kernel. Integers are signed, q − 128, with the zero point moved alike, as backends expect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.ao.quantization.fx._decomposed
from torch import Tensor, nn
from torch.nn import functional as F

from akgp.deployment.targets.int8_file import activations
from akgp.quantization import QuantizationError
from akgp.quantization import operations as ops
from akgp.quantization.description import Description

SIGNED = 128
"""What is subtracted from an unsigned 8-bit integer to make it a signed one."""
FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "Requantize": lambda x: x,
    "Relu": F.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "HardSwish": F.hardswish,
    "HardSigmoid": F.hardsigmoid,
    "Elu": F.elu,
    "Gelu": F.gelu,
}


class TorchProgram(nn.Module):
    """float32 [1, C, H, W] → logits [1, classes].

    Attributes:
        floating: without quantization: the same operations in float32, to compare its speed with.
        observed: after the logits, the values of all activations are returned too.
    """

    def __init__(self, network: Description, *, floating: bool = False, observed: bool = False) -> None:
        super().__init__()
        self.network, self.floating, self.observed = network, floating, observed
        for index, operation in enumerate(network.operations):
            if isinstance(operation, (ops.Convolution, ops.Gemm)):
                self._add_weights(index, operation)
            elif isinstance(operation, ops.Table) and operation.function not in FUNCTIONS:
                raise QuantizationError(
                    f"{operation.name}: {operation.function} cannot be written as a PyTorch function, "
                    f"only these can: {', '.join(sorted(FUNCTIONS))}"
                )

    def _add_weights(self, index: int, operation: ops.Convolution | ops.Gemm) -> None:
        scales = torch.tensor(operation.weight_scales)
        bias_scales = torch.tensor(operation.input.scale * operation.weight_scales)
        weight, bias = torch.tensor(operation.weight), torch.tensor(operation.bias)
        self.register_buffer(f"bias_{index}", bias * bias_scales)  # int32 · float32: rounded once
        if self.floating:
            self.register_buffer(f"weight_{index}", weight * scales.view(-1, *[1] * (weight.ndim - 1)))
        else:
            self.register_buffer(f"weight_{index}", weight)
            self.register_buffer(f"scales_{index}", scales)
            self.register_buffer(f"zeros_{index}", torch.zeros(len(scales), dtype=torch.int64))

    def weights(self, index: int) -> tuple[Tensor, Tensor]:
        weight, bias = getattr(self, f"weight_{index}"), getattr(self, f"bias_{index}")
        if not self.floating:
            weight = torch.ops.quantized_decomposed.dequantize_per_channel(
                weight,
                getattr(self, f"scales_{index}"),
                getattr(self, f"zeros_{index}"),
                0,
                -127,
                127,
                torch.int8,
            )
        return weight, bias

    def quantized(self, x: Tensor, like: ops.Activation) -> Tensor:
        if self.floating:
            return F.relu(x) if like.zero == 0 else x  # which its unsigned integers imply
        return torch.ops.quantized_decomposed.quantize_per_tensor(
            x, float(like.scale), int(like.zero) - SIGNED, -128, 127, torch.int8
        )

    def dequantized(self, q: Tensor, like: ops.Activation) -> Tensor:
        if self.floating:
            return q
        return torch.ops.quantized_decomposed.dequantize_per_tensor(
            q, float(like.scale), int(like.zero) - SIGNED, -128, 127, torch.int8
        )

    def rescaled(self, x: Tensor, given: ops.Activation, like: ops.Activation) -> Tensor:
        """A part of a concatenation: XNNPACK joins integers of one scale alone, that of what it writes."""
        if (given.scale, given.zero) == (like.scale, like.zero):
            return x
        return self.dequantized(self.quantized(x, like), like)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        network = self.network
        tensors = {network.input.name: self.quantized(image, network.input)}
        for index, operation in enumerate(network.operations):
            inputs = operation.inputs if hasattr(operation, "inputs") else (operation.input,)
            values = [self.dequantized(tensors[each.name], each) for each in inputs]
            if isinstance(operation, ops.Concat):
                pairs = zip(values, inputs, strict=True)
                values = [self.rescaled(value, each, operation.output) for value, each in pairs]
            if isinstance(operation, (ops.Convolution, ops.Gemm)):
                values += self.weights(index)
            result = COMPUTES[type(operation)](operation, *values)
            tensors[operation.output.name] = self.quantized(result, operation.output)
        logits = self.dequantized(tensors[network.output.name], network.output)
        if not self.observed:
            return (logits,)
        every = activations(network)
        return (logits, *(self.dequantized(tensors[each.name], each) for each in every))


def _convolution(operation: ops.Convolution, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    padding, x = _padded(operation.pads, x)
    return F.conv2d(x, weight, bias, operation.strides, padding, operation.dilations, operation.groups)


def _gemm(operation: ops.Gemm, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(x, weight, bias)


def _max_pool(operation: ops.MaxPool, x: Tensor) -> Tensor:
    if operation.kernel == (1, 1) and not any(operation.pads):  # which XNNPACK refuses
        return x[:, :, :: operation.strides[0], :: operation.strides[1]]
    padding, x = _padded(operation.pads, x, float("-inf"))
    return F.max_pool2d(
        x, operation.kernel, operation.strides, padding, ceil_mode=_ceil(operation, x, padding)
    )


def _average_pool(operation: ops.AveragePool, x: Tensor) -> Tensor:
    padding, x = _padded(operation.pads, x)
    return F.avg_pool2d(
        x,
        operation.kernel,
        operation.strides,
        padding,
        ceil_mode=_ceil(operation, x, padding),
        count_include_pad=operation.counts_padding,
    )


def _padded(pads: tuple[int, int, int, int], x: Tensor, value: float = 0.0) -> tuple[tuple[int, int], Tensor]:
    """The padding of an operation that is given one number an axis, and its input, padded by what remains."""
    top, left, bottom, right = pads
    if (top, left) == (bottom, right):
        return (top, left), x
    return (0, 0), F.pad(x, (left, right, top, bottom), value=value)


def _ceil(operation: ops.MaxPool | ops.AveragePool, x: Tensor, padding: tuple[int, int]) -> bool:
    """Whether the last windows go past the padding."""
    return any(
        (out - 1) * stride + size > length + 2 * pad
        for out, stride, size, length, pad in zip(
            operation.output.shape[1:], operation.strides, operation.kernel, x.shape[2:], padding, strict=True
        )
    )


def _select(operation: ops.Select, x: Tensor) -> Tensor:
    if operation.begin is not None:
        return x.narrow(1, operation.begin, len(operation.index))
    index = torch.tensor(operation.index)
    chosen = x.index_select(1, index.clamp(min=0))
    if operation.index.min() >= 0:
        return chosen
    # Not padded, which XNNPACK accepts along channels and then fails to run.
    return chosen * (index >= 0).float().view(1, -1, *[1] * (x.ndim - 2))


COMPUTES: Mapping[type, Callable[..., Tensor]] = {
    ops.Convolution: _convolution,
    ops.Gemm: _gemm,
    ops.Add: lambda operation, a, b: a + b,
    ops.Mul: lambda operation, a, b: a * b,
    ops.MaxPool: _max_pool,
    ops.AveragePool: _average_pool,
    ops.GlobalAveragePool: lambda operation, x: x.mean((2, 3), keepdim=True),
    ops.Concat: lambda operation, *parts: torch.cat(parts, 1),
    ops.Table: lambda operation, x: FUNCTIONS[operation.function](x),
    ops.Reshape: lambda operation, x: x.reshape(1, *operation.output.shape),
    ops.Select: _select,
}
