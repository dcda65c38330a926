"""The simulator's kernels against plain integers or PyTorch's, whatever float type they compute in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper
from torch.nn import functional as F

from akgp.quantization.integer_kernels import KERNELS, Quantized, clipped, max_pool

RANDOM = np.random.default_rng(0)
SCALE, ZERO = np.float32(0.37), np.uint8(9)


def activation(*shape: int, scale: float = 0.05, zero: int = 7) -> Quantized:
    q = RANDOM.integers(0, 256, shape, dtype=np.uint8)
    return Quantized(np.array(scale, np.float32), np.array(zero, np.uint8), q, "x")


@pytest.mark.parametrize("weight", [127, 2], ids=["sums beyond 24 bits", "sums within"])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_convolutions_are_exact_in_either_float_type(weight: int, groups: int) -> None:
    x = activation(3, 8, 9, 11)
    integers = RANDOM.integers(-weight, weight + 1, (16, 8 // groups, 3, 3), dtype=np.int8)
    integers[0] = weight  # with 127 its sum may exceed 2²⁴, or the bias makes it
    bias = RANDOM.integers(-(2**17 * weight), 2**17 * weight, 16, dtype=np.int32)
    w = Quantized(RANDOM.uniform(0.01, 0.02, 16).astype(np.float32), np.zeros(16, np.int8), integers, "w", 0)
    b = Quantized(w.scale, w.zero, bias, "b", 0)
    node = helper.make_node(
        "Conv", ["x", "w", "b"], ["y"], pads=[2, 1, 0, 3], strides=[2, 1], dilations=[1, 2], group=groups
    )
    steps = KERNELS["Conv"](node, (x, w, b), SCALE, ZERO)
    padded = F.pad(torch.from_numpy(x.q.astype(np.int64) - 7), (1, 3, 2, 0))
    # In int64, for which PyTorch has no grouped convolution: group by group.
    kernels = torch.from_numpy(integers.astype(np.int64)).chunk(groups)
    parts = zip(padded.chunk(groups, 1), kernels, strict=True)
    sums = torch.cat([F.conv2d(part, kernel, stride=(2, 1), dilation=(1, 2)) for part, kernel in parts], 1)
    total = sums.numpy() + bias.astype(np.int64).reshape(1, -1, 1, 1)
    factors = (x.scale * w.scale / SCALE).reshape(1, -1, 1, 1)
    assert (clipped(steps, ZERO) == np.clip(np.rint(total.astype(np.float32) * factors) + 9, 0, 255)).all()


@pytest.mark.parametrize("kind", ["Add", "Mul"])
def test_two_tensors_are_looked_up_with_broadcasting(kind: str) -> None:
    a, b = activation(2, 5, 4, 4), activation(2, 5, 1, 1, scale=0.02, zero=130)
    node = helper.make_node(kind, ["a", "b"], ["y"])
    scale = np.float32(0.08)
    values = (a.floats().astype(np.float64) + b.floats()) if kind == "Add" else a.floats() * b.floats()
    steps = clipped(KERNELS[kind](node, (a, b), scale, ZERO), ZERO)
    assert np.abs(steps - np.clip(values / scale + 9, 0, 255)).max() <= 0.5 + 1e-4
    signed = replace(b, q=(b.q.astype(np.int16) - 128).astype(np.int8), zero=np.array(2, np.int8))
    assert (clipped(KERNELS[kind](node, (a, signed), scale, ZERO), ZERO) == steps).all()


@pytest.mark.parametrize(
    "given",
    [
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
        {"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": 1},
        {"kernel_shape": [3, 2], "dilations": [2, 1]},
    ],
    ids=str,
)
def test_maxima_of_windows(given: dict[str, Any]) -> None:
    x = activation(2, 3, 8, 9)
    pooled = max_pool(helper.make_node("MaxPool", ["x"], ["y"], **given), x)
    expected = F.max_pool2d(
        torch.from_numpy(x.q.astype(np.float32)),
        given["kernel_shape"],
        given.get("strides", 1),
        given.get("pads", [0])[0],
        given.get("dilations", 1),
        bool(given.get("ceil_mode")),
    )
    assert (pooled.q == expected.numpy()).all() and pooled.name == "y"
