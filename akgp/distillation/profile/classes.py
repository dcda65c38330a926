"""Frequencies of the classes and their similarity: imbalance, weights that undo it, overlap.

N: samples, C: classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

IMBALANCED = 3.0
"""Ratio of the largest to the smallest class above which classes are balanced by weights."""


def imbalance(class_counts: Tensor) -> float:
    """Largest class / smallest class; a class without an image counts as one.

    Args:
        class_counts: int64 [C].
    """
    counts = class_counts.clamp_min(1)
    return float(counts.max() / counts.min())


def class_weights(labels: Tensor, class_counts: Tensor) -> Tensor:
    """v_i ∝ 1/π_{y_i}, of mean 1, where the imbalance exceeds 3, else 1; float64 [N].

    Args:
        labels: int64 [N].
        class_counts: int64 [C], training images of each class; a class without one counts as one.
    """
    if imbalance(class_counts) <= IMBALANCED:
        return torch.ones(len(labels), dtype=torch.float64)
    weight = class_counts.cpu().double().clamp_min(1).reciprocal()[labels.cpu()]
    return weight / weight.mean()


def overlap(probability_NC: Tensor) -> Tensor:
    """Mean probabilities of the samples by their most probable class, [C, C].

    The row of a class that is never the most probable one is the identity's.
    """
    classes, answer_N = probability_NC.shape[1], probability_NC.argmax(1)
    counts = answer_N.bincount(minlength=classes)[:, None]
    total = torch.zeros(classes, classes, dtype=torch.float64).index_add_(0, answer_N, probability_NC)
    return torch.where(counts > 0, total / counts.clamp_min(1), torch.eye(classes, dtype=torch.float64))
