"""Weight scales for which no processor's integer kernel can saturate.

Processors without VNNI multiply unsigned 8-bit activations with signed 8-bit weights by instructions
that add two neighbouring products in 16 bits and saturate (`vpmaddubsw`, in onnxruntime's AVX2, AVX-512
and SSE4.1 kernels). Whether 255 (q₁ + q₂) fits depends on the weights q alone, so scales can be chosen
with which every sum fits: then all processors give the sums that the file states. Weights keep their
8 bits; where large weights of one sign stand side by side, the steps get coarser, at most by a factor of 2.

Depthwise convolutions run on other kernels and would not need it. They are treated alike: no file may
depend on which kernel a runtime picks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LARGEST_WEIGHT = 127
LARGEST_PAIR = 128
"""Of two neighbouring weights of one sign: 255 · 128 < 2¹⁵ ≤ 255 · 129."""
STEPS = 16  # of bisection in a bracket of 1 %: 1e-7 of the scale remains
FINE = 2.0**-20
"""The scale of a channel of zeros: its bias, in steps of this times the input's, is hardly rounded."""
MARGIN = 2.0**-20  # a scale is stored as float32
CHUNK = 2**20  # weights at a time, so that they stay in the cache

Floats = NDArray[np.float32]
Integers = NDArray[np.int8]


def safe_scales(weight_OK: Floats) -> Floats:
    """The smallest symmetric scale of each output channel with which no neighbouring pair can saturate.

    A scale s is safe if every |w / s| ≤ 127 and, of every two neighbours round(w / s) along K, the
    positive ones sum to at most 128 and the negative ones too. Any two neighbours count, whether the kernel's
    pairs start at even or odd positions, so padding of K and odd channel counts change nothing.

    For magnitudes a, b of one sign (a + b) / s ≤ 128 suffices and (a + b) / s ≤ 129 is necessary, because of
    the rounding; between the two a bisection finds the least scale.

    Returns:
        float32 [O]; FINE for a channel of zeros.
    """
    chunks = np.array_split(weight_OK, max(1, weight_OK.size // CHUNK))
    scales = np.concatenate([_safe_scales(chunk) for chunk in chunks if len(chunk)])
    return np.where(scales > np.finfo(np.float32).tiny, scales, FINE).astype(np.float32)


def _safe_scales(weight_OK: Floats) -> NDArray[np.float64]:
    # Only neighbours of one sign add up: the two signs are looked at apart, zeros in place of the other.
    parts = [np.maximum(weight_OK, 0), np.maximum(-weight_OK, 0)]
    sums = [part[:, 1:] + part[:, :-1] for part in parts]
    largest, widest = (
        np.maximum(*(part.max(1, initial=0) for part in of_both)).astype(np.float64)
        for of_both in (parts, sums)
    )
    largest = largest / LARGEST_WEIGHT
    low = np.maximum(largest, widest / (LARGEST_PAIR + 1))
    high = np.maximum(largest, widest / LARGEST_PAIR * (1 + MARGIN))
    # Pairs that are safe at the lowest scale are safe at any: a bisection needs only the few others.
    pairs = []
    for part, total in zip(parts, sums, strict=True):
        row, k = np.nonzero(total > (LARGEST_PAIR * low[:, None]).astype(np.float32))
        pairs.append((row, part[row, k], part[row, k + 1]))
    row, first, second = map(np.concatenate, zip(*pairs, strict=True))
    for _ in range(STEPS):
        middle = (low + high) / 2
        saturates = np.rint(first / middle[row]) + np.rint(second / middle[row]) > LARGEST_PAIR
        saturated = np.isin(np.arange(len(middle)), row[saturates])
        low, high = np.where(saturated, middle, low), np.where(saturated, high, middle)
    # No margin where the largest weight decides: `quantized` clips to ±127.
    return np.where(high > largest, high * (1 + MARGIN), largest)


def quantized(weight_OK: Floats, scales: Floats) -> Integers:
    """round(w / s), ties to even, within ±127: int8 [O, K]."""
    steps = np.rint(weight_OK / scales[:, None])
    return np.clip(steps, -LARGEST_WEIGHT, LARGEST_WEIGHT).astype(np.int8)
