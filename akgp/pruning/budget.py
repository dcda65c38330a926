"""The width of each group of channels after pruning: by one ratio, or by a budget of MACs or parameters.

The cost of a pruned network is computed from its groups, without cutting anything. Under a budget,
groups compete by the scores of their channels. `surgery` chooses and removes the channels themselves.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from akgp.evaluation.cost import count_macs
from akgp.pruning.coupling.groups import Group
from akgp.pruning.coupling.marks import shrink
from akgp.pruning.coupling.network import Coupling
from akgp.pruning.coupling.preparation import PruningError
from akgp.pruning.cutting import removal

TOLERANCE = 0.02
"""A budget is met if the cost differs from it by at most this share. Widths are multiples of `round_to`, so
few budgets can be met exactly."""

Widths = list[int]


def ratio_widths(groups: Sequence[Group], ratio: float, round_to: int) -> Widths:
    """(1 − ratio) of each group's width, rounded; groups with a reason stay dense."""
    return [
        group.width if group.reason else rounded(group.width * (1 - ratio), group.width, group.step(round_to))
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
                else rounded(int((score >= threshold).sum()), group.width, group.step(round_to))
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
    least = [group.step(round_to) for group in groups]
    steps = [
        (index, sign * least[index])
        for index, group in enumerate(groups)
        if not group.reason and group.width > least[index]
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
                    candidate[index] = (
                        min(new, groups[index].width) if new >= least[index] else candidate[index]
                    )
                candidates.append(with_floors(candidate))
            nearest = min(candidates, key=distance, default=widths)
            if distance(nearest) < distance(widths):
                break
        if distance(nearest) >= distance(widths):  # strictly closer each time, or the loop might not end
            break
        widths = nearest
    return widths


class Costs:
    """The cost of a network in MACs or parameters as a function of the width of every group."""

    def __init__(
        self, model: nn.Module, groups: Sequence[Group], coupling: Coupling, example_input: Tensor, unit: str
    ) -> None:
        """Measure the dense network.

        Args:
            unit: `MACs`, for one input, or `parameters`.
        """
        self.unit, self.groups = unit, groups
        nothing = removal(model, coupling, ())
        macs = count_macs(model, example_input) if unit == "MACs" else None
        number = torch.full((coupling.units.count,), len(groups))
        for index, group in enumerate(groups):
            number[group.units] = index
        removable = ~coupling.mask(coupling.held)
        shares, costs = [], []
        for name, parameter in model.named_parameters():
            layers = coupling.layers.get(name, ())
            cost = macs.by_parameter.get(parameter, 0) if macs else parameter.numel()
            if cost and layers:
                cuttable = removable | bool(nothing.owners(name))
                shares.append([_shares(ids, number, cuttable, coupling, groups) for ids in layers])
                costs.append(float(cost))
        self._shares = torch.zeros(
            len(shares), max(map(len, shares), default=1), len(groups), dtype=torch.float64
        )
        for row, each in enumerate(shares):
            for column, share in enumerate(each):
                self._shares[row, column] = share
        self._costs = torch.tensor(costs, dtype=torch.float64)
        self.dense = float(macs.total if macs else sum(p.numel() for p in model.parameters()))
        # What no group changes, such as attention's products of activations.
        self.fixed = self.dense - float(self._costs.sum())

    def of(self, widths: Widths) -> float:
        """The cost of the network with these widths."""
        removed = torch.tensor(
            [group.width - width for group, width in zip(self.groups, widths, strict=True)]
        )
        kept = 1 - (self._shares * removed).sum(2)
        return self.fixed + float((self._costs * kept.prod(1)).sum())


def _shares(
    ids: Tensor, number: Tensor, cuttable: Tensor, coupling: Coupling, groups: Sequence[Group]
) -> Tensor:
    """The share of a parameter's positions along some dimensions that one unit of each group has."""
    flat = shrink(ids).reshape(-1)
    counts = number[coupling.labels[flat]][cuttable[flat]].bincount(minlength=len(groups) + 1)[: len(groups)]
    return counts.double() / len(flat) / torch.tensor([float(group.width) for group in groups])
