"""The simulator's kernels against plain integers or PyTorch's, whatever float type they compute in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional as F

from akgp.quantization.integer_kernels import KERNELS, Quantized, clipped, max_pool
from akgp.runtimes.onnxruntime import session

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


def test_weights_may_have_zero_points() -> None:
    """Files of other quantizers do: unsigned weights, one zero point for all or one a channel."""
    x = activation(2, 4, 5, 5)
    q = RANDOM.integers(0, 256, (6, 4, 3, 3), dtype=np.uint8)
    scale = RANDOM.uniform(0.01, 0.02, 6).astype(np.float32)
    for zero in (np.array(120, np.uint8), RANDOM.integers(100, 150, 6).astype(np.uint8)):
        w = Quantized(scale, zero, q, "w", 0)
        steps = KERNELS["Conv"](helper.make_node("Conv", ["x", "w"], ["y"]), (x, w), SCALE, ZERO)
        expected = F.conv2d(torch.from_numpy(x.floats()), torch.from_numpy(w.floats())).numpy() / SCALE + 9
        assert np.abs(steps - expected).max() <= 0.5 + 1e-3
        flat = replace(x, q=x.q[:, :, 0, 0])
        v = Quantized(scale, zero, q[:, :, 0, 0], "v", 0)
        node = helper.make_node("Gemm", ["x", "v"], ["y"], transB=1)
        expected = flat.floats() @ v.floats().T / SCALE + 9
        assert np.abs(KERNELS["Gemm"](node, (flat, v), SCALE, ZERO) - expected).max() <= 0.5 + 1e-3


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


def test_sums_are_onnxruntimes_for_every_pair() -> None:
    """All 65,536 pairs, of scales and zero points at random and of one pair that lies next to a half."""
    half = (0.014266721904277802, 130, 0.017018867656588554, 112, 0.010229093953967094, 0)
    cases = [half]
    for _ in range(30):
        scales = RANDOM.uniform([0.005, 0.005, 0.01], [0.03, 0.03, 0.04])
        zeros = RANDOM.integers(0, 256, 3)
        cases.append(tuple(x for pair in zip(scales, zeros, strict=True) for x in pair))
    a, b = (q.astype(np.uint8)[None] for q in np.divmod(np.arange(65536), 256))
    for case in cases:
        constants = [
            np.array(x, np.uint8 if index % 2 else np.float32) for index, x in enumerate(case)
        ]  # scale and zero point of a, b and their sum
        first, second = Quantized(*constants[:2], a, "a"), Quantized(*constants[2:4], b, "b")
        steps = KERNELS["Add"](helper.make_node("Add", ["a", "b"], ["y"]), (first, second), *constants[4:])
        assert (clipped(steps, constants[5]) == _sums(constants, a, b)).all(), case


def _sums(constants: list[Any], a: Any, b: Any) -> Any:
    """The integers by onnxruntime."""
    names = ["sa", "za", "sb", "zb", "sy", "zy"]
    nodes = [
        helper.make_node("DequantizeLinear", ["a", "sa", "za"], ["fa"]),
        helper.make_node("DequantizeLinear", ["b", "sb", "zb"], ["fb"]),
        helper.make_node("Add", ["fa", "fb"], ["sum"]),
        helper.make_node("QuantizeLinear", ["sum", "sy", "zy"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.UINT8, [1, 65536]) for name in ("a", "b", "y")]
    initializers = [numpy_helper.from_array(x, name) for x, name in zip(constants, names, strict=True)]
    graph = helper.make_graph(nodes, "sums", ends[:2], ends[2:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return session(model.SerializeToString(), threads=1).run(None, {"a": a, "b": b})[0]


@pytest.mark.parametrize(
    "given",
    [
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
        {"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": 1},
        {"kernel_shape": [2, 2], "strides": [3, 3], "ceil_mode": 1},
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
