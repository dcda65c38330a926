"""The functions from sums to 8-bit integers in a description, their ranges, and their fixed-point forms.

One function an operation: it returns a `FixedPoint`, whose `proven` says in which channels it equals the
simulator on everything that can occur.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from akgp.quantization.fixed_point import FixedPoint, Function, Integers, fit
from akgp.quantization.operations import Add, AveragePool, Convolution, Gemm, GlobalAveragePool, Mul

f32 = np.float32
ADD_BITS = 28  # of the fraction of an addition's multipliers; inputs are shifted by the other 4


def weighted(operation: Convolution | Gemm) -> FixedPoint:
    """For the sum Σ x · w of the input's integers as they are: constants hold zero points and the bias."""
    rows = operation.weight.reshape(len(operation.weight), -1).astype(np.int64)
    fixed = operation.bias.astype(np.int64) - operation.input.zero * rows.sum(1)
    function = partial(_scaled, fixed[:, None], operation.factors[:, None], operation.output.zero)
    low, high = 255 * np.minimum(rows, 0).sum(1), 255 * np.maximum(rows, 0).sum(1)
    return fit(function, low, high, operation.factors)


def global_average_pool(operation: GlobalAveragePool) -> FixedPoint:
    """For the sum of all pixels' integers."""
    fixed = -operation.input.zero.astype(np.int64) * operation.input.pixels
    function = partial(_scaled, fixed, operation.factor, operation.output.zero)
    return _fit_one(function, 0, 255 * operation.input.pixels, operation.factor)


def _scaled(
    fixed: Integers, factor: NDArray[np.float32], zero: NDArray[np.int32], sums: Integers
) -> NDArray[np.float64]:
    steps = np.rint((sums + fixed).astype(f32) * factor).astype(np.float64)
    return np.clip(steps + zero, 0, 255)


def mul(operation: Mul) -> FixedPoint:
    """For the product of two integers less their zero points."""
    a, b = (np.array([-each.zero, 255 - each.zero]) for each in operation.inputs)
    products, zero = np.outer(a, b), f32(operation.output.zero)

    def function(sums: Integers) -> NDArray[np.float32]:
        return np.clip(np.rint(sums.astype(f32) * operation.factor + zero), 0, 255)

    return _fit_one(function, int(products.min()), int(products.max()), operation.factor)


def average_pool(operation: AveragePool) -> FixedPoint:
    """For the sum of the integers in a window; a channel for each number of `counts`.

    The runtime sums float32 values. Its result is known where the exact one, for every sum that can occur, is
    further from the middle between two steps than float32 can go astray; only then is it `proven`.
    """
    x, output = operation.input, operation.output
    inside = np.array(operation.counts)[:, None]
    divisor = np.prod(operation.kernel) if operation.counts_padding else inside
    factors = (np.float64(x.scale) / output.scale / divisor * np.ones_like(inside)).reshape(-1)

    def exact(sums: Integers) -> NDArray[np.float64]:
        return (sums - inside * int(x.zero)) * factors[:, None] + int(output.zero)

    fixed = fit(
        lambda sums: np.clip(np.rint(exact(sums)), 0, 255), 0 * inside[:, 0], 255 * inside[:, 0], factors
    )
    every = np.minimum(np.arange(255 * inside.max() + 1), 255 * inside)
    steps = exact(every)
    # A product, the additions and two divisions of values up to 255 steps of the input: half an ulp each.
    errors = (255 * factors[:, None] * inside * (inside + 3) + 512) * 2.0**-24
    clear = np.abs(steps - np.floor(steps) - 0.5) > errors
    return replace(fixed, proven=fixed.proven & (clear | (steps < -1) | (steps > 256)).all(1))


@dataclass(frozen=True)
class FixedAdd:
    """clip(((a << 4) · multipliers[0] + (b << 4) · multipliers[1] + constant) >> 32, 0, 255)."""

    multipliers: tuple[int, int]
    constant: int
    proven: bool


def add(operation: Add) -> FixedAdd:
    """Compared with the simulator on all 65,536 pairs of integers."""
    ratio_a, ratio_b, fixed = operation.terms
    pairs = np.arange(256, dtype=np.float64)
    inner = (pairs * ratio_b + fixed).astype(f32)  # one rounding, as a fused multiply-add
    outer = (pairs[:, None] * ratio_a + inner.astype(np.float64)).astype(f32)
    expected = np.clip(np.rint(outer), 0, 255)
    a, b = (round(float(ratio) * 2**ADD_BITS) for ratio in (ratio_a, ratio_b))
    constant = round((float(fixed) + 0.5) * 2**32)
    if max(a, b) >= 2**31:
        return FixedAdd((0, 0), 0, proven=False)
    shifted = np.arange(256) << (32 - ADD_BITS)
    got = np.clip((shifted[:, None] * a + shifted * b + constant) >> 32, 0, 255)
    return FixedAdd((a, b), constant, proven=bool((got == expected).all()))


def _fit_one(function: Function, low: int, high: int, factor: NDArray[np.float32]) -> FixedPoint:
    return fit(function, np.array([low]), np.array([high]), factor.reshape(1))
