"""Integer arithmetic that provably gives the integers of a float32 requantization.

A kernel turns an int32 sum into an 8-bit integer by a float32 product, rounded to even. That is a step
function of the sum which never falls, so it is known by its thresholds: for each k the least sum that gives
k or more. Programs without floating point compute

    clip((((sum << before) · multiplier + constant) >> 32) >> after, 0, 255)

in 64 bits, rounding down. `fit` looks for a multiplier and a constant with exactly the same thresholds among
the sums that can occur: then both functions agree on every one of them, since both are constant in between.
Now and then there are none: the float32 product is rounded, and a sum may lie in the middle of two steps.

Letters of shapes: C channels, N sums.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
BITS = 31  # of the multiplier, which is positive in int32
LARGEST_SUM = 29  # bits: 33,000 products of 255 · 127 are less
LARGEST_AFTER = 20
NEIGHBOURS = (0, *(sign * step for step in range(1, 17) for sign in (1, -1)))
"""Multipliers that are tried, beside the nearest to the factor."""


@dataclass(frozen=True)
class FixedPoint:
    """The constants of the formula above.

    Attributes:
        multipliers: int64 [C], each in [0, 2³¹).
        constants: int64 [C]. It holds all that is added to the sum: bias, zero points, a half.
        before: bits; 0 unless a factor is above ½.
        after: int64 [C], bits.
        proven: bool [C]: whether a channel equals the function that it was fitted to.
    """

    multipliers: Integers
    constants: Integers
    before: int
    after: Integers
    proven: NDArray[np.bool_]

    def __call__(self, sums_CN: Integers) -> Integers:
        """The formula for sums of each channel: 0 to 255."""
        columns = (self.multipliers[:, None], self.constants[:, None], self.after[:, None])
        return np.clip((((sums_CN << self.before) * columns[0] + columns[1]) >> 32) >> columns[2], 0, 255)


Function = Callable[[Integers], NDArray[Any]]


def fit(function: Function, low_C: Integers, high_C: Integers, factors_C: NDArray[Any]) -> FixedPoint:
    """The fixed-point form of `function`; none is proven where sums may have more than LARGEST_SUM bits.

    Args:
        function: sums [C, N] → 0 to 255 [C, N]; in each channel it never falls.
        low_C, high_C: the sums that can occur, both included.
        factors_C: its slope, output steps by unit of the sum; positive.
    """
    if max(-low_C.min(), high_C.max()) >= 2**LARGEST_SUM:  # 64 bits would not hold the products
        none = np.zeros(len(low_C), np.int64)
        return FixedPoint(none, none, 0, none, none.astype(bool))
    thresholds_CK = _thresholds(function, low_C, high_C)
    # Where the function is to be compared: it is constant between these sums.
    edges = [low_C[:, None], thresholds_CK - 1, thresholds_CK, high_C[:, None]]
    points_CN = np.clip(np.concatenate(edges, 1), low_C[:, None], high_C[:, None])
    expected_CN = function(points_CN).astype(np.int64)
    factors = factors_C.astype(np.float64)
    exponents = np.floor(BITS - np.log2(factors * (1 + 2.0**-20))).astype(np.int64)
    before = int(max(0, 32 - exponents.min()))
    after = np.clip(exponents - 32, 0, LARGEST_AFTER)
    nearest = np.rint(factors * 2.0 ** (32 + after - before)).astype(np.int64)
    steps = _Steps(thresholds_CK, low_C, high_C, before, after)
    multipliers, (constants, met) = nearest.copy(), steps.constants(nearest)
    # What is shifted must stay within int32.
    small = np.maximum(-low_C, high_C) < 2 ** (31 - before)
    for step in NEIGHBOURS:
        left = np.flatnonzero(small & ~met)
        if not len(left):
            break
        tried = np.maximum(nearest[left] + step, 0)
        found, suits = steps.of(left).constants(tried)
        taken = left[suits]
        multipliers[taken], constants[taken], met[taken] = tried[suits], found[suits], True
    made = FixedPoint(multipliers, constants, before, after, met)
    return replace(made, proven=small & (made(points_CN) == expected_CN).all(1))


def _thresholds(function: Function, low_C: Integers, high_C: Integers) -> Integers:
    """[C, 255]: for k = 1 to 255 the least sum within [low, high] that gives k or more; or else high + 1."""
    k, shape = np.arange(1, 256), (len(low_C), 255)
    low, high = np.broadcast_to(low_C[:, None], shape), np.broadcast_to(high_C[:, None] + 1, shape)
    # Bisection: all sums below `low` give less than k, all from `high` on give k or more.
    while (low < high).any():
        middle = (low + high) // 2
        reached = (function(middle) >= k) | (middle >= high)
        low, high = np.where(reached, low, middle + 1), np.where(reached, middle, high)
    return high


@dataclass(frozen=True)
class _Steps:
    """The steps that a fixed-point form has to have: at which sums, and with how many bits."""

    thresholds_CK: Integers
    low_C: Integers
    high_C: Integers
    before: int
    after: Integers

    def of(self, channels: NDArray[np.intp]) -> _Steps:
        """The same of some channels."""
        rows = ("thresholds_CK", "low_C", "high_C", "after")
        return replace(self, **{name: getattr(self, name)[channels] for name in rows})

    def constants(self, multipliers: Integers) -> tuple[Integers, NDArray[np.bool_]]:
        """int64 [C]: in the middle of what the thresholds allow; bool [C]: whether they allow any."""
        targets = np.arange(1, 256) << (32 + self.after[:, None])
        slope = multipliers[:, None] << self.before
        least = targets - self.thresholds_CK * slope  # with this constant a threshold just reaches k
        bound = np.int64(2**62)
        # Thresholds outside of the sums bind on one side only.
        lowest = np.where(self.thresholds_CK <= self.high_C[:, None], least, -bound).max(1)
        highest = np.where(self.thresholds_CK > self.low_C[:, None], least + slope - 1, bound).min(1)
        allowed = lowest <= highest
        step = 1 << (32 + self.after)  # of the output
        highest = np.minimum(highest, np.where(lowest > -bound, lowest + step, bound))
        lowest = np.maximum(lowest, highest - step)
        return lowest + (highest - lowest) // 2, allowed
