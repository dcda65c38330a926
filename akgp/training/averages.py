"""Exponential moving averages of a network's weights over the steps of its training."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def move_average(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Move `average` towards `model` after `step` (from 1): average ← d · average + (1 − d) · model.

    d = min(decay, step / (step + 9)), as in TensorFlow's ExponentialMovingAverage: the mean
    age of the averaged weights is at most a tenth of the training, so that a short one forgets its beginning
    too. BatchNorm's running statistics are averaged alike, as the model's own do not fit
    averaged weights; integers are copied.
    """
    decay = min(decay, step / (step + 9))
    for attribute in ("parameters", "buffers"):
        for old, new in zip(getattr(average, attribute)(), getattr(model, attribute)(), strict=True):
            if old.is_floating_point():
                old.lerp_(new, 1 - decay)
            else:
                # BatchNorm's count of batches, a shortcut's channel numbers: an index has no mean.
                old.copy_(new)
