"""The width of each group of channels after pruning: by one ratio, or by a budget.

A budget is a target for any measure of the widths: MACs, parameters (`costs`) or what else depends on
them alone. Groups compete by the scores of their channels; `surgery` chooses and removes the channels
themselves.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from akgp.pruning.amount import TOLERANCE
from akgp.pruning.bounds import Bound
from akgp.pruning.coupling.groups import Group
from akgp.timed_search import ended

Widths = list[int]

COMBINATIONS = 4096
"""Most combinations of widths that are all tried for a budget that is not met otherwise."""


class Measure(Protocol):
    """What a budget limits, as a function of the width of every group; wider never costs less.

    Attributes:
        dense: that of the whole network.
    """

    dense: float

    def of(self, widths: Widths) -> float: ...


def ratio_widths(bounds: Sequence[Bound], dense: Sequence[int], ratio: float) -> Widths:
    """(1 − ratio) of each group's dense width, or the nearest that it may have."""
    return [bound.nearest(width * (1 - ratio)) for bound, width in zip(bounds, dense, strict=True)]


def per_cost(scores: Sequence[Tensor], bounds: Sequence[Bound], measure: Measure) -> list[Tensor]:
    """Scores by what a channel of the group costs, the mean between its dense and its least width.

    Where a score is a change of the loss, a threshold on these spends the budget where it saves most loss,
    the rule of thumb of a knapsack; as they are, many cheap channels would go for a few costly ones.
    """
    dense = [bound.dense for bound in bounds]
    whole, weighed = measure.of(dense), []
    for index, (each, bound) in enumerate(zip(scores, bounds, strict=True)):
        narrow = [*dense[:index], bound.low, *dense[index + 1 :]]
        saved = (whole - measure.of(narrow)) / max(bound.dense - bound.low, 1)
        # A group that cannot be narrower, or whose channels cost nothing, has no say.
        weighed.append(each / saved * whole if saved > 0 else torch.full_like(each, float("inf")))
    return weighed


def budget_widths(
    scores: Sequence[Tensor],
    bounds: Sequence[Bound],
    measure: Measure,
    target: float,
    floors: Mapping[int, int],
    tolerance: float = TOLERANCE,
    may_stay: bool = False,
) -> Widths:
    """Widths that measure `target` within `tolerance`, a share of it, or the nearest that the search meets.

    Channels with scores below one common threshold are removed and widths are rounded; bisection gives the
    threshold. Where rounding leaves the measure outside of the tolerance, single groups, then pairs of
    groups, are widened or narrowed by a step, greedily by how close it comes to the target. Where that
    fails too and there are few combinations of widths, all are tried. The network as it is is no answer,
    unless it `may_stay` or no group can be narrowed.

    Args:
        scores: [width] for each group, comparable between groups.
        floors: index of a group -> index of the group that it must be at least as wide as.
    """
    given = [bound.dense for bound in bounds]

    def widths_at(threshold: float) -> Widths:
        kept = [int((score >= threshold).sum()) for score in scores]
        return with_floors(
            [bound.nearest(width) for bound, width in zip(bounds, kept, strict=True)], bounds, floors
        )

    def distance(widths: Widths) -> float:
        return abs(measure.of(widths) - target) if may_stay or widths != given else float("inf")

    least = narrowest(bounds, floors)
    if measure.of(least) >= target and distance(least) < float("inf"):
        return least
    thresholds = torch.cat(list(scores)).unique().tolist() if scores else [0.0]
    low, high = 0, len(thresholds) - 1
    # The lowest threshold that costs no more than the target: a higher one never widens a group, so that
    # the cost falls along the sorted scores.
    while low < high:
        middle = (low + high) // 2
        over = measure.of(widths_at(thresholds[middle])) > target
        low, high = (middle + 1, high) if over else (low, middle)
    # Rounded widths jump from one threshold to the next: the one just over the target may be nearer.
    around = (widths_at(thresholds[max(low - 1, 0)]), widths_at(thresholds[low]), least)
    widths = _adjusted(min(around, key=distance), bounds, distance, tolerance * target, floors)
    if distance(widths) <= tolerance * target or ended():
        return widths
    return min((widths, *_combinations(bounds, floors)), key=distance)


def narrowest(bounds: Sequence[Bound], floors: Mapping[int, int]) -> Widths:
    """The least width of every group."""
    return with_floors([bound.low for bound in bounds], bounds, floors)


def with_floors(widths: Widths, bounds: Sequence[Bound], floors: Mapping[int, int]) -> Widths:
    """`widths`, each group as wide as `floors` asks; where it may not be so wide, the other is narrower."""
    for group, other in floors.items():
        if bounds[group].high < bounds[group].dense:
            widths[other] = max(min(widths[other], bounds[group].high), bounds[other].low)
        widths[group] = max(widths[group], min(widths[other], bounds[group].dense))
    return widths


def _combinations(bounds: Sequence[Bound], floors: Mapping[int, int]) -> Iterator[Widths]:
    """All combinations of widths; none if there are more than COMBINATIONS."""
    allowed = [sorted({bound.low, bound.high, *range(bound.low, bound.high, bound.step)}) for bound in bounds]
    if math.prod(map(len, allowed)) <= COMBINATIONS:
        for widths in itertools.product(*allowed):
            yield with_floors(list(widths), bounds, floors)


def why_missed(
    widths: Widths,
    groups: Sequence[Group],
    bounds: Sequence[Bound],
    measure: Measure,
    target: float,
    floors: Mapping[int, int],
    round_to: int,
) -> str | None:
    """Why no nearer widths were reached; None if they measure `target` within 2 %."""
    if abs(measure.of(widths) / target - 1) <= TOLERANCE:
        return None
    least = measure.of(narrowest(bounds, floors))
    reasons = ["every layer has its least width"] if target < least else []
    if limit := ended():
        reasons.append(limit)
    reasons.append(f"widths are multiples of {round_to} (round_to)")
    ruled = Counter(bound.rule for bound in bounds if bound.rule)
    if ruled:
        reasons.append(f"{ruled.total()} groups of layers are bound by {', '.join(map(str, ruled))}")
    dense = Counter(group.reason for group in groups if group.reason)
    if dense:
        named = "; ".join(f"{number}: {reason}" for reason, number in dense.most_common(2))
        reasons.append(f"{dense.total()} of {len(groups)} groups of layers stay dense ({named})")
    return ", ".join(reasons)


def _adjusted(
    widths: Widths,
    bounds: Sequence[Bound],
    distance: Callable[[Widths], float],
    tolerance: float,
    floors: Mapping[int, int],
) -> Widths:
    """Change single groups, or pairs where that doesn't help, by a step until `distance` <= `tolerance`.

    Ends where no such change comes closer, so possibly outside of the tolerance.
    """
    steps = [
        (index, move)
        for index, bound in enumerate(bounds)
        if bound.low < bound.high
        for move in (bound.narrower, bound.wider)
    ]
    while distance(widths) > tolerance and not ended():
        nearest = widths
        # Pairs reach costs between those of single steps: a costly group narrower, a cheap one wider.
        for size in (1, 2):
            candidates = []
            for moves in itertools.combinations(steps, size):
                if size > 1 and ended():
                    break
                candidate = list(widths)
                for index, move in moves:
                    candidate[index] = move(candidate[index])
                candidates.append(with_floors(candidate, bounds, floors))
            nearest = min(candidates, key=distance, default=widths)
            if distance(nearest) < distance(widths):
                break
        if distance(nearest) >= distance(widths):  # strictly closer each time, or the loop might not end
            break
        widths = nearest
    return widths
