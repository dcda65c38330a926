"""The share of wrong labels, measured where the calibrated teacher is most confident.

N: samples, C: classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def noise(probability_NC: Tensor, labels_N: Tensor) -> tuple[float, float, Tensor]:
    """η̂, the lower end of its interval (90 %), and the confusion S [C, C].

    η̂ is 1 − accuracy on the most confident tenth. Row k of S counts the labels other than k among the most
    confident fifth of what is predicted k, plus 10/(C − 1) each, normalised. Samples of equal confidence
    are taken together.
    """
    classes = probability_NC.shape[1]
    confidence, predicted = probability_NC.max(1)
    rate, low = _error_rate((predicted != labels_N)[_most_confident(confidence, 10)], 0.9)
    counts = torch.zeros(classes, classes, dtype=torch.float64)
    for k in range(classes):
        of_class = predicted == k
        if of_class.any():
            sure = _most_confident(confidence[of_class], 5)
            counts[k] = labels_N[of_class][sure].bincount(minlength=classes)
    # Ten samples spread evenly as a prior: a class with few confident samples gets no extreme row.
    counts = (counts + 10 / (classes - 1)).fill_diagonal_(0)
    return rate, low, counts / counts.sum(1, keepdim=True)


def noise_by_class(probability_NC: Tensor, labels_N: Tensor) -> list[tuple[float, float] | None]:
    """η̂_k and the lower end of its interval (99 %): η̂ of what is predicted k, for each class k.

    None where the most confident tenth are fewer than 3.
    """
    confidence, predicted = probability_NC.max(1)

    def of_class(k: int) -> tuple[float, float] | None:
        answered = predicted == k
        if not answered.any():
            return None
        wrong = labels_N[answered][_most_confident(confidence[answered], 10)] != k
        return _error_rate(wrong, 0.99) if len(wrong) >= 3 else None

    return [of_class(k) for k in range(probability_NC.shape[1])]


def _error_rate(wrong_N: Tensor, level: float) -> tuple[float, float]:
    """The share of wrong labels, and the lower end of its interval (Wilson 1927)."""
    from scipy.stats import binomtest

    test = binomtest(int(wrong_N.sum()), len(wrong_N))
    return float(test.statistic), float(test.proportion_ci(level, method="wilson").low)


def _most_confident(confidence_N: Tensor, part: int) -> Tensor:
    """Mask of the most confident 1/`part` of the samples, at least one."""
    return confidence_N >= confidence_N.topk(math.ceil(len(confidence_N) / part)).values[-1]


def transition(rate: float, confusion_CC: Tensor) -> Tensor:
    """T [C, C]: the probability of label j given true class k, (1 − η)·[j = k] + η·S_kj."""
    return rate * confusion_CC + (1 - rate) * torch.eye(len(confusion_CC), dtype=confusion_CC.dtype)
