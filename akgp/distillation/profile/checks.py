"""Checks of the logits and labels of every measurement. N: samples, C: classes."""

from __future__ import annotations

import torch
from torch import Tensor


def checked(logits: Tensor, labels: Tensor, names: str) -> Tensor:
    """The logits in float64 on the CPU.

    Args:
        logits: [N, C].
        labels: int64 [N], in [0, C).
        names: of both, for the errors.

    Raises:
        ValueError: a shape or a range is not as above, there is none, or a logit is not finite.
    """
    if logits.ndim != 2 or not len(logits) or logits.shape[1] < 2:
        raise ValueError(f"{names}: logits must be [N, C] with N ≥ 1 and C ≥ 2, got {list(logits.shape)}")
    if labels.shape != logits.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(
            f"{names}: labels must be int64 [{len(logits)}], got {labels.dtype} {list(labels.shape)}"
        )
    check_classes(labels, logits.shape[1], names)
    if not logits.isfinite().all():
        raise ValueError(f"{names}: a logit is not finite; did the teacher's training diverge?")
    return logits.detach().cpu().double()


def check_classes(labels: Tensor, classes: int, names: str) -> None:
    """Raise ValueError unless the labels are int64, in [0, classes)."""
    if labels.dtype != torch.int64:
        raise ValueError(f"{names}: labels must be int64, got {labels.dtype}")
    if not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"{names}: labels must be in [0, {classes}), got {labels.min()} to {labels.max()}")


def check_counts(train_counts: Tensor, classes: int) -> None:
    """Raise ValueError unless `train_counts` is int64 [classes] and nowhere negative."""
    if (
        train_counts.shape != (classes,)
        or train_counts.dtype != torch.int64
        or bool((train_counts < 0).any())
    ):
        raise ValueError(
            f"train_counts must be int64 [{classes}] and not negative, got {train_counts.dtype} "
            f"{train_counts.tolist()}"
        )
