"""The objective that a training minimises; those of distillation are in akgp.distillation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from akgp.data.batches import Batch

Objective = Callable[[Batch, Tensor, float], Tensor]
"""(batch, logits [B, C], progress) -> scalar loss, in nats a sample.

progress: share of the training's steps that are done, in [0, 1): 0 in the first step. An objective
that is an `nn.Module` may have parameters of its own, which are trained together with the network.
"""


def cross_entropy(label_smoothing: float = 0.0) -> Objective:
    """The objective of ordinary training: mean cross-entropy with the true labels, nats.

    A mixed image has both labels, each with its share: λ·CE(y_i) + (1 − λ)·CE(y_(i−1)) (Zhang et al. 2018).
    """

    def objective(batch: Batch, logits: Tensor, progress: float) -> Tensor:
        if batch.mixed is None:
            return F.cross_entropy(logits, batch.labels, label_smoothing=label_smoothing)
        first, second = (
            F.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="none")
            for labels in (batch.labels, batch.mixed.labels)
        )
        return torch.lerp(second, first, batch.mixed.share.to(first.dtype)).mean()

    return objective
