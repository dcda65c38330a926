"""Which filters matter least: criteria that give every filter of a layer, or of coupled layers, a score.

A criterion is `weight [O, ...] -> scores [O]`; the lowest are removed first. How many go is said by
`budget`, removing them is `surgery`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Criterion = Callable[[Tensor], Tensor]

BLOCK = 2**24  # numbers held at a time, beside the weight itself
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
    filters = weight.detach().flatten(1)
    count, length = filters.shape
    dtype = torch.float64 if count * count * length <= DOUBLE else torch.float32
    rows = max(1, BLOCK // max(1, count))
    columns = max(1, BLOCK // max(1, count))
    scores = filters.new_empty(count, dtype=torch.float64)
    for row in range(0, count, rows):
        here = slice(row, min(row + rows, count))
        products = filters.new_zeros((here.stop - row, count), dtype=dtype)
        norms = filters.new_zeros(count, dtype=dtype)
        for column in range(0, length, columns):
            part = filters[:, column : column + columns].to(dtype)
            part = part - part.mean(0)
            products += part[here] @ part.T
            norms += part.square().sum(1)
        squares = norms[here, None] + norms - 2 * products
        squares[torch.arange(here.stop - row), torch.arange(row, here.stop)] = 0
        scores[here] = squares.clamp_min_(0).sqrt_().sum(1, dtype=torch.float64)
    return scores


def l1_scores(weight: Tensor) -> Tensor:
    """‖F_j‖₁ of each filter, [O] float64 (Li et al. 2017)."""
    return torch.linalg.vector_norm(weight.detach().flatten(1), 1, dim=1, dtype=torch.float64)


def l2_scores(weight: Tensor) -> Tensor:
    """‖F_j‖₂ of each filter, [O] float64 (He et al. 2018)."""
    return torch.linalg.vector_norm(weight.detach().flatten(1), 2, dim=1, dtype=torch.float64)


def random_scores(weight: Tensor) -> Tensor:
    """Uniform numbers in [0, 1), [O] float64, from torch's global generator of the CPU."""
    return torch.rand(len(weight), dtype=torch.float64).to(weight.device)


CRITERIA: dict[str, Criterion] = {
    "fpgm": fpgm_scores,
    "l1": l1_scores,
    "l2": l2_scores,
    "random": random_scores,
}


def coupled_scores(weights: Sequence[Tensor], criterion: Criterion) -> Tensor:
    """Scores of the channels that several layers write together (their outputs are summed).

    A channel lives or dies in all of these layers at once, so the unit that is scored is the
    concatenation of its filters: for FPGM the geometric median of the concatenated filters. Scale
    is no property of a filter where a BatchNorm follows, so each layer is first divided by the mean
    of its own scores, and all weigh alike; all criteria are homogeneous, so that afterwards each
    layer's mean score is 1. For a single layer the order is that of the criterion itself.

    Args:
        weights: one [O, ...] for each layer, alike in O; filter j of each belongs to channel j.

    Returns:
        [O] float64, divided by its mean, so that layers can be compared.
    """
    if len(weights) == 1:
        return _over_mean(criterion(weights[0]))
    scaled = []
    for weight in weights:
        mean = criterion(weight).mean()
        scaled.append(weight.detach().flatten(1).double() / (mean if mean > 0 else 1))
    return _over_mean(criterion(torch.cat(scaled, 1)))


def _over_mean(scores: Tensor) -> Tensor:
    mean = scores.mean()
    return scores / mean if mean > 0 else scores
