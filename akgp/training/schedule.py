"""The learning rate over a training, as a share of its peak."""

from __future__ import annotations

import math
from collections.abc import Callable

from akgp.params import Training

Schedule = Callable[[int, int, Training], float]
"""(step from 1, steps an epoch, params) -> share of the peak learning rate."""


def learning_rate_factor(step: int, steps: int, params: Training) -> float:
    """Share of the peak learning rate in `step` (from 1), of `steps` an epoch: in (0, 1].

    Rises linearly over `params.warmup` epochs, then falls to zero by a half cosine
    (Loshchilov & Hutter 2017, eq. 5 without restarts) or linearly.
    """
    warmup, total = params.warmup * steps, params.epochs * steps
    if step <= warmup:
        return step / warmup
    # The first step after the warm-up has the full peak, the last one is a step above zero: none is wasted.
    progress = max(step - warmup - 1, 0) / (total - warmup)
    return (1 + math.cos(math.pi * progress)) / 2 if params.schedule == "cosine" else 1 - progress
