"""How many channels of each group stay: a ratio for all, or a budget of MACs or parameters.

What the network would cost is computed from its groups, without cutting anything. Which channels
go is said by scores, where several groups compete for a budget; removing them is `surgery`'s.
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
"""A budget is met if the cost is at most this share of it away."""

Widths = list[int]


def ratio_widths(groups: Sequence[Group], ratio: float, round_to: int) -> Widths:
    """(1 − ratio) of each group's width, rounded; groups with a reason stay dense."""
    return [
        group.width if group.reason else rounded(group.width * (1 - ratio), group.width, round_to)
        for group in groups
    ]


def rounded(wanted: float, dense: int, round_to: int) -> int:
    """The multiple of `round_to` nearest to `wanted` (the larger of two), from `round_to` to `dense`.

    A dense width of at most `round_to` is kept.
    """
    if dense <= round_to:
        return dense
    return min(max(int(wanted / round_to + 0.5) * round_to, round_to), dense)


def budget_widths(
    groups: Sequence[Group],
    scores: Sequence[Tensor],
    costs: Costs,
    target: float,
    round_to: int,
    floors: Mapping[int, int],
) -> Widths:
    """Widths that cost `target` within 2 %, by a ranking of all channels.

    Scores of a group are divided by their mean, so that layers compare; channels below one common
    threshold go, widths are rounded, and the threshold is found by bisection. Where rounding leaves
    the cost too far off, single groups, then pairs of them, are moved by one multiple, the move
    that comes closest first.

    Args:
        scores: one [width] a group, divided by their mean.
        floors: group -> another group than which it cannot be narrower.

    Raises:
        PruningError: no such widths were found; names the nearest cost.
    """

    def valid(widths: Widths) -> Widths:
        for group, other in floors.items():
            widths[group] = max(widths[group], min(widths[other], groups[group].width))
        return widths

    def above(threshold: float) -> Widths:
        return valid(
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
    while low < high:  # the lowest threshold that costs no more than the target
        middle = (low + high) // 2
        low, high = (low, middle) if costs.of(above(thresholds[middle])) <= target else (middle + 1, high)
    around = (above(thresholds[max(low - 1, 0)]), above(thresholds[low]))
    widths = _closer(min(around, key=distance), groups, distance, TOLERANCE * target, round_to, valid)
    cost = costs.of(widths)
    if abs(cost / target - 1) > TOLERANCE:
        raise PruningError(
            f"a budget of {target:,.0f} {costs.unit} cannot be met within 2 %: widths that are multiples of "
            f"{round_to} come to {cost:,.0f} ({cost / costs.dense:.1%} of the dense network) at the nearest; "
            "lower round_to or change the budget"
        )
    return widths


def _closer(
    widths: Widths,
    groups: Sequence[Group],
    distance: Callable[[Widths], float],
    enough: float,
    round_to: int,
    valid: Callable[[Widths], Widths],
) -> Widths:
    """Move single groups, or pairs where that doesn't help, by `round_to` until `distance` is `enough`."""
    steps = [
        (index, sign * round_to)
        for index, group in enumerate(groups)
        if not group.reason and group.width > round_to
        for sign in (-1, 1)
    ]
    while distance(widths) > enough:
        moved = widths
        for size in (1, 2):
            candidates = []
            for moves in itertools.combinations(steps, size):
                candidate = list(widths)
                for index, step in moves:
                    new = candidate[index] + step
                    candidate[index] = min(new, groups[index].width) if new >= round_to else candidate[index]
                candidates.append(valid(candidate))
            moved = min(candidates, key=distance, default=widths)
            if distance(moved) < distance(widths):
                break
        if distance(moved) >= distance(widths):
            break
        widths = moved
    return widths


@dataclass(frozen=True)
class _Cost:
    """A module's share of the cost: dense, and by how much a removed channel of a group lowers it."""

    weight: float  # scales with its outputs and inputs
    other: float  # scales with its outputs alone: biases, norms
    outputs: Mapping[int, float]  # group -> share of the outputs that one channel is
    inputs: Mapping[int, float]


class Costs:
    """What a network costs in MACs or parameters, given the width of every group."""

    def __init__(self, model: nn.Module, groups: Sequence[Group], example_input: Tensor, unit: str) -> None:
        """Measure the dense network.

        Args:
            unit: `MACs`, for one input, or `parameters`.
        """
        self.unit, self.groups = unit, groups
        macs = count_macs(model, example_input) if unit == "MACs" else None
        by_weight = macs.by_parameter if macs else {}
        touched: dict[nn.Module, tuple[dict[int, float], dict[int, float]]] = {}
        for index, group in enumerate(groups):
            for part in group.parts:
                outputs, inputs = touched.setdefault(part.module, ({}, {}))
                share = len(part.indices) / group.width / width_of(part.module, part.writes)
                (outputs if part.writes else inputs)[index] = share
        self.parts = [
            self._cost(module, outputs, inputs, by_weight) for module, (outputs, inputs) in touched.items()
        ]
        every = macs.total if macs else sum(p.numel() for p in model.parameters())
        self.fixed = every - sum(part.weight + part.other for part in self.parts)
        self.dense = float(every)

    def _cost(
        self,
        module: nn.Module,
        outputs: dict[int, float],
        inputs: dict[int, float],
        macs: Mapping[nn.Parameter, int],
    ) -> _Cost:
        if self.unit == "MACs":
            own_macs = sum(macs.get(parameter, 0) for parameter in module.parameters(recurse=False))
            return _Cost(own_macs, 0, outputs, inputs)
        own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        weight = module.weight.numel() if isinstance(module, PRUNABLE) else 0
        return _Cost(weight, own - weight, outputs, inputs)

    def of(self, widths: Widths) -> float:
        """The cost of the network with these widths."""
        removed = [group.width - width for group, width in zip(self.groups, widths, strict=True)]
        cost = self.fixed
        for part in self.parts:
            outputs = 1 - sum(share * removed[index] for index, share in part.outputs.items())
            inputs = 1 - sum(share * removed[index] for index, share in part.inputs.items())
            cost += part.weight * outputs * inputs + part.other * outputs
        return cost
