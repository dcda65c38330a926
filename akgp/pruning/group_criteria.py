"""Criteria that score all groups of a network together, from its images or beyond single layers.

A group's channels are written by one layer or by several, and a channel may be several filters of a layer.
How their values become one score of the channel is said with each criterion. Scores are in one unit for all
groups and are compared as they are. The criteria by weights alone, of one layer at a time, are in
`criteria`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from akgp.models.inputs import Inputs
from akgp.pruning.coupling.groups import Group, Writer
from akgp.pruning.coupling.layers import PRUNABLE, filter_dimension
from akgp.pruning.coupling.preparation import PruningError
from akgp.pruning.evidence import (
    Evidence,
    curvature_roots,
    feature_ranks,
    gated,
    hessian_diagonal,
    judged_modules,
    loss_derivatives,
)

OBD_DRAWS = 16  # random signs for each batch

Scores = list[Tensor]
"""[width] float64 for each group; the lowest are removed first."""


def taylor(model: nn.Module, groups: Sequence[Group], evidence: Evidence) -> Scores:
    """The mean over batches of (∂L/∂gate)², the gate being common to all that writes the channel.

    Molchanov et al. 2019, equation 8: the squared first-order change of a batch's loss when the
    channel goes. Within a group the changes are added before they are squared: the channel goes as a whole.
    """
    derivatives = loss_derivatives(model, evidence)
    return [_summed(group, derivatives).square().mean(0) for group in groups]


def knowledge(model: nn.Module, groups: Sequence[Group], evidence: Evidence) -> Scores:
    """The rise of the distillation loss when the channel goes, to second order: −∂L/∂gate + ½ mean vᵀHv.

    v is the change of an image's logits to first order, H the Hessian of its loss by the logits
    (`distillation_curvature`). The first term follows the labels and the teacher in the shares of the
    teacher's weight of each image; for a student that is still its own teacher the teacher's part of it is 0,
    and the second term counts. Changes are added over all that writes the channel.
    """
    if evidence.curvature is None:
        raise PruningError("criterion knowledge needs the curvature of the objective")
    first = loss_derivatives(model, evidence)
    curved = [torch.zeros(group.width, dtype=torch.float64) for group in groups]
    images = sum(len(batch.labels) for batch in evidence.batches)
    for batch in evidence.batches:
        with gated(model, batch) as run:
            for direction in curvature_roots(evidence.curvature, run):
                changes = run.derivatives(run.logits, direction)
                for index, group in enumerate(groups):
                    curved[index] += _summed(group, changes).square().sum(0)
    return [
        -_summed(group, first).mean(0) + each / (2 * images)
        for group, each in zip(groups, curved, strict=True)
    ]


def obd(model: nn.Module, groups: Sequence[Group], evidence: Evidence) -> Scores:
    """½ Σ h_ww·w² over the weights of the channel's filters, h the diagonal of the loss's Hessian.

    Optimal Brain Damage (LeCun et al. 1990, equation 5), summed over what goes. The gradient is taken as 0,
    as it is at the end of a training.
    """
    diagonal = hessian_diagonal(model, evidence, OBD_DRAWS, seed=0)
    saliency = {
        writer.name: (_by_filter(writer, diagonal[writer.name]) * _weights(writer).square() / 2).sum(1)
        for group in groups
        for writer in group.writers
    }
    return [_summed(group, saliency) for group in groups]


def hrank(model: nn.Module, groups: Sequence[Group], evidence: Evidence) -> Scores:
    """The mean rank of the channel's feature maps (Lin et al. 2020, HRank, equation 6), behind a ReLU.

    Within a group the mean over all that writes the channel.
    """
    ranks = feature_ranks(model, evidence)
    return [_mean(group, ranks) for group in groups]


def bn_scale(model: nn.Module, groups: Sequence[Group], example_input: Inputs) -> Scores:
    """|γ| of the BatchNorm behind the filter (Liu et al. 2017, Network Slimming); a group: the mean.

    Raises:
        PruningError: no BatchNorm stands behind a layer.
    """
    scales: dict[str, Tensor] = {}
    for name, module in judged_modules(model, example_input, sole_reader=False).items():
        if isinstance(module, _BatchNorm) and module.affine:
            scales[name] = module.weight.detach().double().abs()
    for group in groups:
        for writer in group.writers:
            if writer.name not in scales:
                raise PruningError(
                    f"criterion bn_scale: no BatchNorm with a scale stands directly behind {writer.name}; "
                    "skip it, or use another criterion"
                )
    return [_mean(group, scales) for group in groups]


def lamp(model: nn.Module, groups: Sequence[Group], example_input: Inputs) -> Scores:
    """Σ over the filter's weights of w² / (Σ v² over the layer's weights with |v| ≥ |w|); a group: the sum.

    Lee et al. 2021, Layer-Adaptive Magnitude-based Pruning, equation 2, whose score of single weights is
    added up over a filter.
    """
    scores = {}
    for group in groups:
        for writer in group.writers:
            weight = _weights(writer)
            squares, order = weight.square().flatten().sort()
            larger = squares.flip(0).cumsum(0).flip(0)
            shares = torch.empty_like(squares)
            shares[order] = squares / larger.clamp_min(torch.finfo(torch.float64).tiny)
            scores[writer.name] = shares.view_as(weight).sum(1)
    return [_summed(group, scores) for group in groups]


BY_IMAGES: dict[str, Callable[[nn.Module, Sequence[Group], Evidence], Scores]] = {
    "taylor": taylor, "obd": obd, "hrank": hrank, "knowledge": knowledge,
}  # fmt: skip
OF_LOSS = ("taylor", "obd", "knowledge")
"""Those of which the score is how much the loss changes when the channel goes."""
BY_NETWORK: dict[str, Callable[[nn.Module, Sequence[Group], Inputs], Scores]] = {
    "bn_scale": bn_scale, "lamp": lamp,
}  # fmt: skip
"""Criteria that need no more than the network and an input for a forward pass."""


def _summed(group: Group, values: Mapping[str, Tensor]) -> Tensor:
    """Values [..., O] of layers added up for each channel of the group: [..., width] float64 on the CPU.

    Layers without a value, such as heads that run in training only, add nothing.
    """
    leading = next(iter(values.values())).shape[:-1]
    total = torch.zeros(*leading, group.width, dtype=torch.float64)
    for writer in group.writers:
        if writer.name in values:
            # [..., O] -> [..., members]: each member's filters added up.
            total[..., writer.members] += values[writer.name].double().cpu()[..., writer.filters].sum(-1)
    return total


def _mean(group: Group, values: Mapping[str, Tensor]) -> Tensor:
    ones = {name: torch.ones_like(each) for name, each in values.items()}
    return _summed(group, values) / _summed(group, ones).clamp_min(1)


def _weights(writer: Writer) -> Tensor:
    """A layer's weights by filter: float64 [O, K]."""
    assert isinstance(writer.module, PRUNABLE)
    return _by_filter(writer, writer.module.weight.detach())


def _by_filter(writer: Writer, values: Tensor) -> Tensor:
    """Values of a weight's shape by filter: float64 [O, K]."""
    return values.double().movedim(filter_dimension(writer.module), 0).flatten(1)
