"""Which weights an integer kernel can saturate on, by its own arithmetic."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LARGEST_PAIR = 128
"""Of two neighbouring weights of one sign: 255 · 128 < 2¹⁵ ≤ 255 · 129."""


def saturating_channels(integers_OK: NDArray[np.int8]) -> NDArray[np.intp]:
    """Indices of output channels in which two neighbouring products can exceed 16 bits in sum."""
    wide = integers_OK.astype(np.int32)  # −128 has no negative in int8
    worst = np.zeros(len(wide), np.int32)
    for part in (np.maximum(wide, 0), np.maximum(-wide, 0)):
        worst = np.maximum(worst, (part[:, 1:] + part[:, :-1]).max(1, initial=0))
    return np.flatnonzero(worst > LARGEST_PAIR)
