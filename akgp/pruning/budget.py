"""The width of each group of channels after pruning: by one ratio, or by a budget of MACs or parameters.

The cost of a pruned network is computed from its groups, without cutting anything. Under a budget,
groups compete by the scores of their channels. `surgery` chooses and removes the channels themselves.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from akgp.evaluation.cost import count_macs
from akgp.pruning.coupling.graph import Group
from akgp.pruning.coupling.tracing import PruningError
from akgp.pruning.cutting import PRUNABLE, width_of

TOLERANCE = 0.02
"""A budget is met if the cost differs from it by at most this share. Widths are multiples of `round_to`, so
few budgets can be met exactly."""

Widths = list[int]


def ratio_widths(groups: Sequence[Group], ratio: float, round_to: int) -> Widths:
    """(1 − ratio) of each group's width, rounded; groups with a reason stay dense."""
    return [
        group.width if group.reason else rounded(group.width * (1 - ratio), group.width, round_to)
        for group in groups
    ]


def rounded(width: float, dense: int, round_to: int) -> int:
    """The multiple of `round_to` nearest to `width` (the larger on a tie), clamped to [`round_to`, `dense`].

    A dense width of at most `round_to` is returned unchanged.
    """
    if dense <= round_to:
        return dense
    # Not round(), which takes a tie to the even multiple. `dense` itself need not be a multiple.
    return min(max(int(width / round_to + 0.5) * round_to, round_to), dense)


def budget_widths(
    groups: Sequence[Group],
    scores: Sequence[Tensor],
    costs: Costs,
    target: float,
    round_to: int,
    floors: Mapping[int, int],
) -> Widths:
    """Widths that cost `target` within 2 %, by a ranking of the channels of all groups.

    Channels with scores below one common threshold are removed and widths are rounded; bisection gives the
    threshold. Where rounding leaves the cost outside of the tolerance, single groups, then pairs of groups,
    are widened or narrowed by `round_to`, greedily by how close the cost comes to the target.

    Args:
        scores: [width] for each group, divided by their mean so that groups can be compared.
        target: in the unit of `costs`.
        floors: index of a group -> index of the group that it must be at least as wide as.

    Raises:
        PruningError: the search met no such widths; states the nearest cost.
    """

    def with_floors(widths: Widths) -> Widths:
        for group, other in floors.items():
            widths[group] = max(widths[group], min(widths[other], groups[group].width))
        return widths

    def widths_at(threshold: float) -> Widths:
        return with_floors(
            [
                group.width
                if group.reason
                else rounded(int((score >= threshold).sum()), group.width, round_to)
                for group, score in zip(groups, scores, strict=True)
            ]
        )

    def distance(widths: Widths) -> float:
        return abs(costs.of(widths) - target)

    thresholds = torch.cat(list(scores)).unique().tolist() if scores else [0.0]
    low, high = 0, len(thresholds) - 1
    # The lowest threshold that costs no more than the target: a higher one never widens a group, so that
    # the cost falls along the sorted scores.
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if costs.of(widths_at(thresholds[middle])) <= target else (middle + 1, high)
    # Rounded widths jump from one threshold to the next: the one just over the target may be nearer.
    around = (widths_at(thresholds[max(low - 1, 0)]), widths_at(thresholds[low]))
    widths = _adjusted(min(around, key=distance), groups, distance, TOLERANCE * target, round_to, with_floors)
    cost = costs.of(widths)
    if abs(cost / target - 1) > TOLERANCE:
        raise PruningError(
            f"a budget of {target:,.0f} {costs.unit} cannot be met within 2 %: widths that are multiples of "
            f"{round_to} come to {cost:,.0f} ({cost / costs.dense:.1%} of the dense network) at the nearest; "
            "lower round_to, change the budget, or cut in scope all if it is inside"
        )
    return widths


