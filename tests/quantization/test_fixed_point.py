"""Fixed-point forms against float32 on every sum that can occur, and what `quantize` does for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from torch import nn

from akgp.quantization import requantization, verify
from akgp.quantization.description import describe
from akgp.quantization.exact_scales import FORMS, move_activation_scales, move_weight_scales
from akgp.quantization.fixed_point import fit
from akgp.quantization.integer_kernels import KERNELS, Quantized
from akgp.quantization.operations import (
    Activation,
    Add,
    AveragePool,
    Convolution,
    Gemm,
    GlobalAveragePool,
    Mul,
)
from akgp.quantization.qdq import Qdq
from tests.portable.make import HERE
from tests.quantization.test_description import IMAGES, int8_file

LOW, HIGH = -3000, 5000


def float32(factors: np.ndarray, zeros: np.ndarray, sums: np.ndarray) -> np.ndarray:
    steps = np.rint(sums.astype(np.float32) * factors[:, None].astype(np.float32))
    return np.clip(steps + zeros[:, None], 0, 255)


def test_what_is_proven_holds_for_every_sum_and_nothing_else_is_claimed() -> None:
    """Factors of all sizes; those that round ties at sums that occur can have no exact form."""
    generator = np.random.default_rng(0)
    factors = np.exp(generator.uniform(-12, 1, 300)).astype(np.float32)
    factors[:3] = 0.5, 0.25, 2**-10  # sums lie in the middle between two steps
    zeros = generator.integers(0, 256, 300)
    every = np.broadcast_to(np.arange(LOW, HIGH + 1), (300, HIGH - LOW + 1))
    low, high = np.full(300, LOW), np.full(300, HIGH)
    fixed = fit(lambda sums: float32(factors, zeros, sums), low, high, factors)
    equal = (fixed(every) == float32(factors, zeros, every)).all(1)
    assert (fixed.proven == equal).all() and equal[3:].mean() > 0.9 and not equal[:2].any()
    assert (fixed.multipliers < 2**31).all()


def test_a_constant_channel_and_one_that_is_never_clipped() -> None:
    factors, zeros = np.array([1e-7, 0.01, 3.0], np.float32), np.array([255, 100, 0])
    low, high = np.array([-10, -5, 0]), np.array([10, 5, 0])
    fixed = fit(lambda sums: float32(factors, zeros, sums), low, high, factors)
    assert fixed.proven.all()
    assert fixed(np.zeros((3, 1), np.int64)).T.tolist() == [[255, 100, 0]]


def activation(scale: float, zero: int, shape: tuple[int, ...] = (1, 1, 1)) -> Activation:
    return Activation(np.array(scale, np.float32), np.array(zero, np.int32), "", shape)


def every_pair(operation: Add | Mul, kind: str) -> np.ndarray:
    """The simulator's results for all pairs: [256, 256], by a and b."""
    a, b = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8), indexing="ij")
    node = onnx.helper.make_node(kind, ["a", "b"], ["c"])
    values = (Quantized(one.scale, one.zero, q, "") for one, q in zip(operation.inputs, (a, b), strict=True))
    return np.clip(KERNELS[kind](node, tuple(values), operation.output.scale, operation.output.zero), 0, 255)


@pytest.mark.parametrize("seed", range(20))
def test_additions_and_products_on_all_pairs(seed: int) -> None:
    """`proven` is exactly whether all 65,536 results are the simulator's."""
    generator = np.random.default_rng(seed)
    a, b, out = (activation(scale, generator.integers(256)) for scale in generator.uniform(0.01, 0.03, 3))
    left, right = np.arange(256)[:, None], np.arange(256)
    add = Add("", out, (a, b))
    form = requantization.add(add)
    sums = ((left << 4) * form.multipliers[0] + (right << 4) * form.multipliers[1] + form.constant) >> 32
    assert (np.clip(sums, 0, 255) == every_pair(add, "Add")).all() == form.proven
    mul = Mul("", activation(0.01, int(out.zero)), (a, b))
    product = requantization.mul(mul)
    got = product((left - a.zero) * (right - b.zero).reshape(1, -1))
    assert (got == every_pair(mul, "Mul")).all() == product.proven[0]


def test_an_average_on_a_boundary_is_not_proven() -> None:
    """Of two integers with the input's own scale: every odd sum lies in the middle."""
    x = activation(0.1, 3, (1, 4, 4))
    pool = AveragePool("", activation(0.1, 3, (1, 2, 4)), x, (2, 1), (2, 1), (0, 0, 0, 0), False)
    assert pool.counts == [2] and not requantization.average_pool(pool).proven.any()
    padded = AveragePool("", activation(0.083, 3, (1, 4, 4)), x, (3, 3), (1, 1), (1, 1, 1, 1), False)
    assert padded.counts == [4, 6, 9]


def test_a_file_gets_exact_forms_by_scales_that_hardly_move() -> None:
    """The file is of before scales were moved; 63 of its 412 functions have no exact form."""
    model = onnx.load(HERE / "model.onnx")
    before = {name: value.copy() for name, value in Qdq(model).constants.items()}

    def unproven() -> int:
        operations = describe(model).operations
        forms = [requantization.weighted(each) for each in operations if isinstance(each, Convolution | Gemm)]
        forms += [FORMS[type(each)](each) for each in operations if type(each) in FORMS]
        return int(sum(np.sum(~np.asarray(form.proven)) for form in forms))

    assert unproven() == 63
    assert move_activation_scales(model) and not move_activation_scales(model)
    move_weight_scales(model)
    after = Qdq(model).constants
    assert unproven() == 0
    for name, value in before.items():
        if name.endswith("_scale"):
            assert (np.abs(after[name] / value - 1) < 1e-6).all(), name
        else:
            assert (after[name] == value).all(), name


def test_average_pools_get_scales_of_their_own(tmp_path: Path) -> None:
    """The quantizer gives a pool its input's scale, by which half of the means would be ties."""
    pools = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.AvgPool2d(2),
        nn.AvgPool2d(3, 1, 1, count_include_pad=False),
        nn.MaxPool2d(2),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4, 3),
    )
    described = describe(onnx.load(int8_file(pools, tmp_path)))
    averages = [each for each in described.operations if isinstance(each, AveragePool | GlobalAveragePool)]
    assert len(averages) == 3
    for each in averages:
        assert np.all(FORMS[type(each)](each).proven) and each.output.scale != each.input.scale
    assert verify(tmp_path / "int8.onnx", IMAGES).equal
