"""Calibration of a network's probabilities: temperature, calibration error, Brier score.

And their information about the labels, in nats. N: samples, C: classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from akgp.distillation.profile.checks import checked

BINS = 15
"""Bins of the calibration error."""


def calibration_temperature(logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> float:
    """The τ > 0 that minimises the mean of v_i · −log softmax(z_i/τ)_{y_i} (Guo et al. 2017, section 4.2).

    The loss is convex in 1/τ, so its minimum is the root of its derivative (Brent's method), searched
    for within a factor of 100 around s, the mean range of the logits of a sample: a teacher
    that is never wrong has no finite optimum and gets s/100, one that knows nothing at most 100·s,
    one whose logits are constant over the classes 1.

    Args:
        logits: [N, C].
        labels: int64 [N].
        weight: v, [N]; None: all alike.

    Raises:
        ValueError: a shape or a range is not as above, or a logit is not finite.
    """
    from scipy.optimize import brentq

    logits, labels = checked(logits, labels, "logits, labels"), labels.cpu()
    # The softmax stays the same, and no exponential overflows at small τ.
    logits = logits - logits.amax(1, keepdim=True)
    weight = torch.ones(len(labels), dtype=torch.float64) if weight is None else weight.double()
    given = logits.gather(1, labels[:, None])[:, 0]
    scale = float(-logits.amin(1).mean())
    if scale == 0:
        return 1.0

    def slope(log_inverse: float) -> float:
        """Derivative of the loss by 1/τ."""
        probability = (logits * math.exp(log_inverse)).softmax(1)
        return float((weight * ((probability * logits).sum(1) - given)).mean())

    # By the logarithm of 1/τ: the interval spans four orders of magnitude.
    low, high = -math.log(100 * scale), -math.log(scale / 100)
    if slope(low) >= 0:
        return math.exp(-low)
    if slope(high) <= 0:
        return math.exp(-high)
    return math.exp(-brentq(slope, low, high))


def calibration_error(confidence_N: Tensor, right_N: Tensor, weight_N: Tensor) -> float:
    """Σ_bins |Σ v·(right − confidence)| / N over `BINS` bins (i/15, (i + 1)/15] of confidence.

    Expected calibration error, Guo et al. 2017, eq. 3.
    """
    # Bins are open below: a confidence of exactly i/15 belongs to the lower one.
    bins = (confidence_N * BINS).ceil().long().clamp(1, BINS) - 1
    gaps = torch.zeros(BINS, dtype=torch.float64).index_add_(0, bins, weight_N * (right_N - confidence_N))
    return float(gaps.abs().sum()) / len(right_N)


def brier_score(probability_NC: Tensor, labels_N: Tensor, weight_N: Tensor) -> float:
    """Mean of v_i·Σ_c (p_ic − [y_i = c])², in [0, 2] where v has mean 1 (Brier 1950)."""
    error_NC = probability_NC.clone()
    error_NC[torch.arange(len(labels_N)), labels_N] -= 1
    return float((weight_N * error_NC.square_().sum(1)).mean())


def information(probability_NC: Tensor, labels_N: Tensor) -> tuple[float, float]:
    """Mean of log p_y − log π_y, π being the frequencies of these labels, and its standard error."""
    frequency = labels_N.bincount(minlength=probability_NC.shape[1]).double() / len(labels_N)
    # A probability that underflowed to 0 would make the mean infinite.
    likelihood = probability_NC.gather(1, labels_N[:, None])[:, 0].clamp_min(torch.finfo(torch.float64).tiny)
    gain = likelihood.log() - frequency[labels_N].log()
    return float(gain.mean()), float(gain.std(correction=0)) / math.sqrt(len(gain))


def surely_positive(mean: float, error: float) -> bool:
    """Whether a mean is above zero by two of its standard errors."""
    return mean > 2 * error