def _adjusted(
    widths: Widths,
    groups: Sequence[Group],
    distance: Callable[[Widths], float],
    tolerance: float,
    round_to: int,
    with_floors: Callable[[Widths], Widths],
) -> Widths:
    """Change single groups, or pairs where that doesn't help, by `round_to` until `distance` <= `tolerance`.

    Ends where no such change comes closer, so possibly outside of the tolerance.
    """
    steps = [
        (index, sign * round_to)
        for index, group in enumerate(groups)
        if not group.reason and group.width > round_to
        for sign in (-1, 1)
    ]
    while distance(widths) > tolerance:
        nearest = widths
        # Pairs reach costs between those of single steps: a costly group narrower, a cheap one wider.
        for size in (1, 2):
            candidates = []
            for moves in itertools.combinations(steps, size):
                candidate = list(widths)
                for index, step in moves:
                    new = candidate[index] + step
                    candidate[index] = min(new, groups[index].width) if new >= round_to else candidate[index]
                candidates.append(with_floors(candidate))
            nearest = min(candidates, key=distance, default=widths)
            if distance(nearest) < distance(widths):
                break
        if distance(nearest) >= distance(widths):  # strictly closer each time, or the loop might not end
            break
        widths = nearest
    return widths


@dataclass(frozen=True)
class _ModuleCost:
    """The cost of one dense module, and how it scales with the widths of the groups that it belongs to."""

    weight: float  # scales with outputs × inputs
    other: float  # scales with the outputs alone: biases, norms
    outputs: Mapping[int, float]  # group -> share of the module's outputs that one channel accounts for
    inputs: Mapping[int, float]  # likewise of its inputs


class Costs:
    """The cost of a network in MACs or parameters as a function of the width of every group."""

    def __init__(self, model: nn.Module, groups: Sequence[Group], example_input: Tensor, unit: str) -> None:
        """Measure the dense network.

        Args:
            unit: `MACs`, for one input, or `parameters`.
        """
        self.unit, self.groups = unit, groups
        macs = count_macs(model, example_input) if unit == "MACs" else None
        by_weight = macs.by_parameter if macs else {}
        shares: dict[nn.Module, tuple[dict[int, float], dict[int, float]]] = {}
        for index, group in enumerate(groups):
            for part in group.parts:
                outputs, inputs = shares.setdefault(part.module, ({}, {}))
                # A channel may have several positions in a module: the pixels behind a flatten, or copies.
                share = len(part.indices) / group.width / width_of(part.module, part.writes)
                (outputs if part.writes else inputs)[index] = share
        self.modules = [
            self._cost(module, outputs, inputs, by_weight) for module, (outputs, inputs) in shares.items()
        ]
        dense = macs.total if macs else sum(p.numel() for p in model.parameters())
        # What no group changes, such as attention's products of activations.
        self.fixed = dense - sum(module.weight + module.other for module in self.modules)
        self.dense = float(dense)

    def _cost(
        self,
        module: nn.Module,
        outputs: dict[int, float],
        inputs: dict[int, float],
        macs: Mapping[nn.Parameter, int],
    ) -> _ModuleCost:
        if self.unit == "MACs":
            # Biases and norms count no MACs, so nothing scales with the outputs alone.
            module_macs = sum(macs.get(parameter, 0) for parameter in module.parameters(recurse=False))
            return _ModuleCost(module_macs, 0, outputs, inputs)
        size = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        weight = module.weight.numel() if isinstance(module, PRUNABLE) else 0
        return _ModuleCost(weight, size - weight, outputs, inputs)

    def of(self, widths: Widths) -> float:
        """The cost of the network with these widths."""
        removed = [group.width - width for group, width in zip(self.groups, widths, strict=True)]
        cost = self.fixed
        for module in self.modules:
            outputs = 1 - sum(share * removed[index] for index, share in module.outputs.items())
            inputs = 1 - sum(share * removed[index] for index, share in module.inputs.items())
            cost += module.weight * outputs * inputs + module.other * outputs
        return cost
