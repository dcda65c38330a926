"""Pruning criteria: a score for every filter of a layer, or of layers whose outputs are summed.

A criterion is `weight [O, ...] -> scores [O]`; filters with the lowest scores are removed first. `budget`
decides how many, `surgery` removes them.

Letters of shapes: O filters, K weights a filter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Criterion = Callable[[Tensor], Tensor]

BLOCK = 2**24  # numbers held at a time beside the weight: 128 MiB in float64
DOUBLE = 2**34  # multiply-adds (some seconds of a core) above which distances are computed in float32


def fpgm_scores(weight: Tensor) -> Tensor:
    """Each filter's summed Euclidean distance to all others: g(j) = Σ_i ‖F_i − F_j‖₂.

    The lowest are nearest to the layer's geometric median, where others can replace them (He et al.
    2019, equation 6; the paper's exact sum, not its norm-based or cosine variants).

    Distances come from the Gram matrix of the centred filters, in float64 (float32 for layers of
    more than 2^34 multiply-adds), block by block: beside the weight at most about 2^24 numbers and
    O × O are held.

    Args:
        weight: [O, ...], filters along the first dimension.

    Returns:
        [O], float64, in the weight's unit, on its device.
    """
    filters_OK = weight.detach().flatten(1)
    count, length = filters_OK.shape
    dtype = torch.float64 if count * count * length <= DOUBLE else torch.float32
    rows = max(1, BLOCK // max(1, count))
    columns = max(1, BLOCK // max(1, count))
    scores = filters_OK.new_empty(count, dtype=torch.float64)
    for row in range(0, count, rows):
        here = slice(row, min(row + rows, count))
        products = filters_OK.new_zeros((here.stop - row, count), dtype=dtype)
        norms = filters_OK.new_zeros(count, dtype=dtype)
        for column in range(0, length, columns):
            part = filters_OK[:, column : column + columns].to(dtype)
            # Distances do not change, but ‖a‖² + ‖b‖² − 2⟨a, b⟩ cancels less where the filters lie around 0.
            part = part - part.mean(0)
            products += part[here] @ part.T
            norms += part.square().sum(1)
        squares = norms[here, None] + norms - 2 * products
        # A filter's distance to itself: rounding leaves up to ε‖a‖² there, whose root would count.
        squares[torch.arange(here.stop - row), torch.arange(row, here.stop)] = 0
        # Nearly equal filters may come out below 0 by rounding.
        scores[here] = squares.clamp_min_(0).sqrt_().sum(1, dtype=torch.float64)
    return scores


def l1_scores(weight: Tensor) -> Tensor:
    """‖F_j‖₁ of each filter, [O] float64 (Li et al. 2017)."""
    return torch.linalg.vector_norm(weight.detach().flatten(1), 1, dim=1, dtype=torch.float64)


def l2_scores(weight: Tensor) -> Tensor:
    """‖F_j‖₂ of each filter, [O] float64 (He et al. 2018)."""
    return torch.linalg.vector_norm(weight.detach().flatten(1), 2, dim=1, dtype=torch.float64)


def random_scores(weight: Tensor) -> Tensor:
    """Uniform numbers in [0, 1), [O] float64, from torch's global CPU generator, so alike on every device."""
    return torch.rand(len(weight), dtype=torch.float64).to(weight.device)


CRITERIA: dict[str, Criterion] = {
    "fpgm": fpgm_scores,
    "l1": l1_scores,
    "l2": l2_scores,
    "random": random_scores,
}


def coupled_scores(weights: Sequence[Tensor], criterion: Criterion) -> Tensor:
    """Scores of the channels that several layers write together because their outputs are summed.

    A channel is removed from all of these layers at once, so what is scored is the concatenation of its
    filters: for FPGM, by the geometric median of the concatenated filters. A BatchNorm behind a layer
    makes the scale of its weights meaningless, so each layer is first divided by the mean of its
    scores and all weigh alike; the criteria are homogeneous, so that each layer's mean score is 1
    afterwards. For a single layer the order is that of the criterion itself.

    Args:
        weights: [O, ...] of each layer, with the same O; filter j of each belongs to channel j.

    Returns:
        [O] float64, divided by its mean so that groups of layers can be compared.
    """
    if len(weights) == 1:
        return _over_mean(criterion(weights[0]))
    scaled = []  # [O, K] each, K by layer
    for weight in weights:
        mean = criterion(weight).mean()
        divisor = mean if mean > 0 else 1  # 0: all filters are equal, or zero
        scaled.append(weight.detach().flatten(1).double() / divisor)
    return _over_mean(criterion(torch.cat(scaled, 1)))


def _over_mean(scores: Tensor) -> Tensor:
    mean = scores.mean()
    return scores / mean if mean > 0 else scores
